"""What a training ends by is told from what may go better at another try, and from a machine on which none would go."""

import errno
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ray import tune

from slowfast_ray.experiment import Experiment
from slowfast_ray.learning.step import DoesNotFitError
from slowfast_ray.running import preflight
from slowfast_ray.running.folders import logs
from slowfast_ray.running.nodes.slots import Slots
from slowfast_ray.running.searching import tuner
from slowfast_ray.running.searching.config import SearchConfig
from slowfast_ray.running.training import deaths, jobs, supplies, trainer, verdicts, worker
from slowfast_ray.running.training.boards import GIVE_UP, NAME, REASON, VERDICT
from slowfast_ray.running.training.pulse import Watch
from slowfast_ray.running.training.supplies import Supplies
from slowfast_ray.running.training.tune_parts import MAX_STILLBORN
from slowfast_ray.running.training.verdicts import Ended, UnfitMachineError, UnfitPrecisionError
from tests.running.plain_board import PlainBoard


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (DoesNotFitError("Not even one clip fits."), Ended("infeasible", "Not even one clip fits")),
        (FloatingPointError("The loss became nan."), Ended("failed", "The loss became nan")),
        (UnfitMachineError("on gpu-3: no GPU."), Ended("halt", "on gpu-3: no GPU")),
        (UnfitPrecisionError("on gpu-3: no bf16."), Ended("precision", "on gpu-3: no bf16")),
        (ConnectionResetError("reset by peer"), None),
        (KeyError("frames"), None),
    ],
)
def test_what_no_second_try_can_help(error: Exception, expected: Ended | None) -> None:
    assert verdicts.of(error) == expected


def test_a_full_disk_is_its_machines() -> None:
    with (
        pytest.raises(UnfitMachineError, match=r"on .*: a disk is full: .*No space left: '/disk/file'"),
        verdicts.naming_a_full_disk(),
    ):
        raise OSError(errno.ENOSPC, "No space left", "/disk/file")
    with pytest.raises(OSError, match="Input/output error"), verdicts.naming_a_full_disk():
        raise OSError(errno.EIO, "Input/output error", "/disk/file")


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("own_ray")
def test_a_machine_that_does_not_see_the_folder_of_the_run_is_named(
    tiny: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supplies, "SECONDS_TO_APPEAR", 0.0)
    given: Any = Supplies(Slots(1, 1, 0, None), pulse=None, readers=None, fingerprint="", identity="")  # pyright: ignore[reportArgumentType]
    experiment = tiny.override({"run.storage": str(tmp_path)})
    with pytest.raises(UnfitMachineError, match=rf"`run\.storage` \(={tmp_path}\) must be one folder that every"):
        given.check_machine(experiment, "search/trial-000")
    (tmp_path / "search").mkdir()
    (tmp_path / "search" / "experiment.json").write_text("{}")
    given.check_machine(experiment, "search/trial-000")
    with pytest.raises(UnfitPrecisionError, match=r"on .*: `learning\.precision` \(=fp16\) needs a GPU"):
        given.check_machine(experiment.override({"learning.precision": "fp16"}), "search/trial-000")


def run(board: PlainBoard, trainable: Callable[[dict[str, Any]], None], *, max_failures: int) -> None:
    with Watch(15) as watch:
        slots = Slots(1, 1, 0, 2)
        jobs._run(board, watch, "search", trainable, slots, max_failures=max_failures, verbose=False)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("own_ray")
def test_of_several_failures_of_a_trial_each_counts_as_what_it_is(tmp_path: Path) -> None:
    """Tune keeps them in one file: what became of a trial once says nothing of what ails it now."""
    errors = ["PreemptedError: saved after step 3", "CUDA out of memory", "KeyError: frames"]

    def train(config: dict[str, Any]) -> None:
        if GIVE_UP in config:
            tune.report({VERDICT: "failed", REASON: ""})
            return
        number = len(list(tmp_path.iterdir()))
        (tmp_path / str(number)).touch()
        raise ValueError(errors[min(number, len(errors) - 1)])

    board = PlainBoard(num_jobs=1)
    run(board, train, max_failures=2)
    assert [deaths.reason_of(error) for error in board.retries] == [
        "its machine is called back, and it was saved",
        "it ran out of memory",
        "ValueError: KeyError: frames",
    ]
    assert board.ends == ["failed"], "the third failure is one too many, and the lost machine was none"


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("own_ray")
def test_where_epochs_end_on_the_same_machine_trials_that_raise_at_once_halt_nothing(tmp_path: Path) -> None:
    """Those of a space's odd corner are no fault of the machine."""

    def train(config: dict[str, Any]) -> None:
        if config[NAME] != "job-0":
            time.sleep(1)
            raise KeyError("frames")
        for epoch in range(1, 1000):
            time.sleep(0.5)
            tune.report({worker.EPOCH: epoch})
            if len(list(tmp_path.iterdir())) > MAX_STILLBORN:
                break
        tune.report({VERDICT: "failed", REASON: "done"})

    def count(config: dict[str, Any]) -> None:
        if GIVE_UP in config:
            tune.report({VERDICT: "failed", REASON: ""})
            return
        try:
            train(config)
        except KeyError:
            (tmp_path / config[NAME]).touch()
            raise

    board = PlainBoard(num_jobs=2 + MAX_STILLBORN)
    run(board, count, max_failures=0)
    assert board.halted == ""
    assert len(board.ends) == 2 + MAX_STILLBORN


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("own_ray")
def test_a_group_is_not_tried_again_where_that_cannot_help(tiny: Experiment) -> None:
    wild = tiny.override({"run.num_workers": 2, "learning.lr": 1e30, "learning.max_grad_norm": 1e30})
    ready = preflight.check(wild, name="run", objective="val/top1", resume=False)
    with pytest.raises(FloatingPointError, match=r"lower `learning\.lr`"):
        trainer.fit(ready, "val/top1", on_row=lambda row: None)
    assert (ready.folder / logs.LOG).read_text().count("Training in") == 1


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("own_ray")
@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_precision_that_a_machine_lacks_is_infeasible_where_it_is_sampled_and_halts_where_not(
    tiny: Experiment, monkeypatch: pytest.MonkeyPatch, num_workers: int
) -> None:
    """On a cluster nobody knows before the start on which device a trial will train."""
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    experiment = tiny.override({"run.num_workers": num_workers})
    settings = SearchConfig(num_trials=4, max_concurrent=1)
    sampled = {"learning.precision": tune.choice(["fp32", "fp16"])}
    ready = tuner.check(experiment, sampled, settings, name="sampled")
    result = tuner.search(ready, sampled, settings)
    assert result.halted == ""
    states = {(trial.sample["learning.precision"], trial.state == "infeasible") for trial in result.trials}
    assert states == {("fp32", False), ("fp16", True)}
    constant = {"learning.lr": tune.loguniform(1e-3, 0.1), "learning.precision": "fp16"}
    ready = tuner.check(experiment, constant, settings, name="asked-for")
    result = tuner.search(ready, constant, settings)
    assert "`learning.precision` (=fp16) needs a GPU" in result.halted
    assert [trial.state for trial in result.trials] == ["stopped"]
