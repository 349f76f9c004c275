"""One run: in this process, killed and resumed, and over workers."""

import json
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from safetensors.torch import load_file

from slowfast_ray.data import dataset
from slowfast_ray.data.batches import Batches
from slowfast_ray.experiment import Experiment
from slowfast_ray.learning import checkpoint, counts, loop, step
from slowfast_ray.learning.config import LearningConfig
from slowfast_ray.learning.learner import check_precision
from slowfast_ray.model import cost, slowfast
from slowfast_ray.run_config import RunConfig
from slowfast_ray.running import commands, follow_ups, preflight
from slowfast_ray.running.flags import TrainFlags
from slowfast_ray.running.training import trainer, wiring, worker
from slowfast_ray.running.training.wiring import Place
from tests.running import gloo
from tests.running.conftest import ROOT, environment, flags_of, runs_in


def history(folder: Path) -> list[dict[str, float]]:
    """The curve of a run, without the speed."""
    newest = checkpoint.newest(folder)
    assert newest is not None
    return [
        {
            name: value
            for name, value in metrics.items()
            if name not in (counts.TRAIN_CLIPS_PER_SECOND, counts.EPOCH_SECONDS)
        }
        for metrics in checkpoint.read_progress(newest).history
    ]


def fit(experiment: Experiment, name: str, **options: Any) -> trainer.Outcome:
    ready = preflight.check(experiment, name=name, objective="val/top1", resume=options.get("resume", False))
    return trainer.fit(ready, "val/top1", on_row=lambda row: None, **options)


def test_a_run_is_in_mlflow_with_its_curve_and_its_best_checkpoint(tiny: Experiment, tmp_path: Path) -> None:
    experiment = tiny.override({"learning.num_epochs": 3})
    outcome = fit(experiment, "one")
    (run,) = runs_in(outcome.tracking_uri)
    assert run.info.status == "FINISHED"
    client = MlflowClient(outcome.tracking_uri)
    for name, value in history(tmp_path / "runs" / "one")[-1].items():
        points = client.get_metric_history(run.info.run_id, name)
        assert [point.step for point in points] == [1, 2, 3]
        assert points[-1].value == pytest.approx(value)
    names = {file.path for file in client.list_artifacts(run.info.run_id, "best")}
    assert {"best/weights.safetensors", "best/experiment.json"} <= names
    saved = Experiment.from_json(Path(outcome.row[worker.CHECKPOINT], "experiment.json").read_text())
    assert saved.learning == experiment.learning
    assert saved.model == replace(experiment.model, num_classes=6)


