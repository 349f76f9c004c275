"""Predictions that need no network: what one must beat before it has learnt anything worth having.

Each gives one prediction for every validation sample, in their order, and is the same in every run. Under the labels
`majority` and `person` a prediction is a class, int64 [S]; under `multi` it is a score for each class, float64 [S, K],
higher where the class is likelier.

Legend: S samples, K classes, F features, D directions that the features of the training samples span.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from slowfast_ray.data.batches import Batches
from slowfast_ray.data.dataset import Dataset
from slowfast_ray.data.samples import Split
from slowfast_ray.data.timeline import Timeline

STRENGTHS = (0.001, 0.01, 0.1)
"""scikit-learn's C, the strongest regularisation first: with thousands of pixels and hundreds of samples, one that is
weaker than 0.1 is all memory, and one stronger than 0.001 all majority."""
NUM_FOLDS = 5
TOLERANCE = 1e-3
"""Of the solver. With scikit-learn's own, a tenth of it, the choice of the strength takes three times as long, and
comes out the same on the thermal dataset."""
CLIPS_AT_ONCE = 16
MAX_FITTED = 4_000
"""Of more training samples, so many are fitted, spread over all: their matrix is in memory, whatever the frames are."""


def majority_class(data: Dataset) -> np.ndarray:
    """The class that most training samples carry (ties: the lowest); under `multi`, the share that carries each."""
    num_K = data.train.num_per_class_K(len(data.classes)).numpy()
    if data.train.labels_S.ndim == 2:
        return np.tile(num_K / len(data.train), (len(data.val), 1))
    return np.full(len(data.val), num_K.argmax(), dtype=np.int64)


def nearest_in_time(data: Dataset) -> np.ndarray:
    """The label of the training sample whose keyframe is nearest by the clock, among those of the same session.

    Where recordings do not tell their times, the frames between stand for time, and only the same recording counts.
    Where there is no training sample to compare with, the majority is predicted.

    At one distance, the person whose box is nearest is copied (under `person`), then the earlier keyframe, then the
    first in the file. On the split that the thermal dataset provides (labels `majority`) no two are at one distance:
    whatever the rule for ties, top-1 is 87.67 % and the class mean 53.42 %. See `nearest_in_frames` for another figure.
    """
    return _copied(data, _nearest(_by_clock(data.train, data), _by_clock(data.val, data)), majority_class(data))


def nearest_in_frames(data: Dataset) -> np.ndarray:
    """The label of the training sample whose keyframe is the fewest frames away in the same recording.

    Frames come at irregular times, so that this is not `nearest_in_time`. Where no training sample lies in the
    recording, that one decides; ties as there. On the split that the thermal dataset provides, five validation samples
    lie halfway between two training samples, each time two of one label: whatever the rule for ties, top-1 is 84.93 %
    and the class mean 45.70 %.
    """
    return _copied(data, _nearest(_by_frames(data.train, data), _by_frames(data.val, data)), nearest_in_time(data))


def mean_frame_regression(data: Dataset) -> np.ndarray:
    """Logistic regression on the mean over time of each pixel, as the model sees it: normalised, cropped to a person.

    It knows temperature and place, and nothing of motion. The frames are those of the clips, without variation; where
    the model sees them larger than they are, they stay small, since enlarging adds nothing. Features are standardised;
    the strength of the L2 penalty is the one of STRENGTHS (ties: the strongest) that is right most often in a
    cross-validation over stretches of time of the training samples, so that validation samples choose nothing; of many,
    MAX_FITTED train. Under `multi`, each class is one against the rest.
    """
    # Imported here: it takes a second, and most of what imports this module does not regress.
    from threadpoolctl import threadpool_limits

    train = data.train.rows(torch.arange(0, len(data.train), -(-len(data.train) // MAX_FITTED)))
    train_SF, val_SF = (_mean_frames(data, split) for split in (train, data.val))
    deviation_F = train_SF.std(axis=0)
    mean_F, scale_F = train_SF.mean(axis=0), np.where(deviation_F > 0, deviation_F, 1)
    train_SF, val_SF = (train_SF - mean_F) / scale_F, (val_SF - mean_F) / scale_F
    with threadpool_limits(limits=1):  # the matrices are small: threads would wait for one another
        # The weights that an L2 penalty leaves lie in the span of the training samples, so that a rotation into that
        # span changes nothing but the time: 314 numbers a sample instead of 2400.
        directions_DF = np.linalg.svd(train_SF, full_matrices=False)[2]
        train_SD, val_SD = train_SF @ directions_DF.T, val_SF @ directions_DF.T
        labels = train.labels_S.numpy()
        strength = _best_strength(train_SD, labels, train.blocks_S, len(data.classes))
        score_SK = _regress(train_SD, labels, val_SD, strength, len(data.classes))
    return score_SK if labels.ndim == 2 else score_SK.argmax(axis=1)


ALL: Mapping[str, Callable[[Dataset], np.ndarray]] = {
    "majority": majority_class,
    "nearest_in_time": nearest_in_time,
    "nearest_in_frames": nearest_in_frames,
    "mean_frame_regression": mean_frame_regression,
}
"""By the names under which they are reported."""

OF_CLIPS = ("mean_frame_regression",)
"""Those that depend on the clip: trials of a search have others."""


@dataclass(frozen=True)
class _Places:
    """Where samples lie on axes of which each is a session or a recording."""

    axis_S: np.ndarray
    at_S: np.ndarray
    """int64 [ms or frames]."""
    center_S2: np.ndarray
    """Of the box, as fractions of the frame; zeros where samples have none."""


def _by_clock(split: Split, data: Dataset) -> _Places:
    timeline = data.source.timeline
    recording_S = _recordings(split, timeline)
    return _Places(timeline.axes_of(recording_S), timeline.times_N[split.keyframes_S.numpy()], _centers(split))


def _by_frames(split: Split, data: Dataset) -> _Places:
    return _Places(_recordings(split, data.source.timeline), split.keyframes_S.numpy(), _centers(split))


def _recordings(split: Split, timeline: Timeline) -> np.ndarray:
    return np.searchsorted(timeline.firsts, split.firsts_S.numpy())


def _centers(split: Split) -> np.ndarray:
    if split.tracks is None:
        return np.zeros((len(split), 2))
    return split.tracks.centers_ST2((split.keyframes_S - split.firsts_S)[:, None])[:, 0].numpy()


def _nearest(train: _Places, val: _Places) -> np.ndarray:
    """int64, one for each validation sample: the nearest training sample on its axis; -1 where there is none."""
    chosen_S = np.full(len(val.axis_S), -1)
    for i, (axis, at, center_2) in enumerate(zip(val.axis_S, val.at_S, val.center_S2, strict=True)):
        mine = np.flatnonzero(train.axis_S == axis)
        if len(mine):
            distance = np.abs(train.at_S[mine] - at)
            tied = mine[distance == distance.min()]
            apart = np.hypot(*(train.center_S2[tied] - center_2).T)
            chosen_S[i] = tied[np.lexsort((train.at_S[tied], apart))[0]]  # stable: then the order of the file
    return chosen_S


def _copied(data: Dataset, chosen_S: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    """The labels of the chosen training samples; where none is chosen, what `otherwise` says."""
    predicted = otherwise.copy()
    found_S = chosen_S >= 0
    predicted[found_S] = data.train.labels_S.numpy()[chosen_S[found_S]]
    return predicted


def _mean_frames(data: Dataset, split: Split) -> np.ndarray:
    """float64 [S, F]: the mean over time of each sample's clip, as the model sees it."""
    config = data.config
    native_height, native_width = data.frames.size_HW
    shrink = min(1.0, max(native_height / config.height, native_width / config.width))
    config = replace(config, height=round(config.height * shrink), width=round(config.width * shrink))
    # Validation is what runs over samples in their order and without variation.
    batches = Batches(replace(data, val=split), config, batch_size=CLIPS_AT_ONCE, seed=0, device=torch.device("cpu"))
    return torch.cat([batch.clip_B1THW.mean(dim=2).flatten(1) for batch in batches.val()]).double().numpy()


