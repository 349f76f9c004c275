"""Annotation files: what is read, what is left out and counted, and what is refused with the place in the file."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from slowfast_ray.data import annotations
from slowfast_ray.data.annotations import Annotations, Image, Person

NAMES = ("sitting", "standing", "lying")


def content(*people: list[int], **changes: Any) -> dict[str, Any]:
    """A file's content: one image for each list of the category ids that its people carry."""
    return {
        "images": [{"id": i, "sensor_id": f"R{i % 2}", "frame_idx": 10 * i} for i in range(len(people))],
        "annotations": [
            {"id": 100 * i + j, "image_id": i, "category_id": category}
            for i, categories in enumerate(people)
            for j, category in enumerate(categories)
        ],
        "categories": [{"id": i, "name": name} for i, name in enumerate(NAMES)],
        **changes,
    }


def write(tmp_path: Path, written: Any) -> Path:
    path = tmp_path / "train.json"
    path.write_text(written if isinstance(written, str) else json.dumps(written))
    return path


def labels(read: Annotations) -> list[list[int]]:
    return [[person.label for person in image.people] for image in read.images]


def test_reads_images_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, content([2], [0, 2, 0], [1]))
    read = annotations.read(path)
    assert read.path == path
    assert read.classes == NAMES
    assert [(image.id, image.recording, image.keyframe) for image in read.images] == [
        ("0", "R0", 0),
        ("1", "R1", 10),
        ("2", "R0", 20),
    ]
    assert labels(read) == [[2], [0, 2, 0], [1]]
    assert read.num_unlabelled == 0


def test_people_have_their_boxes_and_numbers(tmp_path: Path) -> None:
    written = content([2, 0], [1])
    written["annotations"][0].update(bbox=[0.5, 0.25, 1, 0.125], object_id=7)
    written["annotations"][1].update(bbox=[0, 0, 0, 2], object_id="left")
    path = write(tmp_path, written)
    first, second = annotations.read(path).images
    assert first == Image(
        "0",
        "R0",
        0,
        (Person(2, (0.5, 0.25, 1.0, 0.125), 7), Person(0, (0.0, 0.0, 0.0, 2.0), "left")),
        f"images[0] of {path}",
    )
    assert second.people == (Person(1, None, None),)


@pytest.mark.parametrize("box", [None, [], [1, 2, 3], [0.5] * 5, "0.5", {"x": 1}, [0.5, 0.5, 0.5, None], ["0"] * 4])
def test_a_box_that_is_none_of_four_numbers_is_none(tmp_path: Path, box: Any) -> None:
    written = content([2])
    written["annotations"][0]["bbox"] = box
    ((person,),) = (image.people for image in annotations.read(write(tmp_path, written)).images)
    assert person.box is None


HUGE = ["1" + "0" * 30, "-1" + "0" * 30, "1e300", "7" * 400]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "true", *HUGE], ids=lambda text: text[:9])
def test_a_box_of_no_numbers_that_mean_anything_is_none(tmp_path: Path, number: str) -> None:
    # Python's JSON reads these words.
    written = json.dumps(content([2])).replace('"category_id": 2', f'"category_id": 2, "bbox": [0.5, 0.5, {number}, 1]')
    ((person,),) = (image.people for image in annotations.read(write(tmp_path, written)).images)
    assert person.box is None


@pytest.mark.parametrize("number", [[1], {"id": 1}, 1.5])
def test_a_persons_number_is_a_whole_number_or_text(tmp_path: Path, number: Any) -> None:
    written = content([0], [1])
    written["annotations"][1]["object_id"] = number
    with pytest.raises(ValueError, match=r"`object_id` must be a whole number or text.*annotations\[1\] of"):
        annotations.read(write(tmp_path, written))


def test_the_time_of_an_image_is_read_where_it_is_one(tmp_path: Path) -> None:
    written = content([0], [1], [2], [0])
    for image, timestamp in zip(written["images"], (1_700_000_000_123, 99.6, "noon", None), strict=True):
        image["timestamp"] = timestamp
    found = [image.timestamp_ms for image in annotations.read(write(tmp_path, written)).images]
    assert found == [1_700_000_000_123, 100, None, None]


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "true", *HUGE], ids=lambda text: text[:9])
def test_a_time_that_is_no_number_or_far_beyond_all_times_is_none(tmp_path: Path, number: str) -> None:
    written = json.dumps(content([2])).replace('"frame_idx": 0', f'"frame_idx": 0, "timestamp": {number}')
    (image,) = annotations.read(write(tmp_path, written)).images
    assert image.timestamp_ms is None


def test_the_largest_time_is_one(tmp_path: Path) -> None:
    written = content([2], [1])
    written["images"][0]["timestamp"], written["images"][1]["timestamp"] = 2**62, -(2**62) - 1
    first, second = annotations.read(write(tmp_path, written)).images
    assert (first.timestamp_ms, second.timestamp_ms) == (2**62, None)


def test_a_number_of_thousands_of_digits_is_refused_with_the_file(tmp_path: Path) -> None:
    written = json.dumps(content([2])).replace('"frame_idx": 0', f'"frame_idx": {"7" * 5000}')
    path = write(tmp_path, written)
    with pytest.raises(ValueError, match=rf"{re.escape(str(path))} is no valid JSON"):
        annotations.read(path)


def test_images_without_annotations_are_left_out_and_counted(tmp_path: Path) -> None:
    read = annotations.read(write(tmp_path, content([], [1], [], [2], [])))
    assert [image.id for image in read.images] == ["1", "3"]
    assert read.num_unlabelled == 3


