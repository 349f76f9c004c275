"""Every kind of bad input gives one clear error before Ray starts, exit code 2, and leaves nothing behind."""

import json
import os
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import ray
import torch
from mlflow import MlflowClient
from ray import tune
from ray._private.ray_constants import DEFAULT_RUNTIME_ENV_DIR_NAME
from ray._private.runtime_env.working_dir import WorkingDirPlugin

from slowfast_ray.experiment import LAPTOP, Experiment
from slowfast_ray.running import preflight
from slowfast_ray.running.folders import begun
from slowfast_ray.running.searching import tuner
from slowfast_ray.running.searching.config import SearchConfig
from slowfast_ray.running.searching.search_space import Space
from slowfast_ray.running.tracking import tracking

ROOT = Path(__file__).parents[2]
Call = Callable[..., None]


@pytest.fixture
def damaged(made_up_root: Path, tmp_path: Path) -> Path:
    """A copy of the made-up dataset, to be damaged."""
    return Path(shutil.copytree(made_up_root, tmp_path / "damaged"))


def refusal(call_script: Call, capsys: pytest.CaptureFixture[str], *flags: str, script: str = "tune_thermal") -> str:
    """The error that a script prints for these flags, after checking that it did nothing else."""
    was_connected = ray.is_initialized()
    with pytest.raises(SystemExit) as exit_info:
        call_script(script, *flags)
    assert exit_info.value.code == 2
    assert ray.is_initialized() == was_connected, "Ray was started"
    assert list(Path.cwd().iterdir()) == [], "something was written"
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    return " ".join(printed.err.split())


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_no_such_data_folder(call_script: Call, capsys: pytest.CaptureFixture[str]) -> None:
    assert "No such data folder: /nowhere/at/all" in refusal(call_script, capsys, "--data.root", "/nowhere/at/all")


def test_all_recordings_without_a_file_are_listed(
    call_script: Call, capsys: pytest.CaptureFixture[str], damaged: Path
) -> None:
    (damaged / "frames" / "SYN1_R1.h5").unlink()
    (damaged / "frames" / "SYN2_R2.h5").unlink()
    error = refusal(call_script, capsys, "--data.root", str(damaged))
    assert "SYN1_R1.h5 (train.json), SYN2_R2.h5 (val.json)" in error


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def without_frames(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["frames"]


def replace_frames(path: Path, frames: np.ndarray) -> None:
    with h5py.File(path, "a") as file:
        del file["frames"]
        file["frames"] = frames
        if len(frames) < len(file["timestamps"]):
            del file["timestamps"]


def replace_times(path: Path, times: np.ndarray) -> None:
    with h5py.File(path, "a") as file:
        del file["timestamps"]
        file["timestamps"] = times


RECORDING_DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (truncate, "cannot be read as HDF5"),
    "without frames": (without_frames, "needs a dataset `frames`"),
    "flat": (lambda path: replace_frames(path, np.zeros((260, 2400), np.float32)), "[N, H, W]"),
    "another size": (lambda path: replace_frames(path, np.full((260, 24, 32), 20, np.float32)), "one size"),
    "raw counts": (lambda path: replace_frames(path, np.zeros((260, 40, 60), np.uint16)), "uint16"),
    "NaN": (lambda path: replace_frames(path, np.full((260, 40, 60), np.nan, np.float32)), "NaN or infinity"),
    "times of other frames": (lambda path: replace_times(path, np.arange(99)), "one number a frame"),
    "times that are no numbers": (lambda path: replace_times(path, np.full(260, np.nan)), "holds NaN or infinity"),
    "too short": (lambda path: replace_frames(path, np.full((9, 40, 60), 20, np.float32)), "inside its recording"),
}


@pytest.mark.parametrize("kind", RECORDING_DAMAGE)
def test_damaged_recording(call_script: Call, capsys: pytest.CaptureFixture[str], damaged: Path, kind: str) -> None:
    damage, expected = RECORDING_DAMAGE[kind]
    damage(damaged / "frames" / "SYN1_R1.h5")
    error = refusal(call_script, capsys, "--data.root", str(damaged))
    assert expected in error
    assert "SYN1_R1" in error


def test_category_that_is_not_listed(call_script: Call, capsys: pytest.CaptureFixture[str], damaged: Path) -> None:
    edit(damaged / "annotations" / "val.json", lambda content: content["annotations"][0].update(category_id=99))
    assert "has category_id 99" in refusal(call_script, capsys, "--data.root", str(damaged))


