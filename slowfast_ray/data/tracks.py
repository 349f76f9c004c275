"""Where a person is in every frame: the crop of a clip follows the centre of their box.

Boxes stand at keyframes only. Between two keyframes of the same person the centre moves in a straight line; before the
first and after the last it stays. A person without an `object_id` cannot be followed: their crop stays where it is.

Legend: S samples, M frames of all tracks, one track after the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from slowfast_ray.data.annotations import Image
from slowfast_ray.data.labels import Sample
from slowfast_ray.data.timeline import Timeline


@dataclass(frozen=True)
class Tracks:
    """The centres that crops follow."""

    centers_M2: torch.Tensor
    """float32: x and y, as fractions of the frame's width and height."""
    rows_S: torch.Tensor
    """int64: the row of the first frame of the sample's recording."""
    sizes_S2: torch.Tensor
    """float32: width and height of the sample's box, as fractions of the frame's."""

    def rows(self, chosen: torch.Tensor) -> "Tracks":
        """The same for some of the samples."""
        return Tracks(self.centers_M2, self.rows_S[chosen], self.sizes_S2[chosen])


def build(samples: Sequence[Sample], images: Sequence[Image], timeline: Timeline) -> Tracks:
    """The tracks of samples that have a box, from all boxes in `images`."""
    seen: dict[tuple[str, object], dict[int, tuple[float, float]]] = {}
    for image in images:
        for person in image.people:
            if person.box is not None and person.object_id is not None:
                seen.setdefault((image.recording, person.object_id), {})[image.keyframe] = person.box[:2]
    centers: list[np.ndarray] = []
    row_of: dict[tuple[str, object], int] = {}
    num_rows = 0
    rows = []
    for position, sample in enumerate(samples):
        assert sample.box is not None, "a sample of a person has a box"
        followed = sample.object_id is not None
        # Ids of samples may stand in both files; a tuple is no object id of any file.
        key = (sample.recording, sample.object_id if followed else (position,))
        if key not in row_of:
            known = seen[(sample.recording, sample.object_id)] if followed else {sample.keyframe: sample.box[:2]}
            length = int(timeline.lengths[timeline.index(sample.recording)])
            row_of[key] = num_rows
            centers.append(_follow(known, length))
            num_rows += length
        rows.append(row_of[key])
    return Tracks(
        centers_M2=torch.from_numpy(np.concatenate(centers)),
        rows_S=torch.tensor(rows),
        sizes_S2=torch.tensor([sample.box[2:] for sample in samples if sample.box is not None]),
    )


def _follow(known: dict[int, tuple[float, float]], num_frames: int) -> np.ndarray:
    """float32 [num_frames, 2]: a line through the centres at some frames."""
    frames = sorted(known)
    x, y = zip(*(known[frame] for frame in frames), strict=True)
    every = np.arange(num_frames)
    return np.stack([np.interp(every, frames, x), np.interp(every, frames, y)], axis=1).astype(np.float32)