def test_an_image_that_is_left_out_needs_no_keyframe(tmp_path: Path) -> None:
    written = content([], [1])
    del written["images"][0]["frame_idx"], written["images"][0]["sensor_id"]
    assert len(annotations.read(write(tmp_path, written)).images) == 1


def test_category_ids_may_have_gaps_and_any_order(tmp_path: Path) -> None:
    # A label is the rank of the category's id, whatever the order of the list.
    written = content([70], [7], [7, 70], [9], categories=[
        {"id": 70, "name": "last"}, {"id": 7, "name": "first"}, {"id": 9, "name": "middle"},
    ])  # fmt: skip
    read = annotations.read(write(tmp_path, written))
    assert read.classes == ("first", "middle", "last")
    assert labels(read) == [[2], [0], [0, 2], [1]]


def test_an_unknown_category_is_refused_with_its_place(tmp_path: Path) -> None:
    path = write(tmp_path, content([0], [1, 14]))
    with pytest.raises(ValueError, match=r"annotations\[2\] of .* has category_id 14; listed: 0, 1, 2") as raised:
        annotations.read(path)
    assert str(path) in str(raised.value)


def test_an_unknown_image_is_refused_with_its_place(tmp_path: Path) -> None:
    written = content([0], [1])
    written["annotations"][1]["image_id"] = 77
    with pytest.raises(ValueError, match=r"annotations\[1\] of .* has image_id 77"):
        annotations.read(write(tmp_path, written))


@pytest.mark.parametrize("key", ["images", "categories"])
def test_an_id_that_stands_twice_is_refused(tmp_path: Path, key: str) -> None:
    written = content([0], [1])
    written[key].append({**written[key][1], "name": "another", "frame_idx": 5})
    with pytest.raises(ValueError, match=rf"1 stands twice in {key} of"):
        annotations.read(write(tmp_path, written))


@pytest.mark.parametrize("written", ["", "{", "temperature,time", '{"images": [}'])
def test_what_is_no_json_is_refused(tmp_path: Path, written: str) -> None:
    path = write(tmp_path, written)
    with pytest.raises(ValueError, match=rf"{re.escape(str(path))} is no valid JSON"):
        annotations.read(path)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_bytes(b"\x89HDF\r\n\x1a\n\xff\xfe")
    with pytest.raises(ValueError, match="no valid JSON"):
        annotations.read(tmp_path / "train.json")


@pytest.mark.parametrize("written", [[], "null", 3])
def test_json_of_another_kind_is_refused(tmp_path: Path, written: Any) -> None:
    with pytest.raises(ValueError, match="must hold a JSON object"):
        annotations.read(write(tmp_path, written))


@pytest.mark.parametrize("key", ["images", "annotations", "categories"])
@pytest.mark.parametrize("wrong", [None, {}, 3])
def test_a_missing_list_is_named(tmp_path: Path, key: str, wrong: Any) -> None:
    with pytest.raises(ValueError, match=f"lacks the list `{key}`"):
        annotations.read(write(tmp_path, {**content([0]), key: wrong}))
    written = content([0])
    del written[key]
    with pytest.raises(ValueError, match=f"lacks the list `{key}`"):
        annotations.read(write(tmp_path, written))


@pytest.mark.parametrize(
    ("key", "field"),
    [
        ("images", "id"),
        ("images", "sensor_id"),
        ("images", "frame_idx"),
        ("annotations", "image_id"),
        ("annotations", "category_id"),
        ("categories", "id"),
        ("categories", "name"),
    ],
)
def test_a_missing_field_is_named(tmp_path: Path, key: str, field: str) -> None:
    written = content([0], [1])
    del written[key][1][field]
    with pytest.raises(ValueError, match=rf"`{field}` is missing in {key}") as raised:
        annotations.read(write(tmp_path, written))
    assert "train.json" in str(raised.value)


@pytest.mark.parametrize("key", ["images", "annotations", "categories"])
def test_an_entry_that_is_no_object_is_refused(tmp_path: Path, key: str) -> None:
    written = content([0], [1])
    written[key][1] = "text"
    with pytest.raises(ValueError, match=rf"is missing in {key}\[1\]"):
        annotations.read(write(tmp_path, written))


@pytest.mark.parametrize("frame", [5.0, "5", None, [5], True])
def test_a_keyframe_is_a_whole_number(tmp_path: Path, frame: Any) -> None:
    written = content([0], [1])
    written["images"][1]["frame_idx"] = frame
    with pytest.raises(ValueError, match=r"`frame_idx` must be a whole number.* images\[1\]"):
        annotations.read(write(tmp_path, written))


@pytest.mark.parametrize(
    ("key", "field"),
    [("images", "id"), ("annotations", "image_id"), ("annotations", "category_id"), ("categories", "id")],
)
def test_an_id_that_is_no_number_or_text_is_refused(tmp_path: Path, key: str, field: str) -> None:
    written = content([0], [1])
    written[key][1][field] = [1]
    with pytest.raises(ValueError, match=rf"{key}"):
        annotations.read(write(tmp_path, written))


def test_category_ids_of_two_kinds_are_refused(tmp_path: Path) -> None:
    written = content([0], categories=[{"id": 0, "name": "a"}, {"id": "1", "name": "b"}])
    with pytest.raises(ValueError, match="categories"):
        annotations.read(write(tmp_path, written))


@pytest.mark.parametrize("people", [(), ([],), ([], [])])
def test_a_split_without_a_labelled_image_is_refused(tmp_path: Path, people: tuple[list[int], ...]) -> None:
    path = write(tmp_path, content(*people))
    with pytest.raises(ValueError, match=rf"at least one labelled image, but {re.escape(str(path))}"):
        annotations.read(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path / "val.json"))):
        annotations.read(tmp_path / "val.json")
