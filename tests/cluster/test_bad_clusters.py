"""A cluster that cannot do what is asked says so before anything is started."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from slowfast_ray.experiment import Experiment
from tests.cluster import hosts
from tests.cluster.hosts import BIN, Machine
from tests.running import s3_server
from tests.running.conftest import ROOT, flags_of

pytestmark = pytest.mark.cluster

S3_PORT = 5555
HEAD = f"{hosts.SUBNET}.1:{hosts.RAY_PORT}"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def machines(shared: Path, made_up_root: Path) -> Iterator[list[Machine]]:
    """A head that trains nothing, a worker of one core, and one whose packages are others."""
    with hosts.network(3, shared=[shared, made_up_root]) as found:
        head, worker, odd = found
        # The worker has another S3 server, where nobody listens.
        for machine, port in ((head, S3_PORT), (worker, 9)):
            machine.environment.update({**s3_server.KEYS, "AWS_DEFAULT_REGION": "us-east-1"})
            machine.environment["AWS_ENDPOINT_URL"] = f"http://{head.address}:{port}"
        head.ray_start(num_cpus=0)
        worker.ray_start(head)
        odd.claims("optuna", "4.0.0")
        yield found


def refusal(machine: Machine, experiment: Experiment, *flags: str, script: str = "tune_thermal") -> str:
    """What a script says that is refused."""
    path = ROOT / "experiments" / f"{script}.py"
    command = [BIN / "python", path, *flags_of(experiment), "--name", "refused", "--run.address", HEAD, *flags]
    process = machine.start(command)
    try:
        said, _ = process.communicate(timeout=900)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    assert process.returncode == 2, said
    (error,) = [line for line in said.splitlines() if line.startswith("error:")]
    return error


@pytest.fixture
def experiment(tiny: Experiment, shared: Path, tmp_path: Path) -> Experiment:
    return tiny.override(
        {
            "data.clip_len": 16,
            "run.storage": f"{shared}/{tmp_path.name}/runs",
            "run.tracking_uri": f"sqlite:///{shared}/{tmp_path.name}.db",
        }
    )


@pytest.mark.parametrize(
    ("flags", "law"),
    [
        (
            ["--run.num-workers", "2"],
            r"`run.num_workers` (=2) needs 2 CPU cores for a trial, but there are 2 machine(s)",
        ),
        (["--run.gpus-per-worker", "1"], "`run.gpus_per_worker` (=1) needs a GPU, but there is none"),
        (["--search.max-concurrent", "3"], "`search.max_concurrent` (=3)"),
    ],
)
def test_what_the_machines_cannot_hold(
    machines: list[Machine], experiment: Experiment, flags: list[str], law: str, shared: Path
) -> None:
    assert law in refusal(machines[0], experiment, *flags)
    assert not Path(experiment.run.storage).exists()


def test_a_single_run_that_is_refused_leaves_nothing(machines: list[Machine], experiment: Experiment) -> None:
    said = refusal(machines[0], experiment, "--run.num-workers", "2", script="train_thermal")
    assert "`run.num_workers` (=2) needs 2 CPU cores" in said
    assert not Path(experiment.run.storage).exists()
    assert not Path(str(experiment.run.tracking_uri).removeprefix("sqlite:///")).exists()


def test_a_storage_that_only_one_machine_sees(machines: list[Machine], experiment: Experiment) -> None:
    said = refusal(machines[0], experiment, "--run.storage", "/home/root/runs")
    assert "`run.storage` (=/home/root/runs) must be one folder that every machine sees, or a URL" in said
    assert "machine-1 (10.77.0.2) does not see it" in said


def test_a_dataset_that_only_one_machine_sees(
    machines: list[Machine], experiment: Experiment, made_up_root: Path
) -> None:
    machines[0].run(["cp", "-r", made_up_root, "/home/root/data"])
    said = refusal(machines[0], experiment, "--data.root", "/home/root/data")
    assert "`data.root` (=/home/root/data) must be the same folder on every machine, or a URL" in said


def test_a_url_that_only_one_machine_reaches(machines: list[Machine], experiment: Experiment) -> None:
    head = machines[0]
    server = head.start([BIN / "python", "-m", "moto.server", "-H", head.address, "-p", str(S3_PORT)])
    try:
        make = "import boto3; boto3.client('s3').create_bucket(Bucket='bucket')"
        head.run(["sh", "-c", f'until {BIN}/python -c "{make}" 2>/dev/null; do sleep 0.2; done'])
        said = refusal(head, experiment, "--run.storage", "s3://bucket/runs")
    finally:
        server.kill()
    assert "On machine-1 (10.77.0.2): `run.storage` (=s3://bucket/runs/refused) cannot be reached" in said
    assert "machine-0" not in said


def test_a_wrong_token_and_an_address_where_nobody_is(machines: list[Machine], experiment: Experiment) -> None:
    head = machines[0]
    token = head.environment["RAY_AUTH_TOKEN"]
    head.environment["RAY_AUTH_TOKEN"] = "f" * 64
    try:
        assert "does not take the token of this process" in refusal(head, experiment)
    finally:
        head.environment["RAY_AUTH_TOKEN"] = token
    said = refusal(head, experiment, "--run.address", f"{hosts.SUBNET}.1:7")
    assert "cannot be joined" in said
    assert "Connection refused" in said


def test_a_machine_with_another_version_is_named(machines: list[Machine], experiment: Experiment) -> None:
    machines[2].ray_start(machines[0])
    said = refusal(machines[0], experiment)
    assert "All machines must have the same versions, but machine-2 (10.77.0.3) has optuna 4.0.0 (here 5." in said
