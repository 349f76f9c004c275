"""Tracks: a crop follows its person between keyframes, and nobody else."""

from pathlib import Path

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slowfast_ray.data import dataset, labels, tracks
from slowfast_ray.data.annotations import Box, Image, Person
from slowfast_ray.data.config import DataConfig
from slowfast_ray.data.labels import Sample
from slowfast_ray.data.tracks import Tracks

NUM_FRAMES = {"R1": 50, "R2": 30}


def someone(x: float, y: float, object_id: int | str | None, size: tuple[float, float] = (0.1, 0.2)) -> Person:
    return Person(0, (x, y, *size), object_id)


def image(name: str, keyframe: int, *people: Person, image_id: str = "") -> Image:
    return Image(image_id or f"{name}_{keyframe}", name, keyframe, people, "images[0]")


def build(*images: Image, of: list[Image] | None = None) -> tuple[list[Sample], Tracks]:
    """Tracks of all people of `of`, or of all images."""
    samples = list(labels.apply(of or images, "person", "lowest", [0]).samples)
    return samples, tracks.build(samples, images)


def path(found: Tracks, sample: int, length: int) -> np.ndarray:
    """float32 [length, 2]: the centre in every frame of the sample's recording."""
    return found.rows(torch.tensor([sample])).centers_ST2(torch.arange(length)[None])[0].numpy()


def test_a_centre_moves_straight_from_keyframe_to_keyframe() -> None:
    images = [
        image("R1", 30, someone(0.6, 0.1, 1)),
        image("R1", 10, someone(0.2, 0.5, 1)),
        image("R1", 34, someone(1, 0.1, 1)),
    ]
    samples, found = build(*images)
    for i in range(len(samples)):  # one track for all samples of a person, whatever the order of the file
        xy = path(found, i, 50)
        for frame, (x, y) in {10: (0.2, 0.5), 20: (0.4, 0.3), 15: (0.3, 0.4), 30: (0.6, 0.1), 32: (0.8, 0.1)}.items():
            np.testing.assert_allclose(xy[frame], (x, y), atol=1e-6)
        # Held before the first and after the last: where nobody looked, nobody moves.
        np.testing.assert_allclose(xy[:10], [(0.2, 0.5)] * 10, atol=1e-6)
        np.testing.assert_allclose(xy[34:], [(1, 0.1)] * 16, atol=1e-6)
    assert found.centers_M2.shape == (25, 2)
    assert found.centers_M2.dtype == torch.float32


def test_two_persons_have_two_tracks() -> None:
    images = [
        image("R1", 0, someone(0.1, 0.1, 1), someone(0.9, 0.9, 2)),
        image("R1", 20, someone(0.7, 0.7, 2), someone(0.3, 0.3, 1)),  # in another order
    ]
    _, found = build(*images)
    for sample, middle in ((0, 0.2), (1, 0.8), (2, 0.8), (3, 0.2)):
        np.testing.assert_allclose(path(found, sample, 50)[10], (middle, middle), atol=1e-6)


def test_a_number_names_a_person_within_one_recording() -> None:
    images = [
        image("R1", 5, someone(0.1, 0.2, 1)),
        image("R2", 5, someone(0.8, 0.9, 1)),
        image("R1", 15, someone(0.1, 0.4, 1)),
    ]
    _, found = build(*images)
    np.testing.assert_allclose(path(found, 0, 50)[10], (0.1, 0.3), atol=1e-6)
    np.testing.assert_allclose(path(found, 1, 30), [(0.8, 0.9)] * 30, atol=1e-6)


def test_a_person_without_a_number_stays() -> None:
    images = [
        image("R1", 0, someone(0.1, 0.1, None), someone(0.5, 0.6, None)),
        image("R1", 20, someone(0.9, 0.9, None)),
        image("R1", 30, someone(0.3, 0.3, 0)),  # 0 is a number
        image("R1", 40, someone(0.4, 0.3, 0)),
    ]
    _, found = build(*images)
    for sample, place in ((0, (0.1, 0.1)), (1, (0.5, 0.6)), (2, (0.9, 0.9))):
        np.testing.assert_allclose(path(found, sample, 50), [place] * 50, atol=1e-6)
    np.testing.assert_allclose(path(found, 3, 50)[35], (0.35, 0.3), atol=1e-6)


