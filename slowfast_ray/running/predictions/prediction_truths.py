"""What people say of recordings beside what a network says: annotated keyframes, under the network's own label policy.

A keyframe is right where the window in whose stretch it lies carries a class that was annotated there.
"""

from collections import Counter
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from slowfast_ray.data import annotations, labels, source
from slowfast_ray.data.annotations import Annotations, Image
from slowfast_ray.data.config import DataConfig


@dataclass(frozen=True)
class Truth:
    """What is done at a keyframe."""

    keyframe: int
    """Index in the recording [frames]."""
    classes: tuple[str, ...]
    """One name, or several where the network tells several at once."""
    person: str | None
    """Who does it, where the network looks at people; None: all."""


@dataclass(frozen=True)
class Annotated:
    """Annotations of any recordings."""

    files: tuple[Annotations, ...]
    """With the same classes."""

    @property
    def images(self) -> tuple[Image, ...]:
        """Those of all files."""
        return tuple(image for file in self.files for image in file.images)

    def classes_in(self, recordings: Container[str]) -> set[str]:
        """Names of the classes that occur in some recordings."""
        return {
            self.files[0].classes[person.label]
            for image in self.images
            if image.recording in recordings
            for person in image.people
        }

    def of_recording(self, recording: str, config: DataConfig) -> tuple[Truth, ...]:
        """The truths of a recording, in the order of its frames, under the label policy of `config`.

        People without an `object_id` are left out where the network looks at people: nobody follows them.
        """
        if not self.files:
            return ()
        classes, images = self.files[0].classes, self.images
        num_people = Counter(person.label for image in images for person in image.people)
        num_people_K = [num_people[k] for k in range(len(classes))]
        mine = [image for image in images if image.recording == recording]
        of_people = config.labels == "person"
        return tuple(
            Truth(
                keyframe=sample.keyframe,
                classes=tuple(classes[k] for k in sorted(sample.labels)),
                person=str(sample.object_id) if of_people else None,
            )
            for sample in sorted(
                labels.apply(mine, config.labels, config.ties, num_people_K).samples, key=lambda each: each.keyframe
            )
            if not of_people or sample.object_id is not None
        )


def read(path: Path | None) -> Annotated:
    """The annotations in a COCO-style file, or in train.json and val.json of a dataset folder; none for None.

    Raises FileNotFoundError or ValueError where there are none, or as annotations.read does.
    """
    if path is None:
        return Annotated(())
    return Annotated(source.read_annotations(path) if path.is_dir() else (annotations.read(path),))


def are_right(table: pd.DataFrame, truths: Sequence[Truth], known: Container[str]) -> Iterator[bool | None]:
    """Whether the row of `table` (of windows.of_frames) in which each keyframe lies says what is true there; None where
    the network knows no such class: `known` are its classes.

    Raises ValueError for a keyframe that lies in no row: it is of another recording.
    """
    for truth in truths:
        is_here = (table["start_frame"] <= truth.keyframe) & (truth.keyframe <= table["end_frame"])
        if truth.person is not None:
            is_here &= table["person"] == truth.person
        said = table.loc[is_here, "class"]
        if said.empty:
            raise ValueError(
                f"A keyframe must lie inside its recording, but the annotations name frame {truth.keyframe} of "
                f"{table['recording'].iloc[0]}, which has {table['end_frame'].max() + 1} frames; are they another's?"
            )
        yield said.iloc[0] in truth.classes if any(name in known for name in truth.classes) else None
