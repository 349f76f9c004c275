"""A search over several machines, one of which goes away while it trains, while another one joins."""

import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from mlflow import MlflowClient

from slowfast_ray.experiment import Experiment
from slowfast_ray.running.searching.study import STUDY_NAME
from slowfast_ray.running.tracking import tracking
from tests.cluster import hosts
from tests.cluster.hosts import BIN, Machine
from tests.running.conftest import ROOT, flags_of, runs_in

pytestmark = pytest.mark.cluster

HEAD = f"{hosts.SUBNET}.1:{hosts.RAY_PORT}"

QUICK = {
    # A machine that does not answer is given up after 15 s; by default, after 65 s.
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "6",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",
}


def joins(machine: Machine, head: Machine) -> None:
    """A worker of one core, where the package is not installed: a search must bring it."""
    machine.hide(ROOT / "slowfast_ray")
    machine.hide(ROOT / "search_spaces")
    machine.ray_start(head)


def started(head: Machine, experiment: Experiment, num_trials: int, folder: Path) -> subprocess.Popen[str]:
    """A search that no scheduler cuts short, as a process of the head."""
    flags = [*flags_of(experiment), "--name", "search", "--search.scheduler", "none"]
    script = ROOT / "experiments" / "tune_thermal.py"
    command = [BIN / "python", script, *flags, "--search.num-trials", str(num_trials)]
    return head.start(command, folder=folder)


def wait(is_so: Callable[[], bool], search: subprocess.Popen[str], seconds: float = 900) -> None:
    until = time.monotonic() + seconds
    while not is_so():
        assert search.poll() is None, search.communicate()[0]
        assert time.monotonic() < until
        time.sleep(0.2)


def trained_on(machine: Machine) -> set[str]:
    """The trials whose logs are open there."""
    held = machine.run(["sh", "-c", "readlink /proc/[0-9]*/fd/* || true"])
    return set(re.findall(r"(trial-\d+)/log\.txt", held))


def epochs_of(trial: Path) -> list[int]:
    """Those that its log tells of, in their order."""
    log = trial / "log.txt"
    return [int(epoch) for epoch in re.findall(r"Epoch (\d+) of", log.read_text())] if log.is_file() else []


def check_all_accounted_for(experiment: Experiment, num_trials: int, folder: Path) -> dict[str, str]:
    """Nothing is lost or doubled; gives why trials were tried again, by their names."""
    assert experiment.run.tracking_uri is not None
    names = [f"trial-{number:03d}" for number in range(num_trials)]
    epochs = list(range(1, experiment.learning.num_epochs + 1))
    study = optuna.load_study(study_name=STUDY_NAME, storage=f"sqlite:///{folder / 'study.db'}")
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * num_trials
    for trial, name in zip(study.trials, names, strict=True):
        assert sorted(trial.intermediate_values) == epochs
        logged = epochs_of(folder / name)
        assert sorted(set(logged)) == epochs
        assert len(logged) <= len(epochs) + 1, f"{name} trained more than one epoch twice: {logged}"
    parent, *children = runs_in(experiment.run.tracking_uri)
    assert [run.info.status for run in (parent, *children)] == ["FINISHED"] * (num_trials + 1)
    assert sorted(Path(run.data.tags[tracking.STORAGE]).name for run in children) == names
    client = MlflowClient(experiment.run.tracking_uri)
    for run in children:
        points = client.get_metric_history(run.info.run_id, "val/loss")
        assert [point.step for point in points] == epochs
    retried = {
        Path(run.data.tags[tracking.STORAGE]).name: run.data.tags.get("slowfast_ray.retried") for run in children
    }
    return {name: why for name, why in retried.items() if why is not None}


def test_a_trial_whose_machine_goes_away_goes_on_elsewhere(
    tiny: Experiment, tmp_path: Path, made_up_root: Path
) -> None:
    experiment = tiny.override({"data.clip_len": 16, "learning.num_epochs": 20, "run.address": HEAD})
    folder = tmp_path / "runs" / "search"
    seen: list[set[str]] = []
    with hosts.network(4, shared=[tmp_path, made_up_root], **QUICK) as (head, one, other, late):

        def both_train() -> bool:
            """Whichever trials: where one machine began late, the other one may be at its next trial already."""
            seen[:] = [trained_on(one), trained_on(other)]
            if any(len(names) != 1 for names in seen):
                return False
            (on_one,), (on_other,) = ([len(epochs_of(folder / name)) for name in names] for names in seen)
            return 1 <= on_one <= 10 and on_other >= 1  # what is lost is not so near its end that it is reached before

        assert head.ray_start(num_cpus=0) == HEAD
        joins(one, head)
        joins(other, head)
        search = started(head, experiment, 3, tmp_path)
        wait(both_train, search)
        one.kill()
        (lost,), (left,) = seen
        assert lost != left
        joins(late, head)
        said, _ = search.communicate(timeout=1500)
    assert search.returncode == 0, said
    assert check_all_accounted_for(experiment, 3, folder) == {lost: "its machine went away"}


