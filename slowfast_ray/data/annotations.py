"""COCO-style annotation files -> samples: a keyframe of a recording with one label.

The label of a keyframe with several people is the category that most of them carry (majority rule). A tie goes to the
category with the lowest id, as in the system that made these annotations; ties are counted, since the rule, not the
people, decided those labels.
"""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Sample:
    """A labelled moment."""

    id: str
    recording: str
    keyframe: int
    """Index of the labelled frame in the recording [frames]."""
    label: int
    """Index into `Annotations.classes`."""


@dataclass(frozen=True)
class Annotations:
    """One annotation file, read and checked."""

    path: Path
    classes: tuple[str, ...]
    samples: tuple[Sample, ...]
    num_ties: int
    """Samples whose label the tie rule decided [samples]."""
    num_conflicts: int
    """Samples whose people carry different labels, ties included [samples]."""
    num_unlabelled: int
    """Images without annotations, left out [images]."""


def read(path: Path) -> Annotations:
    """The samples of one COCO-style file, in its order.

    Raises FileNotFoundError without a file; ValueError for a file that is no JSON, lacks a field, names a category or
    an image that is not listed, lists one twice, or holds no sample at all.
    """
    if not path.is_file():
        raise FileNotFoundError(f"No such annotation file: {path}.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"The annotation file {path} is no valid JSON: {error}.") from error
    if not isinstance(content, dict):
        raise ValueError(f"The annotation file {path} must hold a JSON object with images, annotations and categories.")

    categories = _unique(content, "categories", path)
    if len({type(category_id) for category_id in categories}) > 1:
        raise ValueError(f"The ids of categories must be all numbers or all text in {path}.")
    index_of_category = {category_id: index for index, category_id in enumerate(sorted(categories))}
    votes_by_image: dict[str, Counter[int]] = {image_id: Counter() for image_id in _unique(content, "images", path)}
    for position, annotation in enumerate(_list(content, "annotations", path)):
        place = f"annotations[{position}] of {path}"
        image_id, category_id = _id(annotation, "image_id", place), _id(annotation, "category_id", place)
        if category_id not in index_of_category:
            raise ValueError(
                f"Every category must be listed, but {place} has category_id {category_id!r}; "
                f"listed: {', '.join(map(str, sorted(categories)))}."
            )
        if image_id not in votes_by_image:
            raise ValueError(f"Every annotation must belong to an image, but {place} has image_id {image_id!r}.")
        votes_by_image[image_id][index_of_category[category_id]] += 1

    samples, num_ties = [], 0
    for position, image in enumerate(content["images"]):
        votes = votes_by_image[image["id"]]
        if not votes:
            continue
        label, is_tie = majority(votes)
        num_ties += is_tie
        place = f"images[{position}] of {path}"
        keyframe = _field(image, "frame_idx", place)
        if type(keyframe) is not int:  # a bool is an int as well
            raise ValueError(f"`frame_idx` must be a whole number, but is {keyframe!r} in {place}.")
        samples.append(Sample(str(image["id"]), str(_field(image, "sensor_id", place)), keyframe, label))
    if not samples:
        raise ValueError(f"A split needs at least one labelled image, but {path} has none.")
    return Annotations(
        path=path,
        classes=tuple(str(_field(categories[key], "name", f"categories of {path}")) for key in sorted(categories)),
        samples=tuple(samples),
        num_ties=num_ties,
        num_conflicts=sum(len(votes) > 1 for votes in votes_by_image.values()),
        num_unlabelled=len(votes_by_image) - len(samples),
    )


def majority(votes: Counter[int]) -> tuple[int, bool]:
    """The most frequent label, the lowest among equals, and whether there were equals."""
    most = max(votes.values())
    winners = sorted(label for label, count in votes.items() if count == most)
    return winners[0], len(winners) > 1


def _list(content: dict[str, Any], key: str, path: Path) -> list[Any]:
    entries = content.get(key)
    if not isinstance(entries, list):
        raise ValueError(f"The annotation file {path} lacks the list `{key}`.")
    return entries


def _field(entry: Any, key: str, place: str) -> Any:
    if not isinstance(entry, dict) or key not in entry:
        raise ValueError(f"`{key}` is missing in {place}.")
    return entry[key]


def _id(entry: Any, key: str, place: str) -> int | str:
    value = _field(entry, key, place)
    if not isinstance(value, int | str):
        raise ValueError(f"`{key}` must be a whole number or text, but is {value!r} in {place}.")
    return value


def _unique(content: dict[str, Any], key: str, path: Path) -> dict[Any, Any]:
    """The entries of list `key` by their `id`, none of them twice."""
    by_id: dict[Any, Any] = {}
    for position, entry in enumerate(_list(content, key, path)):
        entry_id = _id(entry, "id", f"{key}[{position}] of {path}")
        if entry_id in by_id:
            raise ValueError(f"Every id must be unique, but {entry_id!r} stands twice in {key} of {path}.")
        by_id[entry_id] = entry
    return by_id
