"""Label policies: what is a sample, which label it gets, and what the rules had to decide."""

import itertools
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slowfast_ray.data import annotations, labels
from slowfast_ray.data.annotations import Box, Image, Person
from slowfast_ray.data.config import Ties
from slowfast_ray.data.labels import Labelled, Sample

BOX = (0.5, 0.5, 0.2, 0.3)
NUM_PEOPLE_K = [9, 5, 5, 7]


def image(*people: int | Person, name: str = "7") -> Image:
    """A keyframe with people, or with people who only have a label."""
    everybody = tuple(Person(each) if isinstance(each, int) else each for each in people)
    return Image(name, "R1", 30, everybody, f"images[3] of {Path('train.json')}")


def majority(*images: Image, ties: Ties = "lowest") -> Labelled:
    return labels.apply(images, "majority", ties, NUM_PEOPLE_K)


def test_the_majority_decides_and_a_tie_goes_to_the_lowest_id() -> None:
    found = majority(
        image(2, 1, 2),  # a majority against a lower id: a conflict, no tie
        image(2, 1),  # a tie, the higher id first in the file
        image(2, 2, 1, 1, 0),  # a tie of the most frequent; the lowest id of all is no winner
        image(0, 1, 2),  # everybody ties
        image(1, 1),  # agreement
    )
    assert [sample.label for sample in found.samples] == [2, 1, 1, 0, 1]
    assert (found.num_ties, found.num_conflicts, found.num_dropped) == (3, 4, 0)


def test_a_sample_of_a_keyframe_is_about_the_whole_frame() -> None:
    person = Person(1, BOX, object_id=4)
    for policy in ("majority", "multi"):
        (sample,) = labels.apply([image(person)], policy, "lowest", NUM_PEOPLE_K).samples
        assert sample == Sample("7", "R1", 30, frozenset({1}), box=None, object_id=None)


def test_ties_may_go_to_the_rarest_class() -> None:
    found = majority(
        image(0, 1),  # 9 people against 5
        image(3, 0),  # 7 against 9
        image(2, 1),  # 5 against 5: the lowest id, whoever stands first
        image(1, 2),
        image(0, 0, 1),  # no tie: the majority stays, however rare the other
        image(0, 0, 3, 3, 1),  # only those that tie are asked
        ties="rarest",
    )
    assert [sample.label for sample in found.samples] == [1, 3, 1, 1, 0, 3]
    assert (found.num_ties, found.num_conflicts, found.num_dropped) == (5, 6, 0)


def test_ties_may_be_dropped_and_are_counted() -> None:
    found = majority(image(0, 1, name="a"), image(0, 0, 1, name="b"), image(2, 3, name="c"), ties="drop")
    assert [(sample.id, sample.label) for sample in found.samples] == [("b", 0)]
    assert (found.num_ties, found.num_conflicts, found.num_dropped) == (2, 3, 2)
    assert majority(image(0, 1), ties="drop").samples == ()


@settings(max_examples=100, deadline=None)
@given(votes=st.lists(st.integers(0, 3), min_size=1, max_size=12), ties=st.sampled_from(["lowest", "rarest"]))
def test_a_label_is_a_winner_whom_the_rule_prefers_to_all_others(votes: list[int], ties: Ties) -> None:
    (sample,) = majority(image(*votes), ties=ties).samples
    counts = [votes.count(each) for each in range(4)]
    winners = [each for each in range(4) if counts[each] == max(counts)]
    preferred = winners[0]
    for each in winners[1:]:
        if ties == "rarest" and NUM_PEOPLE_K[each] < NUM_PEOPLE_K[preferred]:
            preferred = each
    assert sample.label == preferred
    assert labels.most_frequent(Counter(votes)) == winners
    assert majority(image(*votes), ties="drop").num_dropped == majority(image(*votes)).num_ties == (len(winners) > 1)
    # Nor does it matter in which order the people stand in the file.
    for order in itertools.islice(itertools.permutations(votes), 5):
        assert majority(image(*order), ties=ties).samples == (sample,)