def test_two_images_of_one_id_are_two() -> None:
    # Both files may number their images from 0, and a split by time takes samples of both.
    places = {("R1", 5): (0.1, 0.1), ("R2", 7): (0.9, 0.9), ("R1", 30): (0.4, 0.6)}
    images = [image(*at, someone(*place, None), image_id="0") for at, place in places.items()]
    samples, found = build(*images)
    assert {sample.id for sample in samples} == {"0#0"}
    for i, ((name, _), place) in enumerate(places.items()):
        np.testing.assert_allclose(path(found, i, NUM_FRAMES[name]), [place] * NUM_FRAMES[name], atol=1e-6)


def test_people_are_followed_over_keyframes_of_other_samples() -> None:
    # The box of a keyframe that validates, or was dropped, still says where the person was.
    images = [image("R1", 10, someone(0.2, 0.2, 1)), image("R1", 20, someone(0.4, 0.4, 1))]
    _, found = build(*images, of=images[:1])
    assert len(found.rows_S) == 1
    np.testing.assert_allclose(path(found, 0, 50)[15], (0.3, 0.3), atol=1e-6)


def test_a_box_keeps_the_size_of_its_own_keyframe() -> None:
    sizes = [(0.1, 0.2), (0.3, 0.1)]
    images = [image("R1", 10 * i, someone(0.5, 0.5, 1, size)) for i, size in enumerate(sizes)]
    _, found = build(*images)
    np.testing.assert_allclose(found.sizes_S2, sizes, atol=1e-6)
    some = found.rows(torch.tensor([1]))
    np.testing.assert_allclose(some.sizes_S2, sizes[1:], atol=1e-6)
    assert some.rows_S.tolist() == found.rows_S[1:].tolist()
    assert some.centers_M2 is found.centers_M2


def test_an_annotation_without_a_box_is_no_part_of_a_track() -> None:
    images = [
        image("R1", 10, someone(0.2, 0.2, 1)),
        image("R1", 20, Person(0, None, 1)),
        image("R1", 30, someone(0.4, 0.4, 1)),
    ]
    _, found = build(*images, of=[images[0]])
    np.testing.assert_allclose(path(found, 0, 50)[20], (0.3, 0.3), atol=1e-6)


def test_a_track_takes_no_more_than_the_frames_between_its_keyframes() -> None:
    # Recordings are hours long, and trackers give new numbers all the time.
    images = [image("R1", 20_000 + i, someone(0.5, 0.5, None), someone(0.4, 0.4, i), someone(0.3, 0.3, "all"))
              for i in range(100)]  # fmt: skip
    _, found = build(*images)
    assert found.centers_M2.shape == (300, 2)


@settings(max_examples=100, deadline=None)
@given(
    tracks_=st.lists(
        st.dictionaries(st.integers(0, 49), st.tuples(*[st.floats(0, 1)] * 2), min_size=1), min_size=1, max_size=4
    )
)
def test_centres_are_bit_for_bit_those_of_a_line_over_the_whole_recording(
    tracks_: list[dict[int, tuple[float, float]]],
) -> None:
    images = [
        image("R1", keyframe, someone(*place, number)) for number, known in enumerate(tracks_)
        for keyframe, place in known.items()
    ]  # fmt: skip
    samples, found = build(*images)
    for i, sample in enumerate(samples):
        assert isinstance(sample.object_id, int)
        known = tracks_[sample.object_id]
        frames = sorted(known)
        expected = [np.interp(np.arange(50), frames, [known[frame][axis] for frame in frames]) for axis in (0, 1)]
        np.testing.assert_array_equal(path(found, i, 50), np.stack(expected, axis=1).astype(np.float32))


def test_every_real_person_stands_in_their_box_at_their_keyframe(real_root: Path) -> None:
    data = dataset.load(DataConfig(root=str(real_root), labels="person"))
    box_of: dict[str, Box | None] = {sample.id: sample.box for sample in data.labelled.samples}
    for split in (data.train, data.val):
        assert split.tracks is not None
        centers_S2 = split.tracks.centers_ST2((split.keyframes_S - split.firsts_S)[:, None])[:, 0]
        boxes = [box_of[sample_id] for sample_id in split.ids]
        np.testing.assert_allclose(centers_S2, [box[:2] for box in boxes if box], atol=1e-6)
        np.testing.assert_allclose(split.tracks.sizes_S2, [box[2:] for box in boxes if box], atol=1e-6)