def test_empty_split(call_script: Call, capsys: pytest.CaptureFixture[str], damaged: Path) -> None:
    edit(damaged / "annotations" / "val.json", lambda content: content.update(images=[], annotations=[]))
    assert "at least one labelled image" in refusal(call_script, capsys, "--data.root", str(damaged))


def without_boxes(content: dict[str, Any]) -> None:
    for annotation in content["annotations"][3:]:
        del annotation["bbox"]


def in_pixels(content: dict[str, Any]) -> None:
    content["annotations"][2]["bbox"] = [30.0, 20.0, 8.0, 6.0]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (without_boxes, "`data.labels` person needs a `bbox` of four numbers for everybody"),
        (in_pixels, "has [30.0, 20.0, 8.0, 6.0]; divide by the frame's width and height"),
    ],
)
def test_people_without_a_usable_box(
    call_script: Call, capsys: pytest.CaptureFixture[str], damaged: Path, change: Callable[[dict[str, Any]], None],
    expected: str,
) -> None:  # fmt: skip
    edit(damaged / "annotations" / "train.json", change)
    error = refusal(call_script, capsys, "--data.root", str(damaged), "--data.labels", "person")
    assert expected in error
    assert "annotations/train.json" in error
    call = ("--data.root", str(damaged), "--data.labels", "majority", "--preset", "none")
    assert "preset" in refusal(call_script, capsys, *call), "boxes are nobody's business under other labels"


def test_one_session_cannot_be_left_out(call_script: Call, capsys: pytest.CaptureFixture[str], damaged: Path) -> None:
    for name in ("train", "val"):

        def of_the_first_session(content: dict[str, Any]) -> None:
            content["images"] = [image for image in content["images"] if image["sensor_id"].startswith("SYN1")]
            left = {image["id"] for image in content["images"]}
            content["annotations"] = [each for each in content["annotations"] if each["image_id"] in left]

        edit(damaged / "annotations" / f"{name}.json", of_the_first_session)
    error = refusal(call_script, capsys, "--data.root", str(damaged), "--data.split", "leave-one-session-out")
    assert "needs samples of 2 sessions or more, but all are of one: SYN1_R1 to SYN1_R2" in error


@pytest.mark.parametrize(("name", "expected"), [("timestamps", "has no `timestamps`"), ("backwards", "run backwards")])
def test_clips_by_the_clock_need_a_clock(
    call_script: Call, capsys: pytest.CaptureFixture[str], damaged: Path, name: str, expected: str
) -> None:
    with h5py.File(damaged / "frames" / "SYN1_R1.h5", "a") as file:
        times = file["timestamps"][()]
        del file["timestamps"]
        if name == "backwards":
            file["timestamps"] = np.concatenate([times[:9], times[9:11][::-1], times[11:]])
    error = refusal(call_script, capsys, "--data.root", str(damaged), "--data.frame-interval-ms", "170")
    assert expected in error
    assert "SYN1_R1.h5" in error


def test_a_class_that_never_trains_is_named_and_allowed(tiny: Experiment, damaged: Path) -> None:
    def without_falls(content: dict[str, Any]) -> None:
        for annotation in content["annotations"]:
            annotation["category_id"] = 0 if annotation["category_id"] == 5 else annotation["category_id"]

    edit(damaged / "annotations" / "train.json", without_falls)
    ready = preflight.check(tiny.override({"data.root": str(damaged)}), name="one", objective="val/top1")
    assert any("No training sample" in warning and "transition-falling" in warning for warning in ready.warnings())


