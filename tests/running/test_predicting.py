"""A network on new recordings says what it said in evaluation, and refuses what it cannot understand."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from slowfast_ray.data import dataset, recordings
from slowfast_ray.data.dataset import Dataset
from slowfast_ray.data.recordings import Recording
from slowfast_ray.experiment import Experiment
from slowfast_ray.learning import checkpoint
from slowfast_ray.running.predicting import Predictor
from slowfast_ray.running.publishing import model_folder
from slowfast_ray.running.training import worker


def trained(experiment: Experiment, folder: Path) -> tuple[Path, Dataset]:
    """A checkpoint, and what it was trained on."""
    worker.train(experiment, folder / "run", "val/loss", lambda row: None)
    newest = checkpoint.newest(folder / "run")
    assert newest is not None
    return newest, dataset.load(experiment.data)


@pytest.fixture(scope="module")
def chosen(tiny_in: Callable[[Path], Experiment], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Dataset]:
    folder = tmp_path_factory.mktemp("trained")
    return trained(tiny_in(folder), folder)


@pytest.fixture(scope="module")
def by_clock(tiny_in: Callable[[Path], Experiment], tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    """Takes 8 frames, one every 170 ms."""
    folder = tmp_path_factory.mktemp("clock")
    newest, data = trained(tiny_in(folder).override({"data.frame_interval_ms": 170.0}), folder)
    model_folder.write(folder / "model", newest, data)
    return Predictor.load(folder / "model")


@pytest.fixture
def predictor(chosen: tuple[Path, Dataset], tmp_path: Path) -> Predictor:
    model_folder.write(tmp_path / "model", *chosen)
    return Predictor.load(tmp_path / "model")


def test_a_model_holds_no_path_of_the_machine_that_trained(chosen: tuple[Path, Dataset], tmp_path: Path) -> None:
    model_folder.write(tmp_path / "model", *chosen)
    texts = [each.read_text() for each in (tmp_path / "model").iterdir() if each.suffix == ".json"]
    assert len(texts) == 2
    assert not any(str(chosen[1].root) in text or str(chosen[0].parent) in text for text in texts)


@pytest.mark.parametrize(
    "changes",
    [{}, {"data.frame_interval_ms": 170.0}, {"data.labels": "person"}, {"data.labels": "multi", "data.height": 48}],
)
def test_logits_are_those_of_the_evaluation_bit_for_bit(
    tiny: Experiment, tmp_path: Path, changes: dict[str, Any]
) -> None:
    # One clip at a time: beside other neighbours, a convolution may round otherwise.
    newest, data = trained(tiny.override({"data.clip_len": 16, "learning.micro_batch": 1, **changes}), tmp_path)
    model_folder.write(tmp_path / "model", newest, data)
    predictor = Predictor.load(tmp_path / "model")
    evaluated_SK = checkpoint.read_predictions(newest).logits_SK
    num_seen = 0
    for name, first in zip(data.source.timeline.recordings, data.source.timeline.firsts, strict=True):
        rows = (data.val.firsts_S == first).nonzero().flatten()
        followed = None if data.val.tracks is None else data.val.tracks.rows(rows)
        recording = recordings.read(data.root / "frames" / f"{name}.h5")
        answer = predictor.of_recording(recording, data.val.keyframes_S[rows] - first, followed)
        assert torch.equal(answer.logits_SK, evaluated_SK[rows])
        num_seen += len(rows)
    assert num_seen == len(data.val) > 2


def test_a_clip_that_is_cut_out_says_what_its_recording_says(
    predictor: Predictor, chosen: tuple[Path, Dataset]
) -> None:
    recording, window = first_recording(chosen[1]), 16
    keyframes_S = torch.tensor([100, 130])
    cut_STHW = np.stack([recording.frames_NHW[k - window // 2 : k + window // 2] for k in keyframes_S.tolist()])
    whole, cut = predictor.of_recording(recording, keyframes_S), predictor.of_clips(cut_STHW)
    assert torch.equal(cut.logits_SK, whole.logits_SK)
    assert cut.notes_S == whole.notes_S == ("", "")


def test_a_short_clip_is_padded_and_says_so(predictor: Predictor, chosen: tuple[Path, Dataset]) -> None:
    frames_NHW = first_recording(chosen[1]).frames_NHW
    answer = predictor.of_clips(frames_NHW[None, :15])
    assert answer.notes_S == ("padded: frames at its ends repeated",)
    start = predictor.of_recording(first_recording(chosen[1]), torch.tensor([7, 8, 251, 252, 254]))
    # 8 frames, every second: 8 before the keyframe, 6 after it, of 260.
    assert [bool(note) for note in start.notes_S] == [True, False, False, False, True]


def test_dead_pixels_are_repaired_as_in_training_and_noted(predictor: Predictor, chosen: tuple[Path, Dataset]) -> None:
    frames_STHW = first_recording(chosen[1]).frames_NHW[None, 100:116].copy()
    healthy = predictor.of_clips(frames_STHW)
    frames_STHW[0, 5, 3, 4] = -273.2
    answer = predictor.of_clips(frames_STHW)
    assert answer.notes_S == ("1 dead pixel values repaired",)
    assert torch.allclose(answer.logits_SK, healthy.logits_SK, atol=0.1)
    assert frames_STHW[0, 5, 3, 4] == np.float32(-273.2), "what was handed over stays as it is"


def test_other_sizes_are_resized_and_noted(predictor: Predictor, chosen: tuple[Path, Dataset]) -> None:
    frames_STHW = first_recording(chosen[1]).frames_NHW[None, 100:116]
    doubled_STHW = frames_STHW.repeat(2, axis=2).repeat(2, axis=3)
    answer = predictor.of_clips(doubled_STHW)
    assert answer.notes_S == ("resized from 80 x 120 to 40 x 60",)
    assert torch.allclose(answer.logits_SK, predictor.of_clips(frames_STHW).logits_SK, atol=0.1)


@pytest.mark.parametrize(
    ("frames", "says"),
    [
        (np.zeros((16, 40, 60), np.float32), "must have the shape"),
        (np.zeros((1, 16, 40, 60), np.int64), "must hold floats"),
        (np.zeros((1, 0, 40, 60), np.float32), "holds no frame"),
        (np.full((2, 16, 40, 60), np.nan, np.float32), "2 of 2 clips hold NaN"),
        (np.full((1, 16, 40, 60), -273.2, np.float32), "nothing was measured"),
        ([["a"]], "must have the shape"),
        (np.full((2, 16, 40, 60), [[[[20]]], [[[1e300]]]]), "clip 1 holds values beyond float32"),
    ],
)
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_frames_that_cannot_be_understood_are_refused(predictor: Predictor, frames: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        predictor.of_clips(frames)


def test_a_model_by_the_clock_needs_times(tiny: Experiment, tmp_path: Path) -> None:
    newest, data = trained(tiny.override({"data.frame_interval_ms": 170.0}), tmp_path)
    model_folder.write(tmp_path / "model", newest, data)
    predictor = Predictor.load(tmp_path / "model")
    frames_STHW = np.full((2, 16, 40, 60), 20, np.float32)
    with pytest.raises(ValueError, match="has no `timestamps`"):
        predictor.of_clips(frames_STHW)
    with pytest.raises(ValueError, match="must hold a finite number for each frame"):
        predictor.of_clips(frames_STHW, np.arange(16))
    with pytest.raises(ValueError, match="run backwards"):
        predictor.of_clips(frames_STHW, np.arange(32).reshape(2, 16)[:, ::-1])
    # The second clip begins before the first one ends: each has a clock of its own.
    times_ST = np.stack([np.arange(16) * 170, np.arange(16) * 170 + 50])
    assert predictor.of_clips(frames_STHW, times_ST).notes_S == ("", "")
    assert all("padded" in note for note in predictor.of_clips(frames_STHW, times_ST // 3).notes_S)
    assert predictor.of_clips(frames_STHW[:0], times_ST[:0]).logits_SK.shape == (0, len(data.classes))
    # A pause longer than the window of 8 x 170 ms in the second clip, and a shorter one.
    for pause_ms, note in ((5000, "gap within the clip"), (500, "")):
        paused_ST = times_ST + [[0], [pause_ms]] * (np.arange(16) >= 10)
        assert predictor.of_clips(frames_STHW, paused_ST).notes_S[0] == ""
        assert note == predictor.of_clips(frames_STHW, paused_ST).notes_S[1]


NOW_MS = 1_764_000_000_000


@pytest.mark.parametrize(
    ("times_T", "says"),
    [
        (np.arange(16, dtype=np.float32) * 170 + NOW_MS, "int64 or float64 milliseconds, but is float32"),
        (np.arange(16, dtype=np.float16) * 170, "float16"),
        ((np.arange(16) * 170 + NOW_MS) / 1000, "0.2 ms apart .* are the times in milliseconds"),
        (np.arange(16) * 0.17, "are the times in milliseconds"),
        ((np.arange(16) * 170 + NOW_MS) * 1000, r"1.7e\+05 ms apart .* one every 170 ms: are the times in milli"),
        (np.full(16, NOW_MS), "all the same"),
        (np.arange(16) * 1e17, "1e.17 ms apart"),
        (np.arange(16) * 1e19, "no clock shows"),
        (np.arange(16, dtype=np.uint64) + np.uint64(2**63), "no clock shows"),
        (np.where(np.arange(16) > 0, np.arange(16) * 170 + NOW_MS, 0), "span more than 30 years"),
    ],
)
def test_times_that_cannot_be_right_are_refused(by_clock: Predictor, times_T: np.ndarray, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        by_clock.of_clips(np.full((1, 16, 40, 60), 20, np.float32), times_T[None])


@pytest.mark.parametrize(
    "times_T",
    [
        np.arange(16) * 4 + NOW_MS,  # 240 frames a second
        np.arange(16) * 1000.0 + NOW_MS,  # one a second
        np.arange(16) // 4 * 680,  # four at once carry the time of the last one
        np.arange(16) * 170 + 3_600_000 * (np.arange(16) > 7),  # an hour's pause
    ],
)
def test_times_of_real_sensors_are_taken(by_clock: Predictor, times_T: np.ndarray) -> None:
    assert len(by_clock.of_clips(np.full((1, 16, 40, 60), 20, np.float32), times_T[None]).notes_S) == 1


def test_recordings_with_times_that_cannot_be_right_are_refused(
    by_clock: Predictor, chosen: tuple[Path, Dataset]
) -> None:
    recording = first_recording(chosen[1])
    assert recording.times_N is not None
    for times_N, says in (
        (recording.times_N // 1000, "0.1.* ms apart"),
        (recording.times_N * 1000, "are the times in milliseconds"),
        (recording.times_N * 0, "all the same"),
    ):
        with pytest.raises(ValueError, match=f"The recording {recording.id} .*{says}"):
            by_clock.of_recording(replace(recording, times_N=times_N), torch.tensor([100]))


def test_another_unit_is_noted(predictor: Predictor, chosen: tuple[Path, Dataset]) -> None:
    clip_THW = first_recording(chosen[1]).frames_NHW[100:116]
    frames_STHW = np.stack([clip_THW, clip_THW + 273.15, clip_THW * 100, np.full_like(clip_THW, 1e30)])
    answer = predictor.of_clips(frames_STHW)
    assert answer.notes_S[0] == ""
    for note in answer.notes_S[1:]:
        assert note == "100% of the pixels lie outside 10 to 35 degrees Celsius: is the unit right?"


def test_a_box_for_each_frame_says_what_a_track_says_bit_for_bit(tiny: Experiment, tmp_path: Path) -> None:
    newest, data = trained(
        tiny.override({"data.labels": "person", "data.clip_len": 16, "learning.micro_batch": 1}), tmp_path
    )
    model_folder.write(tmp_path / "model", newest, data)
    of_people, val, tracks = Predictor.load(tmp_path / "model"), data.val, data.val.tracks
    assert tracks is not None
    rows = ((val.keyframes_S - val.firsts_S >= 16) & (val.lasts_S - val.keyframes_S >= 16)).nonzero().flatten()
    evaluated_SK = checkpoint.read_predictions(newest).logits_SK[rows]
    frames, boxes = [], []
    for row in rows.tolist():
        first = int(val.keyframes_S[row]) - 16
        frames.append(data.frames_NHW[first : first + 32].numpy())
        in_recording_T = torch.arange(first, first + 32) - val.firsts_S[row]
        centers_T2 = tracks.rows(torch.tensor([row])).centers_ST2(in_recording_T[None])[0]
        boxes.append(np.concatenate([centers_T2.numpy(), tracks.sizes_S2[row].expand(32, 2).numpy()], axis=1))
    boxes_ST4 = np.stack(boxes)
    assert (boxes_ST4[:, 0, :2] != boxes_ST4[:, -1, :2]).any(), "somebody walks"
    assert torch.equal(of_people.of_clips(np.stack(frames), boxes=boxes_ST4).logits_SK, evaluated_SK)
    still = of_people.of_clips(np.stack(frames), boxes=boxes_ST4[:, 16])
    assert not torch.equal(still.logits_SK, evaluated_SK), "a crop that stays shows something else"
    with pytest.raises(ValueError, match="or for each frame"):
        of_people.of_clips(np.stack(frames), boxes=boxes_ST4[:, 1:])


def test_a_model_of_people_needs_boxes_and_another_one_none(
    predictor: Predictor, tiny: Experiment, tmp_path: Path
) -> None:
    frames_STHW, boxes_S4 = np.full((1, 16, 40, 60), 20, np.float32), np.array([[0.5, 0.5, 0.2, 0.4]])
    with pytest.raises(ValueError, match="leave out the boxes"):
        predictor.of_clips(frames_STHW, boxes=boxes_S4)
    newest, data = trained(tiny.override({"data.labels": "person"}), tmp_path)
    model_folder.write(tmp_path / "people", newest, data)
    of_people = Predictor.load(tmp_path / "people")
    assert of_people.of_clips(frames_STHW, boxes=boxes_S4).logits_SK.shape == (1, len(data.classes))
    with pytest.raises(ValueError, match="needs a box"):
        of_people.of_clips(frames_STHW)
    with pytest.raises(ValueError, match="fractions of the frame"):
        of_people.of_clips(frames_STHW, boxes=boxes_S4 * 60)
    with pytest.raises(ValueError, match="for each clip"):
        of_people.of_clips(frames_STHW, boxes=boxes_S4[0])


def test_another_format_says_who_wrote_it(predictor: Predictor, tmp_path: Path) -> None:
    file = tmp_path / "model" / model_folder.MODEL
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "format_version": 0, "written_by": "slowfast_ray 0.0.7"}))
    with pytest.raises(ValueError, match=r"format version 0 and was written by slowfast_ray 0\.0\.7"):
        Predictor.load(tmp_path / "model")
    file.unlink()
    with pytest.raises(ValueError, match="is no model"):
        Predictor.load(tmp_path / "model")


def test_a_checkpoint_without_weights_gives_no_model(chosen: tuple[Path, Dataset], tmp_path: Path) -> None:
    bare = tmp_path / "run" / "epoch-001"
    bare.mkdir(parents=True)
    (bare / "progress.json").write_text((chosen[0] / "progress.json").read_text())
    with pytest.raises(ValueError, match="holds no weights"):
        model_folder.write(tmp_path / "model", bare, chosen[1])
    assert not (tmp_path / "model").exists()


def first_recording(data: Dataset) -> Recording:
    return recordings.read(data.root / "frames" / f"{data.source.timeline.recordings[0]}.h5")
