"""Windows over whole recordings: each frame is in one, nothing reaches over a gap, each says what its clip says."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from slowfast_ray.data import dataset, recordings
from slowfast_ray.data.dataset import Dataset
from slowfast_ray.data.recordings import Recording
from slowfast_ray.experiment import Experiment
from slowfast_ray.learning import checkpoint
from slowfast_ray.running.predicting import Predictor
from slowfast_ray.running.predictions import stretches, windows
from slowfast_ray.running.publishing import model_folder
from slowfast_ray.running.training import worker

Maker = Callable[[Path], Experiment]


def trained(experiment: Experiment, folder: Path) -> Predictor:
    """A model of an epoch."""
    worker.train(experiment, folder / "run", "val/loss", lambda row: None)
    newest = checkpoint.newest(folder / "run")
    assert newest is not None
    model_folder.write(folder / "model", newest, dataset.load(experiment.data))
    return Predictor.load(folder / "model")


@pytest.fixture(scope="module")
def data(tiny_in: Maker, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return dataset.load(tiny_in(tmp_path_factory.mktemp("data")).data)


@pytest.fixture(scope="module")
def predictor(tiny_in: Maker, tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    """Looks at 8 frames, every second: a window of 16."""
    folder = tmp_path_factory.mktemp("frames")
    return trained(tiny_in(folder), folder)


@pytest.fixture(scope="module")
def by_clock(tiny_in: Maker, tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    """Looks at 8 frames, one every 340 ms: a window of 2,720 ms."""
    folder = tmp_path_factory.mktemp("clock")
    return trained(tiny_in(folder).override({"data.frame_interval_ms": 340.0}), folder)


@pytest.fixture(scope="module")
def of_people(tiny_in: Maker, tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    """Looks at one person at a time."""
    folder = tmp_path_factory.mktemp("people")
    return trained(tiny_in(folder).override({"data.labels": "person"}), folder)


@pytest.fixture
def path(data: Dataset) -> Path:
    return data.root / "frames" / f"{data.source.timeline.recordings[0]}.h5"


@pytest.fixture
def recording(path: Path) -> Recording:
    return recordings.read(path)


def with_gap(recording: Recording, after: int = 99, pause_ms: int = 60_000) -> Recording:
    assert recording.times_N is not None
    late_N = np.arange(len(recording.times_N)) > after
    return replace(recording, times_N=recording.times_N + pause_ms * late_N)


def probabilities(table: pd.DataFrame) -> np.ndarray:
    return table[[name for name in table if str(name).startswith(windows.PROBABILITY_OF)]].to_numpy()


@pytest.mark.parametrize("every", [None, 1, 7, 100, 1000])
@pytest.mark.parametrize("pause_ms", [0, 60_000])
def test_every_frame_is_in_one_window(
    predictor: Predictor, recording: Recording, every: int | None, pause_ms: int
) -> None:
    found = stretches.cut(
        len(recording.frames_NHW), with_gap(recording, 99, pause_ms).times_N, predictor.experiment.data, every
    )
    seen = [n for first, last in zip(found.firsts_S, found.lasts_S, strict=True) for n in range(first, last + 1)]
    assert seen == list(range(260))
    assert ((found.firsts_S <= found.keyframes_S) & (found.keyframes_S <= found.lasts_S)).all()
    assert (found.lasts_S - found.firsts_S).max() < (every or 8), "by default half the window of 16 frames"
    assert (99 in found.lasts_S) or not pause_ms, "no stretch reaches over the gap"


def test_a_row_says_what_the_clip_around_its_middle_says(predictor: Predictor, path: Path) -> None:
    table = windows.of_recording(predictor, path, every=30)
    assert table["start_frame"].tolist() == [0, 30, 60, 90, 120, 150, 180, 210, 240]
    assert table["end_frame"].tolist()[-2:] == [239, 259], "the last one is shorter"
    assert table["keyframe"].tolist()[-2:] == [225, 250]
    recording = recordings.read(path)
    answer = predictor.of_recording(recording, torch.tensor(table["keyframe"].to_numpy()))
    expected_SK = predictor.probabilities_SK(answer.logits_SK).numpy()
    assert (probabilities(table) == expected_SK).all()
    assert table["class"].tolist() == [predictor.classes[k] for k in expected_SK.argmax(axis=1)]
    assert table["probability"].tolist() == expected_SK.max(axis=1).tolist()
    for names, shares, row_K in zip(table["top3"], table["top3_probabilities"], expected_SK, strict=True):
        assert shares == sorted(row_K.tolist(), reverse=True)[:3]
        assert [row_K[predictor.classes.index(name)] for name in names] == shares
    assert recording.times_N is not None
    assert table["start_ms"].tolist() == recording.times_N[table["start_frame"]].tolist()
    assert table["end_ms"].tolist() == recording.times_N[table["end_frame"]].tolist()
    assert set(table["recording"]) == {path.stem}
    assert set(table["note"]) == {""}


def test_windows_at_the_ends_are_padded_and_say_so(predictor: Predictor, path: Path) -> None:
    heard: list[int] = []
    table = windows.of_recording(predictor, path, on_batch=heard.append)
    assert [bool(note) for note in table["note"]] == [True, *[False] * 31, True]
    assert table["note"].iloc[0] == "padded: frames at its ends repeated"
    assert sum(heard) == len(table) == 33


def test_smoothing_is_a_moving_average_that_no_gap_crosses() -> None:
    values_SK = np.array([[0.0, 1], [0.3, 0.7], [0.6, 0.4], [0.9, 0.1], [0.2, 0.8]])
    smooth_SK = windows.smoothed(values_SK, np.array([0, 0, 0, 1, 1]), 3)
    assert np.allclose(smooth_SK[:, 0], [0.15, 0.3, 0.45, 0.55, 0.55])
    assert np.allclose(smooth_SK.sum(axis=1), 1)
    assert np.allclose(windows.smoothed(values_SK, np.zeros(5), 99), values_SK.mean(axis=0)), "longer than all"
    assert (windows.smoothed(values_SK, np.zeros(5), 1) == values_SK).all()


def test_smoothed_rows_stay_on_their_side_of_a_gap(predictor: Predictor, recording: Recording) -> None:
    gapped = with_gap(recording)
    plain, smooth = windows.of_frames(predictor, gapped), windows.of_frames(predictor, gapped, smooth=5)
    is_before = (plain["end_frame"] <= 99).to_numpy()
    assert 3 < is_before.sum() < len(plain) - 3
    raw_SK, smooth_SK = probabilities(plain), probabilities(smooth)
    last, first = np.flatnonzero(is_before)[-1], np.flatnonzero(~is_before)[0]
    assert np.allclose(smooth_SK[last], raw_SK[last - 2 : last + 1].mean(axis=0))
    assert np.allclose(smooth_SK[first], raw_SK[first : first + 3].mean(axis=0))
    assert smooth["probability"].tolist() == smooth_SK.max(axis=1).tolist(), "classes are those of the average"


@pytest.mark.parametrize("name", ["predictor", "by_clock"])
def test_clips_over_a_gap_say_so(name: str, recording: Recording, request: pytest.FixtureRequest) -> None:
    asked: Predictor = request.getfixturevalue(name)
    table = windows.of_frames(asked, with_gap(recording), every=10)
    over = table.loc[table["note"].str.contains("gap within the clip"), "keyframe"]
    assert over.tolist() == [95, 105], "the gap follows frame 99; a clip reaches 8 frames back and 6 ahead"
    whole = windows.of_frames(asked, with_gap(recording, pause_ms=500), every=10)
    assert not whole["note"].str.contains("gap").any(), "a shorter pause is none"


def test_a_step_by_the_clock_is_half_the_window_in_frames(by_clock: Predictor, path: Path) -> None:
    table = windows.of_recording(by_clock, path)
    assert (table["end_frame"] - table["start_frame"] + 1).max() == 8, "1,360 ms at about 170 ms a frame"


def test_without_times_there_are_none_in_the_table(
    predictor: Predictor, by_clock: Predictor, recording: Recording
) -> None:
    table = windows.of_frames(predictor, replace(recording, times_N=None))
    assert table["start_ms"].isna().all()
    assert str(table["end_ms"].dtype) == "Int64"
    assert table["probability"].equals(windows.of_frames(predictor, recording)["probability"])
    with pytest.raises(ValueError, match="has no `timestamps`"):
        windows.of_frames(by_clock, replace(recording, times_N=None))
    assert recording.times_N is not None
    backwards = windows.of_frames(predictor, replace(recording, times_N=recording.times_N[::-1].copy()))
    assert backwards["start_ms"].isna().all()
    assert backwards["note"].str.contains("timestamps run backwards").all()


def test_other_sizes_are_resized_and_every_row_says_so(predictor: Predictor, recording: Recording) -> None:
    doubled = replace(recording, frames_NHW=recording.frames_NHW.repeat(2, axis=1).repeat(2, axis=2))
    table = windows.of_frames(predictor, doubled)
    assert table["note"].str.contains("resized from 80 x 120 to 40 x 60").all()
    assert np.allclose(probabilities(table), probabilities(windows.of_frames(predictor, recording)), atol=0.05)


def test_a_single_frame_is_one_window(predictor: Predictor, recording: Recording) -> None:
    assert recording.times_N is not None
    alone = replace(recording, frames_NHW=recording.frames_NHW[:1], times_N=recording.times_N[:1])
    table = windows.of_frames(predictor, alone, smooth=3)
    assert len(table) == 1
    assert "padded" in table["note"].iloc[0]


def test_each_person_is_followed_in_rows_of_their_own(of_people: Predictor, tiny: Experiment, path: Path) -> None:
    data = dataset.load(tiny.override({"data.labels": "person"}).data)
    images = data.source.images
    mine = [image for image in images if image.recording == path.stem]
    known = {str(person.object_id) for image in mine for person in image.people}
    table = windows.of_recording(of_people, path, images=images)
    assert set(table["person"]) == known
    assert (table.groupby("person").size() == 33).all()
    assert table["note"].str.contains("no box within the clip").any(), "where a person is there is a guess"
    # Smoothing one person leaves the other alone.
    raw_SK, smooth_SK = (
        probabilities(table),
        probabilities(windows.of_recording(of_people, path, images=images, smooth=3)),
    )
    assert np.allclose(smooth_SK[33], raw_SK[33:35].mean(axis=0))
    # At a keyframe, the crop is the one that training sees.
    every_frame = windows.of_recording(of_people, path, images=images, every=1)
    assert data.train.tracks is not None
    rows = torch.arange(len(data.train))[:10]
    samples = [data.labelled.samples[i] for i in data.members.train[:10]]
    assert {sample.recording for sample in samples} == {path.stem}
    keyframes_S = torch.tensor([sample.keyframe for sample in samples])
    answer = of_people.of_recording(recordings.read(path), keyframes_S, data.train.tracks.rows(rows))
    for sample, row_K in zip(samples, of_people.probabilities_SK(answer.logits_SK).numpy(), strict=True):
        here = every_frame[
            (every_frame["keyframe"] == sample.keyframe) & (every_frame["person"] == str(sample.object_id))
        ]
        assert np.allclose(probabilities(here), row_K, atol=1e-6)


def test_a_model_of_people_needs_annotations_and_another_one_none(
    of_people: Predictor, predictor: Predictor, data: Dataset, path: Path
) -> None:
    with pytest.raises(ValueError, match="is annotated with a `bbox` and an `object_id`"):
        windows.of_recording(of_people, path)
    table = windows.of_recording(predictor, path, images=data.source.images)
    assert "person" not in table


def test_nobody_is_missed_where_nobody_is_looked_at(by_clock: Predictor, recording: Recording) -> None:
    # Pairs of frames at one time, and an interval so short that a clip shows nothing but the first one of its pair.
    quick = replace(by_clock, experiment=by_clock.experiment.override({"data.frame_interval_ms": 0.16}))
    table = windows.of_frames(quick, replace(recording, times_N=np.arange(1, 261) // 2 * 2), every=1)
    assert not table["note"].str.contains(windows.NO_BOX).any()


@pytest.mark.parametrize(
    ("every", "smooth", "says"),
    [(0, None, "`every` .=0"), (-3, None, "`every`"), (None, 2, "try 3"), (None, 0, "try 3")],
)
def test_impossible_steps_are_refused(
    predictor: Predictor, path: Path, every: int | None, smooth: int | None, says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        windows.of_recording(predictor, path, every=every, smooth=smooth)


def test_a_damaged_recording_says_what_is_wrong(predictor: Predictor, path: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.h5"
    cut.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match="cannot be read as HDF5"):
        windows.of_recording(predictor, cut)