@pytest.mark.parametrize("script", ["tune_thermal", "train_thermal"])
@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--data.split", "purged", "--data.num-folds", "900"], "`data.num_folds` (=900) exceeds the labelled moments"),
        (["--data.split", "purged", "--data.fold", "5"], "`data.fold` (=5) does not exist: purged gives 5 folds"),
        (["--data.split", "leave-one-session-out", "--data.fold", "2"], "gives 2 folds here, 0 to 1"),
        (["--data.split", "random"], "--data.split"),
        (["--data.frame-interval-ms", "0"], "`data.frame_interval_ms` (=0.0) must be above 0"),
        (["--data.class-balance", "2"], "`data.class_balance` (=2.0) must be within 0..1"),
        (["--data.clip-len", "30"], "`data.clip_len` (=30) must be divisible by `model.alpha` (=8)"),
        (["--learning.lr", "0"], "`learning.lr` (=0.0) must be above 0"),
        (["--learning.lr", "-1"], "`learning.lr` (=-1.0) must be above 0"),
        (["--learning.batch-size", "1000"], "must not exceed the"),
        (["--learning.lrr", "1"], "--learning.lr"),
        (["--preset", "desktop"], "must be one of laptop, gpu, earlier"),
        (["--learning.micro-batch", "3"], "`learning.micro_batch` (=3) must divide each worker's share"),
        (["--model.freeze-stages", "6"], "`model.freeze_stages` (=6) must be within 0..5"),
        (["--model.weights", "/nowhere/x.pth"], "/nowhere/x.pth"),
        pytest.param(
            ["--learning.precision", "fp16"],
            "`learning.precision` (=fp16) needs a GPU",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
        (["--name", "a/b"], "becomes a folder"),
        (["--run.storage", "/dev/null/runs"], "cannot be written"),
        (["--run.tracking-uri", "http://127.0.0.1:9"], "does not answer"),
        (["--run.tracking-uri", "mlruns"], "must be a URI"),
        (["--run.tracking-uri", "sqlite:////proc/mlflow.db"], "cannot be written"),
        (["--run.storage", "ftp://host/runs"], "must be a folder, or begin with s3:// or gs://"),
        (["--run.storage", """it's "mine\""""], "must not hold both kinds of quotes"),
        (["--run.seed", "5000000000"], "below 2**32"),
        (["--run.num-workers", "33", "--learning.batch-size", "33"], "`run.num_workers` (=33) "),
        (["--run.tracking-uri", "sqlite:////nowhere/mlflow.db"], "does not exist"),
    ],
)
def test_flags(
    call_script: Call, capsys: pytest.CaptureFixture[str], made_up_root: Path, script: str, flags: list[str],
    expected: str,
) -> None:  # fmt: skip
    error = refusal(call_script, capsys, "--data.root", str(made_up_root), *flags, script=script)
    assert expected in error


