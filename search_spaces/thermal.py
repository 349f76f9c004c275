"""Which learning rate, batch and clip suit the thermal sensor?

The ranges hold the starting points of both presets. Frames come every 170 ms on average, so that a clip of 16 frames at
interval 1 spans about 3 s and one of 48 at interval 3 about 24 s.
"""

from typing import Any

from ray import tune

THERMAL: dict[str, Any] = {
    "learning.lr": tune.loguniform(0.003, 0.3),
    "learning.batch_size": tune.choice([4, 8, 16]),
    "data.clip_len": tune.choice([16, 32, 48]),  # multiples of alpha = 8
    "data.frame_interval": tune.choice([1, 2, 3]),
}

THERMAL_MS: dict[str, Any] = {
    **{name: domain for name, domain in THERMAL.items() if name != "data.frame_interval"},
    "data.frame_interval_ms": tune.choice([100.0, 170.0, 250.0, 340.0, 500.0]),
}
"""The same for clips by the clock."""