def test_the_script_in_this_process(
    tiny: Experiment, tmp_path: Path, call_script: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    # In this process, for speed; below it is killed and resumed in one of its own.
    experiment = tiny.override({"run.tracking_uri": f"sqlite:///{tmp_path}/new.db"})
    call_script("train_thermal", *flags_of(experiment), "--name", "one")
    assert f"Checkpoint:    {tmp_path}/runs/one/epoch-001" in capsys.readouterr().out
    assert (tmp_path / "new.db").is_file()


def test_the_checkpoint_scores_what_was_reported(tiny: Experiment) -> None:
    # A reader who loads the best weights must find the best value again.
    outcome = fit(tiny.override({"learning.num_epochs": 2}), "one")
    folder = Path(outcome.row[worker.CHECKPOINT])
    experiment = Experiment.from_json((folder / "experiment.json").read_text())
    model = slowfast.build(experiment.model)
    checkpoint.load_weights(folder, model)
    data = dataset.load(experiment.data)
    batches = Batches(data, experiment.data, batch_size=8, seed=0, device=torch.device("cpu"))
    found = loop.evaluate(model, batches.val(), batches.num_val_samples, experiment.learning)
    assert found.metrics()["val/top1"] == pytest.approx(outcome.row[worker.BEST_VALUE])
    assert len(found.target) == len(data.val)


def test_killed_in_mid_epoch_and_resumed_equals_an_uninterrupted_run(
    tiny: Experiment, tmp_path: Path, own_ray_folder: Path, call_script: Callable[..., None]
) -> None:
    # With all that has a memory of its own: momentum, averages, mixing, and gradients that add up.
    experiment = tiny.override(
        {
            "learning.num_epochs": 8,  # of which it is killed in one of the first, however late that is seen
            "learning.ema_decay": 0.9,
            "learning.micro_batch": 4,
            "learning.mixup": 0.4,
            "learning.cutmix": 1.0,
            "learning.precise_batch_norm": 1,
            "run.deterministic": True,
        }
    )
    flags = [*flags_of(experiment), "--name", "killed"]
    killed = subprocess.Popen(
        [sys.executable, ROOT / "experiments" / "train_thermal.py", *flags],
        cwd=tmp_path, env=environment(own_ray_folder), stdout=subprocess.DEVNULL,
    )  # fmt: skip
    wait_for(lambda: checkpoint.newest(tmp_path / "runs" / "killed") is not None, killed)
    time.sleep(0.2)  # somewhere in the second epoch, or soon after
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    done = len(history(tmp_path / "runs" / "killed"))
    assert 1 <= done < 8, "killed too late to prove anything"
    call_script("train_thermal", *flags, "--resume")
    fit(experiment, "whole")

    assert history(tmp_path / "runs" / "killed") == history(tmp_path / "runs" / "whole")
    for found, expected in zip(*(all_weights(tmp_path / "runs" / name) for name in ("killed", "whole")), strict=True):
        assert found.keys() == expected.keys()
        for name, each in found.items():
            assert torch.equal(each, expected[name]), name
    assert experiment.run.tracking_uri is not None
    runs = runs_in(experiment.run.tracking_uri)
    assert [run.info.status for run in runs] == ["FINISHED", "FINISHED"], "the resumed run is the same MLflow run"
    client = MlflowClient(experiment.run.tracking_uri)
    for run in runs:
        points = client.get_metric_history(run.info.run_id, "val/loss")
        assert [point.step for point in points] == list(range(1, 9)), "each epoch once"


def all_weights(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Of a run's last epoch: the average, and the network that trained."""
    newest = checkpoint.newest(folder)
    assert newest is not None
    training = torch.load(newest / "training.pt", weights_only=True)["model"]
    average = load_file(newest / "weights.safetensors")
    assert any(not torch.equal(average[name], training[name]) for name in average)
    return average, training


def wait_for(condition: Any, process: subprocess.Popen[bytes], seconds: float = 600) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the process ended too early"
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)


def test_resuming_a_complete_run_changes_nothing(tiny: Experiment, tmp_path: Path) -> None:
    first = fit(tiny, "one")
    before = history(tmp_path / "runs" / "one")
    again = fit(tiny, "one", resume=True)
    assert history(tmp_path / "runs" / "one") == before
    assert (again.run_id, again.row[worker.BEST_VALUE]) == (first.run_id, first.row[worker.BEST_VALUE])
    points = MlflowClient(first.tracking_uri).get_metric_history(first.run_id, "val/loss")
    assert [point.step for point in points] == [1]


def test_a_run_that_was_stopped_before_its_first_checkpoint_resumes_from_the_start(
    tiny: Experiment, tmp_path: Path
) -> None:
    preflight.claim(preflight.check(tiny, name="one", objective="val/top1"))
    (tmp_path / "runs" / "one" / ".epoch-001.77").mkdir()  # killed while it saved
    outcome = fit(tiny, "one", resume=True)
    assert outcome.row[worker.EPOCH] == 1


def test_the_printed_command_survives_odd_folders(tiny: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [str(ROOT / "experiments" / "tune_thermal.py")])
    odd = tiny.override({"run.storage": "/tmp/my runs #1", "run.cpus_per_worker": 2})
    words = shlex.split(follow_ups.command_again(odd, "laptop", "val/loss"))
    assert words[words.index("--run.storage") + 1] == "/tmp/my runs #1"
    assert Path(words[1]).resolve() == ROOT / "experiments" / "train_thermal.py"
    flags = commands.parse(TrainFlags, "?", words[2:])
    # The CPUs of a trial's process: where the run has a process of its own, it would be refused.
    assert flags.experiment == odd.override({"model.num_classes": None, "run.cpus_per_worker": None})
    assert flags.metric == "val/loss"


def test_a_run_ends_early_where_nothing_gets_better_and_stays_ended(tiny: Experiment, tmp_path: Path) -> None:
    # With a rate of next to nothing the same clips are right in each epoch: the first one stays the best.
    experiment = tiny.override(
        {"learning.num_epochs": 9, "learning.early_stop": 2, "learning.lr": 1e-30, "model.batch_norm": "frozen"}
    )
    outcome = fit(experiment, "one")
    assert (outcome.row[worker.BEST_EPOCH], outcome.row[worker.EPOCH]) == (1, 3)
    assert outcome.row[worker.FINISHED] is True
    (run,) = runs_in(outcome.tracking_uri)
    assert run.info.status == "FINISHED"
    assert fit(experiment, "one", resume=True).row[worker.EPOCH] == 3


def test_memory_that_runs_out_halves_the_clips_at_once_for_the_whole_run(
    tiny: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = slowfast.SlowFast.forward
    tried: list[int] = []

    def with_room_for_two(model: slowfast.SlowFast, clip_B1THW: torch.Tensor) -> torch.Tensor:
        tried.append(len(clip_B1THW))
        if len(clip_B1THW) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(model, clip_B1THW)

    monkeypatch.setattr(slowfast.SlowFast, "forward", with_room_for_two)
    # In evaluation, and where statistics are taken, as well.
    experiment = tiny.override({"learning.num_epochs": 2, "learning.precise_batch_norm": 1})
    fit(experiment, "one")
    assert tried[:3] == [8, 4, 2]
    assert set(tried[3:]) <= {1, 2}, "it is found once"
    assert [row["train/micro_batch"] for row in history(tmp_path / "runs" / "one")] == [2, 2]


def test_a_clip_that_fits_nowhere_ends_the_run_with_what_would(
    tiny: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_room(model: slowfast.SlowFast, clip_B1THW: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    forward = slowfast.SlowFast.forward
    monkeypatch.setattr(slowfast.SlowFast, "forward", without_room)
    # The estimate itself runs the network, in its own way.
    estimate = cost.estimate

    def with_room(*arguments: Any, **options: Any) -> Any:
        monkeypatch.setattr(slowfast.SlowFast, "forward", forward)
        return estimate(*arguments, **options)

    monkeypatch.setattr(cost, "estimate", with_room)
    expected = r"one clip.*`data.clip_len` \(=8\).*needs about [\d.]+ GiB.*Try .+"
    with pytest.raises(step.DoesNotFitError, match=expected):
        fit(tiny, "one")
    assert tiny.run.tracking_uri is not None
    assert [run.info.status for run in runs_in(tiny.run.tracking_uri)] == ["FAILED"]


def test_a_run_is_not_resumed_as_another_experiment(tiny: Experiment) -> None:
    fit(tiny, "one")
    with pytest.raises(ValueError, match=r"`model.width` \(=0.25, was 0.125\)"):
        fit(tiny.override({"model.width": 0.25}), "one", resume=True)
    with pytest.raises(ValueError, match=r"`learning.num_epochs` \(=2, was 1\)"):
        fit(tiny.override({"learning.num_epochs": 2}), "one", resume=True)


def test_a_search_is_not_resumed_as_a_run(tiny: Experiment) -> None:
    preflight.claim(preflight.check(tiny, name="search", objective="val/top1"), "{}")
    with pytest.raises(ValueError, match="holds a search"):
        fit(tiny, "search", resume=True)


def test_a_failing_run_is_marked_as_failed(tiny: Experiment) -> None:
    with pytest.raises(FloatingPointError, match=r"learning\.lr"):
        fit(tiny.override({"learning.lr": 1e30, "learning.max_grad_norm": 1e30}), "one")
    assert tiny.run.tracking_uri is not None
    (run,) = runs_in(tiny.run.tracking_uri)
    assert run.info.status == "FAILED"
    assert run.data.tags["slowfast_ray.error"].startswith("FloatingPointError: ")
    assert "It failed. FloatingPointError: " in Path(tiny.run.storage, "one", "log.txt").read_text()


def test_a_loss_that_explodes_is_one_line_with_its_step_and_rate(
    tiny: Experiment, call_script: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = tiny.override({"learning.lr": 1e30, "learning.max_grad_norm": 1e30, "learning.warmup_fraction": 0.0})
    with pytest.raises(SystemExit) as ended:
        call_script("train_thermal", *flags_of(experiment), "--name", "one")
    assert ended.value.code == commands.EXIT_BAD_INPUT
    assert re.search(
        r"error: The training loss became .* in step 2 of epoch 1, at a learning rate of 8.54e\+29",
        "".join(capsys.readouterr().err),
    )


@pytest.mark.slow
def test_two_workers_with_half_a_batch_each_learn_as_one_with_the_whole(
    tiny: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 34 samples in batches of 8 are 4 steps an epoch: 20 steps in 5 epochs, augmentation included.
    experiment = tiny.override({"learning.num_epochs": 5, "learning.lr": 0.0002, "model.dropout": 0.0})
    losses: dict[int, list[float]] = {}
    monkeypatch.setattr(wiring.slowfast, "build", gloo.without_batch_norm)  # and undone at the end
    for num_workers in (1, 2):
        folder = tmp_path / str(num_workers)
        folder.mkdir()
        shared = experiment.override({"run.num_workers": num_workers}).to_json()
        if num_workers == 1:
            gloo.train_share(0, 1, shared, str(folder))
        else:
            # Forked from one process that has imported all that training needs, which takes each alone for seconds.
            torch.multiprocessing.set_forkserver_preload(["tests.running.gloo"])
            torch.multiprocessing.start_processes(
                gloo.train_share, (num_workers, shared, str(folder)), nprocs=num_workers, start_method="forkserver"
            )
        rows = [json.loads((folder / f"rows-{rank}.json").read_text()) for rank in range(num_workers)]
        for name in ("train/loss", "val/loss", "val/top1", "val/num_samples"):
            assert [row[name] for row in rows[0]] == [row[name] for row in rows[-1]], "all ranks report the sums"
        losses[num_workers] = [row["train/loss"] for row in rows[0]]
        assert {row["val/num_samples"] for row in rows[0]} == {32}, "each validation sample once"
    assert len(losses[1]) == 5
    # Only the order of additions differs; it grows from 1e-7 over the steps, the faster the higher the rate is.
    assert losses[2] == pytest.approx(losses[1], rel=1e-3)
    assert losses[1][-1] != pytest.approx(losses[1][0], rel=1e-2), "nothing was learnt, so nothing was compared"


@pytest.mark.parametrize(("device", "index"), [("cuda", 0), ("cuda:1", 1)])
def test_a_share_of_a_gpu_is_asked_for_as_torch_takes_it(
    monkeypatch: pytest.MonkeyPatch, device: str, index: int
) -> None:
    # No GPU is here: torch's own checks run, and what it would tell the driver is noted.
    told: list[tuple[float, int]] = []
    monkeypatch.setattr(torch.cuda.memory, "_lazy_init", lambda: None)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(
        torch._C, "_cuda_setMemoryFraction", lambda share, index: told.append((share, index)), raising=False
    )

    def compute_as(device: torch.device, share: float) -> None:
        wiring.compute_as(Experiment(), Place(device=device, gpu_share=share))

    compute_as(torch.device(device), 0.5)
    compute_as(torch.device(device), 1.0)
    assert told == [(0.475, index), (1.0, index)]


@pytest.mark.parametrize(("gpus", "expected"), [(None, "cuda"), (1.0, "cuda"), (0.5, "cuda"), (0.0, "cpu")])
def test_a_run_that_shall_have_no_gpu_has_none(
    monkeypatch: pytest.MonkeyPatch, gpus: float | None, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert wiring.device_of(RunConfig(gpus_per_worker=gpus)).type == expected


def test_a_gpu_that_only_imitates_bf16_is_refused_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    gpu = torch.device("cuda")
    with pytest.raises(ValueError, match=r"`learning.precision` \(=bf16\) .* Tesla T4; choose fp16 or fp32"):
        check_precision(LearningConfig(precision="bf16"), gpu)
    for precision in ("fp16", "fp32"):
        check_precision(LearningConfig(precision=precision), gpu)
