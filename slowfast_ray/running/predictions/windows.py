"""A network on whole recordings: windows that slide over all frames, a row of a table for each.

A recording is cut into stretches of `every` frames, the last one shorter, and each frame lies in exactly one
(stretches.py). The clip around the middle of a stretch says what happens in it. By default a stretch is half the clip's
window: then every frame is seen by two clips, and what one cuts off at its end lies well inside another; half that step
would cost twice as much. No stretch and no smoothing reaches over a gap of the recording.

Shapes: S windows, one person after the other, N frames of the recording, K classes.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.ndimage import correlate1d

from slowfast_ray.data import clips, labels, recordings, tracks
from slowfast_ray.data.annotations import Image
from slowfast_ray.data.clips import Clock
from slowfast_ray.data.labels import Sample
from slowfast_ray.data.recordings import Recording
from slowfast_ray.running.predicting import Predictor
from slowfast_ray.running.predictions import stretches

PROBABILITY_OF = "p_"
"""Columns of the classes' probabilities begin with it: p_standing."""
NUM_TOP = 3
NO_BOX = "no box within the clip"
"""Note of a row where the person's nearest box lies outside the clip: where they are then is a guess."""


def check(*, every: int | None, smooth: int | None) -> None:
    """Raises ValueError for a step or a smoothing that cannot be."""
    if every is not None and every < 1:
        raise ValueError(f"`every` (={every}) is a step in frames, 1 or more; leave it out for half the clip's window.")
    if smooth is not None and (smooth < 1 or smooth % 2 == 0):
        raise ValueError(
            f"`smooth` (={smooth}) counts windows with one in the middle, an odd number of 1 or more; try "
            f"{max(smooth + 1, 3)}."
        )


def of_recording(
    predictor: Predictor,
    path: Path,
    *,
    every: int | None = None,
    smooth: int | None = None,
    images: Sequence[Image] = (),
    on_batch: Callable[[int], None] = lambda _: None,
) -> pd.DataFrame:
    """What the network says of the recording at `path`, as `of_frames` does; raises what recordings.read raises too."""
    return of_frames(predictor, recordings.read(path), every=every, smooth=smooth, images=images, on_batch=on_batch)


def of_frames(
    predictor: Predictor,
    recording: Recording,
    *,
    every: int | None = None,
    smooth: int | None = None,
    images: Sequence[Image] = (),
    on_batch: Callable[[int], None] = lambda _: None,
) -> pd.DataFrame:
    """A row for each window, in the order of time; where the network looks at people, for each person and window.

    `every` is the step between windows [frames], by default half the clip's window. `smooth` averages the probabilities
    over so many windows, centred (an odd number; fewer at the ends and beside gaps). `images` are annotations: boxes in
    them say where people are, for a network that looks at people. `on_batch` hears how many windows are done.

    Columns: recording; person (the object_id as text, only where the network looks at people); start_ms, end_ms (times
    of the first and the last frame that the row stands for; null where they are unknown or run backwards); start_frame,
    end_frame, keyframe (the middle of the clip); class, probability (the most likely one); top3, top3_probabilities
    (lists); p_NAME (the probability of each class); note (what of the clip was not in the recording: padded, resized,
    gap; or that its unit seems another; empty where nothing).

    Raises ValueError for impossible steps, and where the recording lacks the times or boxes that the network needs.
    """
    check(every=every, smooth=smooth)
    config, times_N = predictor.experiment.data, stretches.ascending_times(recording)
    found = stretches.cut(len(recording.frames_NHW), times_N, config, every)
    people, samples = _people(predictor, recording, found.keyframes_S, images)
    num_rows, num_people = len(found.firsts_S), len(people)
    firsts_S, lasts_S, keyframes_S = (
        np.tile(each, num_people) for each in (found.firsts_S, found.lasts_S, found.keyframes_S)
    )
    followed = tracks.build(samples, images) if predictor.looks_at_people else None
    answer = predictor.of_recording(recording, torch.from_numpy(keyframes_S), followed, on_batch)
    probabilities_SK = predictor.probabilities_SK(answer.logits_SK).numpy()
    if smooth is not None:
        # Nobody is smoothed into the next person.
        parts_S = np.concatenate([found.parts_S + person * num_rows for person in range(num_people)])
        probabilities_SK = smoothed(probabilities_SK, parts_S, smooth)
    backwards = "timestamps run backwards" if times_N is None and recording.times_N is not None else ""
    notes = zip(answer.notes_S, *_notes(predictor, recording, keyframes_S, times_N, samples), strict=True)
    unknown = pd.array([None] * len(firsts_S), dtype="Int64")
    columns: dict[str, object] = {
        "recording": [recording.id] * len(firsts_S),
        **({"person": [person for person in people for _ in range(num_rows)]} if predictor.looks_at_people else {}),
        "start_ms": unknown if times_N is None else pd.array(times_N[firsts_S], dtype="Int64"),
        "end_ms": unknown if times_N is None else pd.array(times_N[lasts_S], dtype="Int64"),
        "start_frame": firsts_S,
        "end_frame": lasts_S,
        "keyframe": keyframes_S,
        **columns_of_best(predictor.classes, probabilities_SK),
        **{f"{PROBABILITY_OF}{name}": probabilities_SK[:, k] for k, name in enumerate(predictor.classes)},
        "note": ["; ".join(filter(None, (*each, backwards))) for each in notes],
    }
    return pd.DataFrame(columns)