def test_a_group_that_loses_a_machine_goes_on_with_another(
    tiny: Experiment, tmp_path: Path, made_up_root: Path
) -> None:
    experiment = tiny.override({"data.clip_len": 16, "learning.num_epochs": 6, "run.num_workers": 2})
    folder = tmp_path / "runs" / "search"
    with hosts.network(4, shared=[tmp_path, made_up_root], **QUICK) as (head, one, other, late):
        assert head.ray_start(num_cpus=0) == HEAD
        joins(one, head)
        joins(other, head)
        head.environment["RAY_ADDRESS"] = HEAD
        search = started(head, experiment, 2, tmp_path)
        # Its first checkpoint, so that it goes on from one, and most epochs are left to lose the machine in.
        wait(lambda: any((folder / "trial-000").glob("epoch-*")), search)
        one.kill()
        joins(late, head)
        said, _ = search.communicate(timeout=1500)
    assert search.returncode == 0, said
    check_all_accounted_for(experiment, 2, folder)
    goes_on = (folder / "trial-000" / "log.txt").read_text().count("Continuing")
    assert goes_on == 1, "it went on from its checkpoint"


def test_a_machine_that_is_called_back_is_left_within_an_epoch_and_nothing_is_trained_twice(
    tiny: Experiment, tmp_path: Path, made_up_root: Path
) -> None:
    changes = {"data.clip_len": 16, "learning.num_epochs": 80, "run.address": HEAD, "run.hang_timeout_min": 0.4}
    experiment = tiny.override(changes)
    folder = tmp_path / "runs" / "search"
    with hosts.network(3, shared=[tmp_path, made_up_root], **QUICK) as (head, one, other):
        assert head.ray_start(num_cpus=0) == HEAD
        joins(one, head)
        joins(other, head)
        search = started(head, experiment, 1, tmp_path)
        wait(lambda: 2 in epochs_of(folder / "trial-000"), search)
        called_back = one if trained_on(one) else other
        why = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot", "--deadline-remaining-seconds"]
        called_back.run([BIN / "ray", "drain-node", *why, "120"])
        wait(lambda: "Continuing" in (folder / "trial-000" / "log.txt").read_text(), search)
        called_back.kill()
        said, _ = search.communicate(timeout=1500)
    assert search.returncode == 0, said
    why_again = check_all_accounted_for(experiment, 1, folder)
    assert why_again == {"trial-000": "its machine is called back, and it was saved"}
    assert epochs_of(folder / "trial-000") == list(range(1, 81)), "none was trained twice"


def test_a_machine_with_other_data_under_the_same_name_trains_nothing(
    tiny: Experiment, tmp_path: Path, made_up_root: Path
) -> None:
    same = Path("/home/root/data")
    experiment = tiny.override({"data.clip_len": 16, "data.root": str(same), "run.address": HEAD})
    with hosts.network(2, shared=[tmp_path, made_up_root], **QUICK) as (head, one):
        assert head.ray_start(num_cpus=0) == HEAD
        for machine in (head, one):
            machine.run(["cp", "-r", made_up_root, same])
        boxes = "import json,sys; p=sys.argv[1]; d=json.load(open(p)); d['annotations'][0]['bbox'][0]+=1; "
        one.run([BIN / "python", "-c", f"{boxes}json.dump(d, open(p, 'w'))", same / "annotations" / "train.json"])
        joins(one, head)
        search = started(head, experiment, 1, tmp_path)
        said, _ = search.communicate(timeout=1500)
    assert search.returncode == 1, said
    assert "`data.root` (=/home/root/data) holds other data on machine-1" in said
    assert not list((tmp_path / "runs" / "search").glob("trial-*/epoch-*"))