def test_a_silent_server_is_told_once_it_was_silent_for_its_time(
    call_script: Call, capsys: pytest.CaptureFixture[str], made_up_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tracking.SECONDS_TO_ANSWER == 5
    monkeypatch.setattr(tracking, "SECONDS_TO_ANSWER", 1.0)
    with socket.socket() as server:  # takes connections and never says a word
        server.bind(("127.0.0.1", 0))
        server.listen()
        uri = f"http://127.0.0.1:{server.getsockname()[1]}"
        error = refusal(call_script, capsys, "--data.root", str(made_up_root), "--run.tracking-uri", uri)
        # Once more, without what else a script does first. MLflow's own patience is two minutes, eight times over.
        started = time.monotonic()
        with pytest.raises(ValueError, match="answer"):
            tracking.check(uri)
        assert time.monotonic() - started < 60
    # Whoever's second is over first: that of the check, or that of its request.
    assert f"The tracking server {uri} did not answer within 1 s" in error or f"{uri} does not answer" in error


def test_resume_without_a_run(call_script: Call, capsys: pytest.CaptureFixture[str], made_up_root: Path) -> None:
    flags = ("--data.root", str(made_up_root), "--resume", "--name", "never")
    assert "nothing to resume" in refusal(call_script, capsys, *flags, script="train_thermal")


def test_more_trials_at_once_than_cores(
    call_script: Call, capsys: pytest.CaptureFixture[str], made_up_root: Path
) -> None:
    if ray.is_initialized():
        pytest.skip("a Ray is connected, and would be asked")
    flags = ("--data.root", str(made_up_root), "--search.max-concurrent", "4096")
    assert "`search.max_concurrent` (=4096)" in refusal(call_script, capsys, *flags)


def test_a_deleted_mlflow_experiment(tiny: Experiment) -> None:
    assert tiny.run.tracking_uri is not None
    client = MlflowClient(tiny.run.tracking_uri)
    client.create_experiment("slowfast_ray")
    found = client.get_experiment_by_name("slowfast_ray")
    assert found is not None
    client.delete_experiment(found.experiment_id)
    with pytest.raises(ValueError, match="was deleted"):
        preflight.check(tiny, name="one", objective="val/top1")


def test_a_search_whose_study_is_gone_does_not_go_on(tiny: Experiment, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "search"
    (folder / "trial-000").mkdir(parents=True)
    for name in (begun.BEGUN_AS, begun.SEARCH, begun.STUDY):
        (folder / name).touch()
    space = {"learning.lr": tune.loguniform(0.01, 0.1)}
    with pytest.raises(ValueError, match="gone or empty"):
        tuner.check(tiny, space, SearchConfig(), name="search", resume=True)


def test_a_submitted_job_keeps_its_results_where_they_outlive_it(
    tiny: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = WorkingDirPlugin(os.fspath(tmp_path / DEFAULT_RUNTIME_ENV_DIR_NAME), None)
    job = plugin._get_directory_on_node("gcs://_ray_pkg_1.zip")
    (job / "experiments").mkdir(parents=True)
    shared = tmp_path / "shared"
    shared.mkdir()
    (job / "results").symlink_to(shared)
    relative = "`run.storage` \\(=.*runs\\) would lie in the working folder of this job"
    for folder, setting, law in (
        (job, {"run.storage": "runs"}, relative),
        (job / "experiments", {"run.storage": "../runs"}, relative),
        (shared, {"run.storage": f"{job}/runs"}, relative),
        (job, {"run.tracking_uri": None}, "`run.tracking_uri` \\(=None\\): MLflow's database would lie in the working"),
    ):
        monkeypatch.chdir(folder)
        with pytest.raises(ValueError, match=law):
            preflight.check(tiny.override(setting), name="run", objective="val/top1")
    preflight.check(tiny.override({"run.storage": "results/runs"}), name="run", objective="val/top1")
    monkeypatch.chdir(shared)  # by the job itself: what lies here is no copy
    preflight.check(tiny.override({"run.storage": "runs"}), name="run", objective="val/top1")


def test_a_password_is_not_written_beside_every_checkpoint() -> None:
    with pytest.raises(ValueError, match="MLFLOW_TRACKING_PASSWORD") as refused:
        tracking.resolve_uri("http://me:secret@host:5000")
    assert "secret" not in str(refused.value)


def test_two_runs_of_one_name_at_once(tiny: Experiment) -> None:
    # Both have passed every check before either has made the folder.
    first, second = (preflight.check(tiny, name="one", objective="val/top1") for _ in range(2))
    preflight.claim(first)
    with pytest.raises(preflight.RefusedError, match="taken by another run"):
        preflight.claim(second)


def test_an_existing_run_is_not_overwritten(tiny: Experiment, tmp_path: Path) -> None:
    (tmp_path / "runs" / "taken").mkdir(parents=True)
    with pytest.raises(ValueError, match="nothing is overwritten"):
        tuner.check(tiny, {"learning.lr": tune.loguniform(0.01, 0.1)}, SearchConfig(), name="taken")


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        ({"learning.rate": tune.uniform(0, 1)}, "`learning.rate` is no field"),
        ({"lr": tune.uniform(0.01, 1)}, "did you mean learning.lr"),
        ({"data.clip_len": tune.choice([32, 30])}, r"clip_len=30.*divisible by `model.alpha`"),
        ({"learning.lr": tune.uniform(-1, 1)}, r"lr=-1.*must be above 0"),
        ({"learning.batch_size": tune.choice([8, 5000])}, r"batch_size=5000.*must not exceed"),
        ({"learning.lr": tune.loguniform(1e-4, 1e-3)}, "lies outside the search space"),
        ({"learning.lr": tune.randn(0.05, 0.01)}, "Optuna cannot sample|without ends"),
        ({"learning.lr": 0.05}, "empty; give at least one field a domain"),
        ({"learning.lr": tune.choice([])}, "a choice of nothing"),
        ({"learning.lr": tune.loguniform(0.3, 0.003)}, "the wrong way round"),
        ({"learning.batch_size": tune.randint(9, 8)}, "the wrong way round"),
        (lambda trial: {"learning.rate": trial.suggest_float("a", 0, 1)}, "`learning.rate` is no field"),
        (lambda trial: 1 / 0, "raised ZeroDivisionError"),
        (lambda trial: {"learning.lr": 0.1}, "draws nothing"),
        (lambda trial: {"learning.lr": trial.suggest_float("learning.lr", 1, 2)}, "lies outside the search space"),
        ({"run.num_workers": tune.choice([1, 2])}, "same for all trials"),
        ({}, "empty"),
    ],
)
def test_search_space(made_up_root: Path, space: Space, expected: str) -> None:
    with pytest.raises(ValueError, match=f"(?s){expected}"):
        tuner.check(LAPTOP.override({"data.root": str(made_up_root)}), space, SearchConfig(), name="space")
