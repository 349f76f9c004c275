"""A registered model's answer as a table: from whatever people hand to it to a row for each clip, or each window.

Three things may be handed over: clips, as an array; clips with the times of their frames or with boxes, as a mapping or
a table; recordings, by their paths.

Shapes: S clips, T frames given for a clip, H and W height and width as recorded, K classes.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from slowfast_ray.running.predicting import Predictor
from slowfast_ray.running.predictions import windows

FIELDS = ("frames", "timestamps", "boxes")
"""Names in a mapping or a table: degrees Celsius [S, T, H, W]; milliseconds [S, T]; fractions of the frame [S, 4] or
[S, T, 4]."""
PROBABILITIES = "probabilities"
"""Column with the probability of every class, by its name."""

_ASKED = (
    "give frames in degrees Celsius as an array [clips, frames, height, width]; or a mapping with `frames` and, where "
    "the model needs them, `timestamps` [clips, frames] and `boxes` [clips, 4] or [clips, frames, 4]; or paths of "
    "recordings, alone or in a list"
)


def of(predictor: Predictor, given: Any, *, is_served: bool = False) -> pd.DataFrame:
    """What the network says of `given`: clips, or paths of recordings, whose windows come one below the other.

    Columns: class and probability (the most likely), top3 and top3_probabilities (lists, the most likely first),
    probabilities (of every class, by its name), note (what was padded, repaired, resized; empty where nothing). Rows of
    recordings begin with the recording and the window, as windows.of_recording says them.

    `is_served` says that `given` came over a network: paths are refused then, and whole numbers are degrees, since
    JSON knows one kind of number only. Raises ValueError or OSError for anything else, with what is wrong.
    """
    paths = _paths(given)
    if paths is not None:
        if is_served:
            raise ValueError(
                "A served model opens no files, whoever asks for it; send `frames` instead of a path, or load the "
                "model by mlflow.pyfunc.load_model where the recordings lie."
            )
        return _of_recordings(predictor, paths)
    found = _fields(given)
    frames_STHW = found["frames"]
    if is_served and frames_STHW.dtype.kind in "iu":
        found["frames"] = frames_STHW.astype(np.float64)
    return _of_clips(predictor, found)


def _of_clips(predictor: Predictor, found: Mapping[str, np.ndarray]) -> pd.DataFrame:
    answer = predictor.of_clips(found["frames"], found.get("timestamps"), found.get("boxes"))
    if not answer.logits_SK.isfinite().all():
        raise ValueError("`frames` holds temperatures that no network can compute with: check their unit.")
    probabilities_SK = predictor.probabilities_SK(answer.logits_SK).numpy()
    columns = {
        **windows.columns_of_best(predictor.classes, probabilities_SK),
        PROBABILITIES: [dict(zip(predictor.classes, row, strict=True)) for row in probabilities_SK.tolist()],
        "note": list(answer.notes_S),
    }
    return pd.DataFrame(columns)


def _of_recordings(predictor: Predictor, paths: Sequence[Path]) -> pd.DataFrame:
    if not paths:
        raise ValueError(f"There is no path in it; {_ASKED}.")
    rows = pd.concat([windows.of_recording(predictor, path) for path in paths], ignore_index=True)
    named = [f"{windows.PROBABILITY_OF}{name}" for name in predictor.classes]
    each_S = [dict(zip(predictor.classes, row, strict=True)) for row in rows[named].to_numpy().tolist()]
    rows = rows.drop(columns=named)
    rows.insert(len(rows.columns) - 1, PROBABILITIES, each_S)
    return rows


def _paths(given: Any) -> list[Path] | None:
    """The paths in `given`; None where it holds something else."""
    if isinstance(given, str | os.PathLike):
        given = [given]
    if isinstance(given, pd.DataFrame):
        given = given.iloc[:, 0] if len(given.columns) == 1 else []
    if isinstance(given, np.ndarray | pd.Series):
        given = np.asarray(given, dtype=object).ravel().tolist() if given.dtype.kind not in "biufc" else []
    if not isinstance(given, list | tuple) or not given or not all(isinstance(e, str | os.PathLike) for e in given):
        return None
    if not all(os.fspath(each) for each in given):
        raise ValueError(f"A path of a recording must not be empty; {_ASKED}.")
    return [Path(each) for each in given]


def _fields(given: Any) -> dict[str, np.ndarray]:
    """The arrays in `given`, by FIELDS; `frames` is among them."""
    if isinstance(given, pd.DataFrame):
        given = {str(name): given[name].tolist() for name in given.columns}
    elif not isinstance(given, Mapping):
        given = {"frames": given}
    unknown = [str(name) for name in given if name not in FIELDS]
    if unknown or given.get("frames") is None:
        shown = f"it knows no `{', '.join(unknown)}`" if unknown else "`frames` is missing"
        raise ValueError(f"The model does not understand what it was given: {shown}; {_ASKED}.")
    return {name: _array(name, value) for name, value in given.items() if value is not None}


def _array(name: str, value: Any) -> np.ndarray:
    try:
        array = np.asarray(value)
    except ValueError as error:  # lists of unequal lengths
        raise ValueError(
            f"`{name}` must be one array, but its parts differ in shape: clips of other lengths or sizes go into calls "
            "of their own."
        ) from error
    if array.dtype.kind not in "biuf":
        kind = type(value).__name__ if array.ndim == 0 else str(array.dtype)
        raise ValueError(f"`{name}` must hold numbers, but is {kind}; {_ASKED}.")
    return array
