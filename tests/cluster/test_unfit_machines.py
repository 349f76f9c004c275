"""A machine on which every trial would fail at once makes room for the next one, again and again: the search halts."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from slowfast_ray.experiment import Experiment
from tests.cluster import hosts
from tests.cluster.hosts import BIN, Machine
from tests.running.conftest import ROOT, flags_of, runs_in

pytestmark = pytest.mark.cluster

HEAD = f"{hosts.SUBNET}.1:{hosts.RAY_PORT}"
HALTED = 130


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def machines(shared: Path, made_up_root: Path) -> Iterator[list[Machine]]:
    """A head that trains nothing, a machine that says it has GPUs, and one that joins later, with other packages."""
    with hosts.network(3, shared=[shared, made_up_root]) as found:
        head, worker, odd = found
        head.ray_start(num_cpus=0)
        worker.ray_start(head, num_cpus=2, num_gpus=2)
        odd.claims("optuna", "4.0.0")
        yield found


@pytest.fixture
def experiment(tiny: Experiment, shared: Path, tmp_path: Path) -> Experiment:
    return tiny.override(
        {
            "data.clip_len": 16,
            "run.storage": f"{shared}/{tmp_path.name}/runs",
            "run.tracking_uri": f"sqlite:///{shared}/{tmp_path.name}.db",
        }
    )


def start(machine: Machine, experiment: Experiment, *flags: str) -> subprocess.Popen[str]:
    script = ROOT / "experiments" / "tune_thermal.py"
    own = ["--name", "search", "--run.address", HEAD, "--search.num-trials", "500"]
    return machine.start([BIN / "python", script, *flags_of(experiment), *own, *flags])


def end_of(process: subprocess.Popen[str]) -> str:
    """What a search says that halts."""
    try:
        said, _ = process.communicate(timeout=900)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    said = " ".join(said.split())
    assert process.returncode == HALTED, said
    assert "The search had to stop" in said
    return said


def statuses_in(experiment: Experiment) -> set[str]:
    """As MLflow shows the search and its trials: KILLED is what was stopped, and goes on when it is resumed."""
    assert experiment.run.tracking_uri is not None
    return {run.info.status for run in runs_in(experiment.run.tracking_uri)}


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_gpu_that_torch_cannot_use(machines: list[Machine], experiment: Experiment, num_workers: int) -> None:
    flags = ["--run.gpus-per-worker", "1", "--run.num-workers", str(num_workers)]
    said = end_of(start(machines[0], experiment, *flags))
    assert "The search had to stop: on machine-1: A GPU was given to this process, but torch" in said
    assert statuses_in(experiment) == {"KILLED"}, "no trial is guilty"


def test_a_machine_with_other_packages_joins(machines: list[Machine], experiment: Experiment) -> None:
    head, _, odd = machines
    process = start(head, experiment, "--run.gpus-per-worker", "0")
    first = Path(experiment.run.storage) / "search" / "trial-000" / "epoch-001"
    until = time.monotonic() + 900
    while not first.is_dir():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until
        time.sleep(0.2)
    odd.ray_start(head)
    said = end_of(process)
    assert "a machine joined that is not fit to train" in said
    assert "machine-2 (10.77.0.3) has optuna 4.0.0" in said
    assert statuses_in(experiment) <= {"FINISHED", "KILLED"}