def test_every_person_is_a_sample() -> None:
    other: Box = (0.1, 0.9, 0.1, 0.1)
    people = image(Person(2, BOX, 5), Person(0, other, None), Person(2, BOX, "c"), name="a")
    found = labels.apply([people, image(Person(1, BOX), name="b")], "person", "drop", NUM_PEOPLE_K)
    assert found.samples == (
        Sample("a#0", "R1", 30, frozenset({2}), BOX, 5),
        Sample("a#1", "R1", 30, frozenset({0}), other, None),
        Sample("a#2", "R1", 30, frozenset({2}), BOX, "c"),
        Sample("b#0", "R1", 30, frozenset({1}), BOX, None),
    )
    assert (found.num_conflicts, found.num_ties, found.num_dropped) == (1, 0, 0)  # no rule is asked, none drops


def test_a_keyframe_may_carry_all_labels_of_its_people() -> None:
    found = labels.apply([image(2, 0, 2), image(1)], "multi", "drop", NUM_PEOPLE_K)
    assert [sample.labels for sample in found.samples] == [{0, 2}, {1}]
    assert (found.num_conflicts, found.num_ties, found.num_dropped) == (1, 0, 0)
    with pytest.raises(ValueError, match="too many values"):
        _ = found.samples[0].label  # one of two would be a guess


def test_a_person_without_a_box_is_refused_by_name() -> None:
    broken = image(Person(0, BOX), Person(1), name="SL14_9")
    with pytest.raises(ValueError, match=r"person 1 of image SL14_9 \(images\[3\] of train\.json\) has none"):
        labels.apply([broken], "person", "lowest", NUM_PEOPLE_K)
    assert len(majority(broken).samples) == 1  # who looks at whole frames needs no box


@pytest.mark.parametrize(
    "box",
    [
        (1.2, 0.5, 0.2, 0.2),
        (0.5, -0.1, 0.2, 0.2),
        (0.5, 0.5, 1.5, 0.2),
        (0.5, 0.5, 0.2, 0.0),
        (30, 20, 10, 10),  # pixels
    ],
)
def test_a_box_that_is_no_fraction_of_the_frame_is_refused_by_name(box: Box) -> None:
    with pytest.raises(ValueError, match=r"person 0 of image SL14_9 \(images\[3\] of train\.json\)") as raised:
        labels.apply([image(Person(0, box), name="SL14_9")], "person", "lowest", NUM_PEOPLE_K)
    assert str(list(box)) in str(raised.value)
    assert not labels.is_fractions(box)


@pytest.mark.parametrize("box", [(0, 1, 0.5, 1), (1, 1, 1, 1), (0.5, 0.5, 1e-9, 1e-9)])
def test_a_box_may_touch_the_border_and_reach_over_it(box: Box) -> None:
    assert labels.is_fractions(box)
    assert len(labels.apply([image(Person(0, box))], "person", "lowest", NUM_PEOPLE_K).samples) == 1


def test_over_the_border_is_what_lies_outside_by_more_than_rounding() -> None:
    assert not labels.reaches_over_the_border((0.5, 0.5, 1.0, 1.0))
    assert not labels.reaches_over_the_border((0.5 + 1e-8, 0.5, 1.0, 1.0))
    for box in ((0.9, 0.5, 0.3, 0.1), (0.1, 0.5, 0.3, 0.1), (0.5, 0.9, 0.1, 0.3), (0.5, 0.1, 0.1, 0.3)):
        assert labels.reaches_over_the_border(box)


def test_two_files_add_up() -> None:
    train = majority(image(0, 1, name="a"), ties="drop")
    val = majority(image(0, 0, 1, name="b"))
    both = train + val
    assert both.samples == train.samples + val.samples
    assert (both.num_conflicts, both.num_ties, both.num_dropped) == (2, 1, 1)


def test_the_real_people(real_root: Path) -> None:
    train, val = (annotations.read(real_root / "annotations" / f"{split}.json") for split in ("train", "val"))
    num_people_K = [
        sum(person.label == k for file in (train, val) for image in file.images for person in image.people)
        for k in range(14)
    ]
    for policy, num_train, num_val in (("majority", 314, 73), ("multi", 314, 73), ("person", 405, 95)):
        found = [labels.apply(file.images, policy, "lowest", num_people_K) for file in (train, val)]
        assert [len(each.samples) for each in found] == [num_train, num_val]
        assert [each.num_ties for each in found] == ([72, 22] if policy == "majority" else [0, 0])
    for ties in ("rarest", "drop"):
        found = [labels.apply(file.images, "majority", ties, num_people_K) for file in (train, val)]
        assert [each.num_ties for each in found] == [72, 22]
        assert [len(each.samples) for each in found] == ([314 - 72, 73 - 22] if ties == "drop" else [314, 73])
