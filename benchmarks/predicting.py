"""How fast does a network answer, as it is and as the programs that an export makes of it?

Times the network itself (eager, the way that Predictor goes), its program of torch.export as loaded, and its ONNX file
in ONNX Runtime, side by side in one run: they take turns, so that a noisy machine hits all of them alike. A call takes
clips of 40 x 60 pixels in degrees Celsius from the CPU, and ends when logits are on the CPU again: copies to and from a
GPU count, reading files does not. A recording is cut into clips around a keyframe every 16 frames, 32 clips at most at
once. The network is freshly built: time does not depend on weights. Programs are in fp32; the gpu preset's network is
timed in bf16 as well, as it is trained.

Run       python benchmarks/predicting.py
GPU       python benchmarks/predicting.py --preset gpu        (without a GPU one clip at a time, and no recordings)
Cost      1 minute on two cores
Expected  laptop preset on two CPU cores (AMD EPYC): every way a clip in 5 to 20 ms, where 100 were promised; ONNX
          Runtime about twice as fast as eager with one clip, no faster with 32; torch.export somewhat slower than eager
"""

import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

import onnxruntime
import rich
import torch
import tyro
from rich.table import Table
from trainings import machine

from slowfast_ray.data import augment, clips
from slowfast_ray.experiment import Experiment
from slowfast_ray.learning import loop
from slowfast_ray.model import slowfast
from slowfast_ray.model.slowfast import SlowFast
from slowfast_ray.running.flags import PRESETS
from slowfast_ray.running.publishing import exported_programs, latency
from slowfast_ray.running.publishing.exported_programs import FromFrames, Way
from slowfast_ray.running.publishing.latency import Latency

SENSOR = (40, 60)
"""Height and width of a frame [pixels]."""
NUM_CLASSES = 8
KEYFRAME_EVERY = 16
"""Of a recording [frames]."""
MAX_BATCH = 32
PROMISE_MS = 100
"""What the earlier system promised for a clip; nobody measured it here."""
EAGER = "eager"


@dataclass(frozen=True, kw_only=True)
class Flags:
    """What is timed, and how long."""

    preset: Literal["laptop", "gpu"] = field(default_factory=lambda: "gpu" if torch.cuda.is_available() else "laptop")
    """laptop: quarter width, 32 frames of 40 x 60; gpu: R50, 32 frames of 256 x 384. Without the flag, gpu where there
    is one."""

    threads: int = 2
    """Threads of torch and of ONNX Runtime on the CPU [count]."""

    seconds: float = 20.0
    """To time each number of clips, about [s]; two turns at least."""

    num_frames: int = 400
    """Of a recording; 400 are 68 seconds of the sensor [frames]."""


@dataclass(frozen=True)
class Row:
    """Some clips, computed in every way."""

    what: str
    num_clips: int
    latencies: dict[str, Latency]


def predictor_way(model: SlowFast, experiment: Experiment, device: torch.device) -> Way:
    """The network as Predictor computes it, in the experiment's precision."""

    def logits_of(frames_BTHW: torch.Tensor) -> torch.Tensor:
        clip_B1THW = augment.prepare(frames_BTHW.to(device)[:, None], experiment.data)
        return loop.logits_of(model, clip_B1THW, experiment.learning).cpu()

    return logits_of


def ways_of(experiment: Experiment, device: torch.device, num_threads: int) -> dict[str, Way]:
    """Every way to compute a freshly built network, by its name."""
    model = slowfast.build(experiment.model).eval()
    network = FromFrames(model, experiment.data).eval()
    with tempfile.TemporaryDirectory(prefix="predicting-", dir="/tmp") as name:
        folder = Path(name)
        exported_programs.write(network, (experiment.data.clip_len, *SENSOR), folder)
        pt2 = exported_programs.open_pt2(folder / exported_programs.PT2, device)
        onnx = exported_programs.open_onnx(folder / exported_programs.ONNX, device, num_threads)
    model.to(device)
    in_fp32 = replace(experiment, learning=replace(experiment.learning, precision="fp32"))
    precision = experiment.learning.precision
    provider = exported_programs.onnx_providers(device)[0].removesuffix("ExecutionProvider")
    return {
        EAGER: predictor_way(model, in_fp32, device),
        **({} if precision == "fp32" else {f"{EAGER}, {precision}": predictor_way(model, experiment, device)}),
        "torch.export": pt2,
        f"ONNX Runtime, {provider}": onnx,
    }


