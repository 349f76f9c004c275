"""COCO-style annotation files -> images: a keyframe of a recording with the people that were labelled in it.

What a sample is, and which label it gets, is decided in labels.py.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Box = tuple[float, float, float, float]
"""Centre x, centre y, width and height, as fractions of the frame's width and height."""

LARGEST_NUMBER = 2**62
"""Numbers beyond it are taken for none: no time and no fraction is as large, and sums of two still fit into int64."""


@dataclass(frozen=True)
class Person:
    """One annotation: somebody who does something at a keyframe."""

    label: int
    """Index into `Annotations.classes`."""
    box: Box | None = None
    """None where the file has none, or none of four numbers within LARGEST_NUMBER."""
    object_id: int | str | None = None
    """The same for the same person throughout a recording; None where the file has none."""


@dataclass(frozen=True)
class Image:
    """A labelled moment."""

    id: str
    recording: str
    keyframe: int
    """Index of the labelled frame in the recording [frames]."""
    people: tuple[Person, ...]
    place: str
    """Where it stands, for messages: `images[3] of train.json`."""
    timestamp_ms: int | None = None
    """When the keyframe was taken, by the annotation file [ms]; None where it does not say.

    Numbers beyond LARGEST_NUMBER say nothing."""


@dataclass(frozen=True)
class Annotations:
    """One annotation file, read and checked."""

    path: Path
    classes: tuple[str, ...]
    images: tuple[Image, ...]
    """Those with people, in the order of the file."""
    num_unlabelled: int
    """Images without annotations, left out [images]."""


def read(path: Path) -> Annotations:
    """The images of one COCO-style file, in its order.

    Raises FileNotFoundError without a file; ValueError for a file that is no JSON, lacks a field, names a category or
    an image that is not listed, lists one twice, or holds no labelled image at all.
    """
    if not path.is_file():
        raise FileNotFoundError(f"No such annotation file: {path}.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # no JSON, no text, or a number of thousands of digits
        raise ValueError(f"The annotation file {path} is no valid JSON: {error}.") from error
    if not isinstance(content, dict):
        raise ValueError(f"The annotation file {path} must hold a JSON object with images, annotations and categories.")

    categories = _unique(content, "categories", path)
    if len({type(category_id) for category_id in categories}) > 1:
        raise ValueError(f"The ids of categories must be all numbers or all text in {path}.")
    index_of_category = {category_id: index for index, category_id in enumerate(sorted(categories))}
    people_of: dict[Any, list[Person]] = {image_id: [] for image_id in _unique(content, "images", path)}
    for position, annotation in enumerate(_list(content, "annotations", path)):
        place = f"annotations[{position}] of {path}"
        image_id, category_id = _id(annotation, "image_id", place), _id(annotation, "category_id", place)
        if category_id not in index_of_category:
            raise ValueError(
                f"Every category must be listed, but {place} has category_id {category_id!r}; "
                f"listed: {', '.join(map(str, sorted(categories)))}."
            )
        if image_id not in people_of:
            raise ValueError(f"Every annotation must belong to an image, but {place} has image_id {image_id!r}.")
        object_id = annotation.get("object_id")
        if object_id is not None:
            object_id = _id(annotation, "object_id", place)
        people_of[image_id].append(Person(index_of_category[category_id], _box(annotation.get("bbox")), object_id))

    images = tuple(
        _image(image, tuple(people_of[image["id"]]), f"images[{position}] of {path}")
        for position, image in enumerate(content["images"])
        if people_of[image["id"]]
    )
    if not images:
        raise ValueError(f"A split needs at least one labelled image, but {path} has none.")
    return Annotations(
        path=path,
        classes=tuple(str(_field(categories[key], "name", f"categories of {path}")) for key in sorted(categories)),
        images=images,
        num_unlabelled=len(people_of) - len(images),
    )


def _image(image: dict[str, Any], people: tuple[Person, ...], place: str) -> Image:
    keyframe = _field(image, "frame_idx", place)
    if type(keyframe) is not int:  # a bool is an int as well
        raise ValueError(f"`frame_idx` must be a whole number, but is {keyframe!r} in {place}.")
    timestamp = image.get("timestamp")
    return Image(
        id=str(image["id"]),
        recording=str(_field(image, "sensor_id", place)),
        keyframe=keyframe,
        people=people,
        place=place,
        timestamp_ms=None if timestamp is None or not _is_number(timestamp) else round(timestamp),
    )


def _box(value: Any) -> Box | None:
    if not isinstance(value, list) or len(value) != 4:
        return None
    if not all(map(_is_number, value)):
        return None
    x, y, width, height = map(float, value)
    return x, y, width, height


def _is_number(value: Any) -> bool:
    # A bool is an int as well; NaN and the infinities fail the comparison.
    return type(value) in (int, float) and abs(value) <= LARGEST_NUMBER


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