def _best_strength(train_SD: np.ndarray, labels: np.ndarray, blocks_S: np.ndarray, num_classes: int) -> float:
    """The one of STRENGTHS that is right most often on stretches of time that it was not fitted to."""
    from sklearn.model_selection import GroupKFold

    num_folds = min(NUM_FOLDS, len(np.unique(blocks_S)))
    if num_folds < 2:  # one stretch of time cannot tell
        return STRENGTHS[len(STRENGTHS) // 2]
    folds = list(GroupKFold(num_folds).split(train_SD, groups=blocks_S))

    def num_right(strength: float) -> int:
        found = 0
        for fitted, held_out in folds:
            score_SK = _regress(train_SD[fitted], labels[fitted], train_SD[held_out], strength, num_classes)
            said = score_SK > 0.5 if labels.ndim == 2 else score_SK.argmax(axis=1)
            found += int((said == labels[held_out]).sum())
        return found

    return max(STRENGTHS, key=num_right)


def _regress(
    train_SD: np.ndarray, labels: np.ndarray, val_SD: np.ndarray, strength: float, num_classes: int
) -> np.ndarray:
    """float64 [S, K]: the probability of each class for the samples `val_SD`; 0 for one that never trained."""
    if labels.ndim == 2:
        each = [_regress(train_SD, label_S.astype(int), val_SD, strength, 2)[:, 1] for label_S in labels.T]
        return np.stack(each, axis=1)
    from sklearn.linear_model import LogisticRegression

    score_SK = np.zeros((len(val_SD), num_classes))
    present = np.unique(labels)
    if len(present) == 1:  # nothing to tell apart
        score_SK[:, present] = 1
        return score_SK
    model = LogisticRegression(C=strength, tol=TOLERANCE, max_iter=1000).fit(train_SD, labels)
    score_SK[:, present] = model.predict_proba(val_SD)
    return score_SK