def columns_of_best(classes: Sequence[str], probabilities_SK: np.ndarray) -> dict[str, list[Any]]:
    """The most likely class of each row, and the NUM_TOP most likely ones, with their probabilities."""
    order_SK = np.argsort(-probabilities_SK, axis=1, kind="stable")[:, :NUM_TOP]
    names_S = [[classes[k] for k in row] for row in order_SK]
    best_S = np.take_along_axis(probabilities_SK, order_SK, axis=1).tolist()
    return {
        "class": [row[0] for row in names_S],
        "probability": [row[0] for row in best_S],
        "top3": names_S,
        "top3_probabilities": best_S,
    }


def smoothed(probabilities_SK: np.ndarray, parts_S: np.ndarray, num_windows: int) -> np.ndarray:
    """float64 [S, K]: the centred moving average over `num_windows` rows (odd) of the same part (int64 [S]), or over
    those that there are where fewer are left.
    """
    smooth_SK = np.empty_like(probabilities_SK)
    weights = np.ones(num_windows)
    for part in np.unique(parts_S):
        is_here_S = parts_S == part
        sums = correlate1d(probabilities_SK[is_here_S], weights, axis=0, mode="constant")
        numbers = correlate1d(np.ones(int(is_here_S.sum())), weights, mode="constant")
        smooth_SK[is_here_S] = sums / numbers[:, None]
    return smooth_SK


def _people(
    predictor: Predictor, recording: Recording, keyframes: np.ndarray, images: Sequence[Image]
) -> tuple[list[str], list[Sample]]:
    """Who is looked at, and for each of them and each window a sample with the nearest box; nobody in whole frames."""
    if not predictor.looks_at_people:
        return [""], []
    labelled = labels.apply([each for each in images if each.recording == recording.id], "person", "lowest", [])
    known: dict[int | str, list[Sample]] = {}
    for sample in labelled.samples:
        if sample.object_id is not None:
            known.setdefault(sample.object_id, []).append(sample)
    if not known:
        raise ValueError(
            f"This model looks at one person at a time, but nobody in {recording.id} is annotated with a `bbox` and an "
            "`object_id`, by which they are followed; name their annotations, or take a model of whole frames."
        )
    samples = [
        min(mine, key=lambda each: abs(each.keyframe - keyframe))
        for mine in known.values()
        for keyframe in keyframes.tolist()
    ]
    return [str(object_id) for object_id in known], samples


def _notes(
    predictor: Predictor,
    recording: Recording,
    keyframes_S: np.ndarray,
    times_N: np.ndarray | None,
    samples: Sequence[Sample],
) -> tuple[list[str], list[str]]:
    """Of each clip: whether it reaches over a gap, and whether where the person is then is a guess."""
    config = predictor.experiment.data
    keyframes = torch.from_numpy(keyframes_S)
    ends = torch.zeros_like(keyframes), torch.full_like(keyframes, len(recording.frames_NHW) - 1)
    by_clock = config.frame_interval_ms is not None and times_N is not None
    clock = Clock.of(torch.from_numpy(times_N), torch.tensor([0])) if by_clock else None
    first_S, last_S = (each.numpy() for each in clips.spans(keyframes, *ends, clock, config))
    over_gap_S = stretches.reach_over_gap(keyframes_S, first_S, last_S, times_N, config)
    over_gap = [stretches.GAP if each else "" for each in over_gap_S]
    if not predictor.looks_at_people:
        return over_gap, [""] * len(over_gap)
    boxes_S = np.array([each.keyframe for each in samples])
    is_guess_S = (boxes_S < first_S) | (boxes_S > last_S)
    return over_gap, [NO_BOX if each else "" for each in is_guess_S]
