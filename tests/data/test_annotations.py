"""Annotation files: the label policy, what it counts, and what is refused with the place in the file."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slowfast_ray.data import annotations
from slowfast_ray.data.annotations import Sample

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


def test_reads_samples_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, content([2], [0], [1]))
    read = annotations.read(path)
    assert read.path == path
    assert read.classes == NAMES
    assert read.samples == (Sample("0", "R0", 0, 2), Sample("1", "R1", 10, 0), Sample("2", "R0", 20, 1))
    assert (read.num_ties, read.num_conflicts, read.num_unlabelled) == (0, 0, 0)


def test_the_majority_decides_and_a_tie_goes_to_the_lowest_id(tmp_path: Path) -> None:
    read = annotations.read(
        write(
            tmp_path,
            content(
                [2, 1, 2],  # a majority against a lower id: a conflict, no tie
                [2, 1],  # a tie, the higher id first in the file
                [2, 2, 1, 1, 0],  # a tie of the most frequent; the lowest id of all is no winner
                [0, 1, 2],  # everybody ties
                [1, 1],  # agreement
            ),
        )
    )
    assert [sample.label for sample in read.samples] == [2, 1, 1, 0, 1]
    assert read.num_ties == 3
    assert read.num_conflicts == 4


@settings(max_examples=100, deadline=None)
@given(votes=st.lists(st.integers(0, 5), min_size=1, max_size=12))
def test_majority_is_a_winner_whom_no_lower_label_equals(votes: list[int]) -> None:
    label, is_tie = annotations.majority(Counter(votes))
    counts = [votes.count(each) for each in range(6)]
    assert counts[label] == max(counts)
    assert all(count < counts[label] for count in counts[:label])
    assert is_tie == (counts.count(max(counts)) > 1)


def test_images_without_annotations_are_left_out_and_counted(tmp_path: Path) -> None:
    read = annotations.read(write(tmp_path, content([], [1], [], [2], [])))
    assert [sample.id for sample in read.samples] == ["1", "3"]
    assert read.num_unlabelled == 3


def test_an_image_that_is_left_out_needs_no_keyframe(tmp_path: Path) -> None:
    written = content([], [1])
    del written["images"][0]["frame_idx"], written["images"][0]["sensor_id"]
    assert len(annotations.read(write(tmp_path, written)).samples) == 1


def test_category_ids_may_have_gaps_and_any_order(tmp_path: Path) -> None:
    # A label is the rank of the category's id, whatever the order of the list; a tie goes to the lowest id.
    written = content([70], [7], [7, 70], [9], categories=[
        {"id": 70, "name": "last"}, {"id": 7, "name": "first"}, {"id": 9, "name": "middle"},
    ])  # fmt: skip
    read = annotations.read(write(tmp_path, written))
    assert read.classes == ("first", "middle", "last")
    assert [sample.label for sample in read.samples] == [2, 0, 0, 1]


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
def test_a_split_without_a_sample_is_refused(tmp_path: Path, people: tuple[list[int], ...]) -> None:
    path = write(tmp_path, content(*people))
    with pytest.raises(ValueError, match=rf"at least one labelled image, but {re.escape(str(path))}"):
        annotations.read(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path / "val.json"))):
        annotations.read(tmp_path / "val.json")
