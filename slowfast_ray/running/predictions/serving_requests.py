"""What a sensor sends over HTTP, read and checked: clips as JSON, or as a .npy file, which is faster.

Nothing is unpickled, no path is opened, and what a request may cost is bounded before anything is computed.

Shapes: N clips, T frames given for a clip, H and W height and width as recorded.
"""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from slowfast_ray.running.predicting import Predictor
from slowfast_ray.running.predictions import prediction_input

MAX_BODY_MB = 32
"""A clip of 64 frames of 40 x 60 pixels is 1 MB of JSON, and 0.6 MB of .npy."""
MAX_CLIPS = 64
"""Of a request. A clip costs the same work, however few its frames and pixels are."""
MAX_FRAMES = 512
"""Of a clip: 32 frames, every 16th; frames of another size than the network's are all resized."""
NPY = "application/octet-stream"
"""Content type of a .npy file."""

_FIELDS = ("frames", "timestamps", "box")
_ASKED = "send `frames` in degrees Celsius as lists [frames][height][width]"


@dataclass(frozen=True)
class Clip:
    """A clip as it came, checked as far as it can be on its own."""

    frames_THW: np.ndarray
    """float32 in degrees Celsius, finite."""
    times_T: np.ndarray | None
    """In milliseconds."""
    box: np.ndarray | None
    """[4] or, one for each frame, [T, 4]: centre x, y, width and height, as fractions of the frame."""

    @property
    def kind(self) -> tuple[tuple[int, ...], bool, tuple[int, ...] | None]:
        """Clips of one kind can be computed at once."""
        return self.frames_THW.shape, self.times_T is None, None if self.box is None else self.box.shape


@dataclass(frozen=True)
class Asked:
    """The clips of a request."""

    clips: list[Clip]
    is_list: bool
    """Whether they came as several, so that answers go back as a list."""

    def place(self, number: int) -> str:
        """For a message: which of several clips."""
        return f"Clip {number}: " if self.is_list else ""


def read(body: bytes, content_type: str, predictor: Predictor) -> Asked:
    """The clips in the body of a request: a .npy file where `content_type` is NPY, else JSON. Raises ValueError for
    all that is not understood, and for what the network of `predictor` needs and was not given.
    """
    is_npy = content_type.partition(";")[0].strip().lower() == NPY
    given = _npy(body) if is_npy else _json(body)
    is_list = given.ndim == 4 if isinstance(given, np.ndarray) else isinstance(given, list)
    values = list(given) if is_list else [given]
    if not 0 < len(values) <= MAX_CLIPS:
        raise ValueError(f"A request holds 1 to {MAX_CLIPS} clips, but this one {len(values)}; send several requests.")
    asked = Asked([], is_list)
    for number, value in enumerate(values):
        try:
            asked.clips.append(_clip({"frames": value} if is_npy else value, predictor))
        except ValueError as error:
            raise ValueError(asked.place(number) + str(error)) from error
    return asked


def _json(body: bytes) -> Any:
    try:
        # A whole number means degrees, as 20.0 does; NaN and Infinity become floats, and are refused as such.
        return json.loads(body, parse_int=float)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"The body is no JSON ({error}); {_ASKED}.") from error


def _npy(body: bytes) -> np.ndarray:
    """A view of the array in a .npy file, which takes no memory beside the body's, whatever its header says."""
    file = io.BytesIO(body)
    try:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError("not version 1.0 of the format")
        shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
        array = np.frombuffer(body, dtype, offset=file.tell()).reshape(shape, order="F" if is_fortran else "C")
    except Exception as error:  # NumPy reads a header as Python, and fails in many ways
        raise ValueError(f"The body is no .npy file ({error}); send what numpy.save writes.") from error
    if array.ndim not in (3, 4):
        raise ValueError(
            "The array must have the shape [frames, height, width], or [clips, frames, height, width], but has "
            f"{list(array.shape)}."
        )
    return array


def _clip(value: Any, predictor: Predictor) -> Clip:
    if not isinstance(value, Mapping):
        raise ValueError(f"A clip must be a JSON object; {_ASKED}.")
    unknown = sorted(set(value) - set(_FIELDS))
    if unknown:
        raise ValueError(f"A clip knows no `{unknown[0][:40]}`, only {', '.join(_FIELDS)}.")
    frames_THW = _array("frames", value.get("frames"))
    if frames_THW is None:
        raise ValueError(f"`frames` is missing; {_ASKED}.")
    if frames_THW.ndim != 3:
        raise ValueError(f"`frames` must have the shape [frames, height, width], but has {list(frames_THW.shape)}.")
    if len(frames_THW) > MAX_FRAMES:
        raise ValueError(f"A clip has {MAX_FRAMES} frames or fewer, but this one {len(frames_THW)}; cut it shorter.")
    times_T, box = _array("timestamps", value.get("timestamps")), _array("box", value.get("box"))
    if times_T is not None and times_T.shape != frames_THW.shape[:1]:
        raise ValueError(
            f"`timestamps` must hold a number for each of the {len(frames_THW)} frames, in milliseconds, but has the "
            f"shape {list(times_T.shape)}."
        )
    if box is not None and box.shape not in ((4,), (len(frames_THW), 4)):
        raise ValueError(
            "`box` must be centre x, y, width and height, or these for each frame, but has the shape "
            f"{list(box.shape)}."
        )
    _check_needs(times_T, box, predictor)
    return Clip(prediction_input.frames(frames_THW[None])[0], times_T, box)


def _check_needs(times_T: np.ndarray | None, box: np.ndarray | None, predictor: Predictor) -> None:
    interval_ms = predictor.experiment.data.frame_interval_ms
    if interval_ms is not None and times_T is None:
        raise ValueError(
            f"`timestamps` is missing, and this model takes a frame every {interval_ms:g} ms; send the time of every "
            "frame in milliseconds."
        )
    if predictor.looks_at_people and box is None:
        raise ValueError(
            "`box` is missing, and this model looks at one person at a time; send centre x, y, width and height as "
            "fractions of the frame."
        )
    if box is not None and not predictor.looks_at_people:
        raise ValueError("This model looks at whole frames; leave out `box`.")


def _array(name: str, value: Any) -> np.ndarray | None:
    """None where there is none."""
    if value is None:
        return None
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"`{name}` must be one array, but its lists differ in length.") from error
    if array.dtype.kind not in "iuf":
        raise ValueError(f"`{name}` must hold numbers only: no text, true, false, null or objects.")
    return array
