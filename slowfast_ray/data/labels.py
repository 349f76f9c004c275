"""The label policies: what a sample is, and which label it gets where several people act at one keyframe.

majority   a keyframe is a sample; its label is what most of its people do. Where equally many do different things, the
           rule for ties decides, not the people: the lowest category id (as in the system that made the thermal
           dataset), the class that is rarest over all people, or no sample at all.
person     every annotated person is a sample, seen in a crop around their box.
multi      a keyframe is a sample that carries the labels of all its people.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from slowfast_ray.data.annotations import Box, Image
from slowfast_ray.data.config import Labels, Ties

BOX_TOLERANCE = 1e-6
"""How far rounding may take a box over the border [fraction of the side]."""


@dataclass(frozen=True)
class Sample:
    """What one clip is asked."""

    id: str
    recording: str
    keyframe: int
    """Index of the labelled frame in the recording [frames]."""
    labels: frozenset[int]
    """One index into the classes; under `multi`, all that occur."""
    box: Box | None = None
    """Whom the clip is about; None where it is about the whole frame."""
    object_id: int | str | None = None

    @property
    def label(self) -> int:
        """The label of a sample that has one."""
        (label,) = self.labels
        return label


@dataclass(frozen=True)
class Labelled:
    """Samples of some images under a policy."""

    samples: tuple[Sample, ...]
    num_conflicts: int
    """Images whose people carry different labels [images]."""
    num_ties: int
    """Images whose label the rule for ties decided, or that it dropped [images]."""
    dropped_ids: tuple[str, ...]
    """Images that gave no sample, since they are ties."""

    @property
    def num_dropped(self) -> int:
        """Images that gave no sample [images]."""
        return len(self.dropped_ids)

    def __add__(self, other: "Labelled") -> "Labelled":
        return Labelled(
            self.samples + other.samples,
            self.num_conflicts + other.num_conflicts,
            self.num_ties + other.num_ties,
            self.dropped_ids + other.dropped_ids,
        )


def apply(images: Sequence[Image], policy: Labels, ties: Ties, num_people_K: Sequence[int]) -> Labelled:
    """The samples of `images`; `num_people_K` counts the people of each class in the whole dataset, for `rarest`.

    Raises ValueError under `person` for somebody without a box, or with one that leaves the frame.
    """
    samples: list[Sample] = []
    dropped_ids: list[str] = []
    num_conflicts = num_ties = 0
    for image in images:
        votes = Counter(person.label for person in image.people)
        num_conflicts += len(votes) > 1
        if policy == "person":
            samples += _people_of(image)
        elif policy == "multi":
            samples.append(Sample(image.id, image.recording, image.keyframe, frozenset(votes)))
        else:
            winners = most_frequent(votes)
            num_ties += len(winners) > 1
            if len(winners) > 1 and ties == "drop":
                dropped_ids.append(image.id)
                continue
            # Among equally rare ones the lowest id, so that the order of the people never matters.
            label = min(winners, key=lambda each: (num_people_K[each], each)) if ties == "rarest" else winners[0]
            samples.append(Sample(image.id, image.recording, image.keyframe, frozenset({label})))
    return Labelled(tuple(samples), num_conflicts, num_ties, tuple(dropped_ids))


def most_frequent(votes: Counter[int]) -> list[int]:
    """The labels with the most votes, in ascending order; more than one in a tie."""
    most = max(votes.values())
    return sorted(label for label, count in votes.items() if count == most)


def is_fractions(box: Box) -> bool:
    """Whether all four numbers of a box are fractions of the frame, and it has an area."""
    return all(-BOX_TOLERANCE <= each <= 1 + BOX_TOLERANCE for each in box) and min(box[2:]) > 0


def reaches_over_the_border(box: Box) -> bool:
    """Whether a part of a box lies outside the frame."""
    x, y, width, height = box
    edges = (x - width / 2, x + width / 2, y - height / 2, y + height / 2)
    return not all(-BOX_TOLERANCE <= edge <= 1 + BOX_TOLERANCE for edge in edges)


def _people_of(image: Image) -> list[Sample]:
    samples = []
    for number, person in enumerate(image.people):
        if person.box is None:
            raise ValueError(
                f"`data.labels` person needs a `bbox` of four numbers for everybody, but person {number} of image "
                f"{image.id} ({image.place}) has none; add it, or choose --data.labels majority."
            )
        if not is_fractions(person.box):
            raise ValueError(
                f"A box is [centre x, centre y, width, height] as fractions of the frame, within 0..1 and not empty, "
                f"but person {number} of image {image.id} ({image.place}) has {list(person.box)}; divide by the "
                "frame's width and height."
            )
        sample_id = f"{image.id}#{number}"
        labels = frozenset({person.label})
        samples.append(Sample(sample_id, image.recording, image.keyframe, labels, person.box, person.object_id))
    return samples
