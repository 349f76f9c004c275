"""Where a person is in every frame: the crop of a clip follows the centre of their box.

Boxes stand at keyframes only. Between two keyframes of the same person the centre moves in a straight line; before the
first and after the last it stays. A person without an `object_id` cannot be followed: their crop stays where it is.

A track has rows from its first to its last keyframe alone: where it stays, one row serves every frame.

Legend: S samples, T frames of a clip, M rows of all tracks, one track after the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from slowfast_ray.data.annotations import Image
from slowfast_ray.data.labels import Sample


@dataclass(frozen=True)
class Tracks:
    """The centres that crops follow."""

    centers_M2: torch.Tensor
    """float32: x and y, as fractions of the frame's width and height."""
    rows_S: torch.Tensor
    """int64: where the row of the first frame of the sample's recording would be, if every frame had one."""
    sizes_S2: torch.Tensor
    """float32: width and height of the sample's box, as fractions of the frame's."""
    known_S2: torch.Tensor | None = None
    """int64: the first and the last row of the sample's track; None where every frame has a row."""

    def rows(self, chosen: torch.Tensor) -> "Tracks":
        """The same for some of the samples."""
        known_S2 = None if self.known_S2 is None else self.known_S2[chosen]
        return Tracks(self.centers_M2, self.rows_S[chosen], self.sizes_S2[chosen], known_S2)

    def centers_ST2(self, frames_ST: torch.Tensor) -> torch.Tensor:
        """float32: the centres in these frames (int64) of each sample's recording."""
        rows_ST = self.rows_S[:, None] + frames_ST
        if self.known_S2 is not None:
            rows_ST = rows_ST.clamp(*self.known_S2[:, :, None].unbind(dim=1))
        return self.centers_M2[rows_ST]


def build(samples: Sequence[Sample], images: Sequence[Image]) -> Tracks:
    """The tracks of samples that have a box, from all boxes in `images`."""
    seen: dict[tuple[str, object], dict[int, tuple[float, float]]] = {}
    for image in images:
        for person in image.people:
            if person.box is not None and person.object_id is not None:
                seen.setdefault((image.recording, person.object_id), {})[image.keyframe] = person.box[:2]
    centers: list[np.ndarray] = []
    place_of: dict[tuple[str, object], tuple[int, int, int]] = {}
    num_rows = 0
    places = []
    for position, sample in enumerate(samples):
        assert sample.box is not None, "a sample of a person has a box"
        followed = sample.object_id is not None
        # Ids of samples may stand in both files; a tuple is no object id of any file.
        key = (sample.recording, sample.object_id if followed else (position,))
        if key not in place_of:
            known = seen[(sample.recording, sample.object_id)] if followed else {sample.keyframe: sample.box[:2]}
            centers.append(_follow(known))
            place_of[key] = num_rows - min(known), num_rows, num_rows + len(centers[-1]) - 1
            num_rows += len(centers[-1])
        places.append(place_of[key])
    places_S3 = torch.tensor(places)
    return Tracks(
        centers_M2=torch.from_numpy(np.concatenate(centers)),
        rows_S=places_S3[:, 0],
        sizes_S2=torch.tensor([sample.box[2:] for sample in samples if sample.box is not None]),
        known_S2=places_S3[:, 1:],
    )


def _follow(known: dict[int, tuple[float, float]]) -> np.ndarray:
    """float32 [M, 2]: a line through the centres at some frames, from the first of these to the last."""
    frames = sorted(known)
    x, y = zip(*(known[frame] for frame in frames), strict=True)
    every = np.arange(frames[0], frames[-1] + 1)
    return np.stack([np.interp(every, frames, x), np.interp(every, frames, y)], axis=1).astype(np.float32)