def whole_recording(way: Way, frames_NHW: torch.Tensor, keyframes_S: torch.Tensor, experiment: Experiment) -> None:
    """Cuts a recording into its clips, and computes all of them."""
    firsts_S, lasts_S = torch.zeros_like(keyframes_S), torch.full_like(keyframes_S, len(frames_NHW) - 1)
    indices_ST = clips.of_config(keyframes_S, firsts_S, lasts_S, None, experiment.data)
    for indices_BT in indices_ST.split(MAX_BATCH):
        way(clips.gather(frames_NHW, indices_BT)[:, 0])


def measure(flags: Flags, device: torch.device) -> list[Row]:
    """One clip, a batch of them, and a recording."""
    experiment = PRESETS[flags.preset].override({"model.num_classes": NUM_CLASSES})
    ways = ways_of(experiment, device, flags.threads)
    frames_NHW = 10 + 25 * torch.rand(max(flags.num_frames, MAX_BATCH * experiment.data.clip_len), *SENSOR)
    keyframes_S = torch.arange(KEYFRAME_EVERY // 2, flags.num_frames, KEYFRAME_EVERY)

    def row(what: str, num_clips: int, call_of: Callable[[Way], Callable[[], object]]) -> Row:
        calls = {name: call_of(way) for name, way in ways.items()}
        return Row(what, num_clips, latency.measure(calls, seconds=flags.seconds))

    is_slow = flags.preset == "gpu" and device.type == "cpu"
    rows = []
    for size in (1,) if is_slow else (1, MAX_BATCH):
        frames_BTHW = frames_NHW[: size * experiment.data.clip_len].view(size, -1, *SENSOR)
        rows.append(row(f"{size} clip(s)", size, lambda way, batch=frames_BTHW: partial(way, batch)))
    if not is_slow:
        given = (frames_NHW[: flags.num_frames], keyframes_S, experiment)
        what = f"recording, {len(keyframes_S)} clips"
        rows.append(row(what, len(keyframes_S), lambda way: partial(whole_recording, way, *given)))
    return rows


def main() -> None:
    """Measures and prints one table."""
    flags = tyro.cli(Flags, description=__doc__)
    torch.set_num_threads(flags.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    load = os.getloadavg()[0]
    rows = measure(flags, device)
    table = Table(title=f"Time to answer, {flags.preset} preset")
    for column in ("at once", "way", "p50 ms", "p95 ms", "n", "p50 ms a clip", "a second", "times as fast as eager"):
        table.add_column(column, justify="left" if column in ("at once", "way") else "right")
    for row in rows:
        if row.num_clips == 1:
            table.add_row("1 clip(s)", "earlier system's promise", str(PROMISE_MS), "", "", str(PROMISE_MS), "", "")
        eager_ms = row.latencies[EAGER].p50_ms
        for name, each in row.latencies.items():
            done = 1 if row.what.startswith("recording") else row.num_clips
            unit = "recordings" if row.what.startswith("recording") else "clips"
            table.add_row(
                row.what,
                name,
                f"{each.p50_ms:.1f}",
                f"{each.p95_ms:.1f}",
                str(each.num_calls),
                f"{each.p50_ms / row.num_clips:.1f}",
                f"{done * 1000 / each.p50_ms:.1f} {unit}",
                f"{eager_ms / each.p50_ms:.2f}",
            )
        table.add_section()
    rich.print(table)
    print(
        f"n calls of each way, in turns; ratios of medians. {flags.threads} thread(s) of torch and of ONNX Runtime; "
        f"weights freshly built; load of the machine before it began: {load:.1f}.\n"
        f"Python {platform.python_version()}, onnxruntime {onnxruntime.__version__}, "
        f"at {time.strftime('%H:%M')}; {machine()}"
    )


if __name__ == "__main__":
    main()
