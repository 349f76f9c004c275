"""Where the frames of a recording lie on the horizontal axis of its picture: by the clock, gaps included.

Legend: N frames of the recording.
"""

from dataclasses import dataclass

import numpy as np

from slowfast_ray.data.config import DataConfig
from slowfast_ray.data.recordings import Recording
from slowfast_ray.running.predictions import stretches


@dataclass(frozen=True)
class Axis:
    """Where frames lie on the horizontal axis: in seconds since the recording began, or by their numbers."""

    positions_N: np.ndarray
    """float64: beginning of each frame; one more for the end of the last one."""
    gaps: np.ndarray
    """int64: frames after which there is a gap."""
    since_ms: int | None
    """When the recording began; None where frames are counted."""

    @staticmethod
    def of(recording: Recording, config: DataConfig) -> "Axis":
        """Of a recording, by its times where they are known."""
        times_N = stretches.ascending_times(recording)
        if times_N is None:
            return Axis(np.arange(len(recording.frames_NHW) + 1.0), stretches.gaps(None, config), None)
        ends = np.append(times_N, times_N[-1] + stretches.pace_ms(times_N))
        return Axis((ends - ends[0]) / 1000, stretches.gaps(times_N, config), int(times_N[0]))

    @property
    def length(self) -> float:
        """Of the whole recording."""
        return float(self.positions_N[-1])

    def span(self, first: int, last: int) -> tuple[float, float]:
        """From the beginning of a frame to that of the one behind another; a frame before a gap has no length."""
        end = last if last in self.gaps else last + 1
        return float(self.positions_N[first]), float(self.positions_N[end])

    def frame_at(self, position: float) -> int | None:
        """The frame that is shown at a position; None within a gap."""
        frame = int(
            np.clip(np.searchsorted(self.positions_N, position, side="right") - 1, 0, len(self.positions_N) - 2)
        )
        return None if frame in self.gaps else frame


def clock(seconds: float) -> str:
    """Seconds for people: 1:05, or 2:01:05 from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
