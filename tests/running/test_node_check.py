"""What is found out about machines that join: Rays of their own on this machine, which say what they have."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from slowfast_ray.experiment import Experiment
from slowfast_ray.running import preflight
from slowfast_ray.running.folders import mirror
from slowfast_ray.running.nodes import machines, node_check, probes
from slowfast_ray.running.nodes.slots import Slots
from slowfast_ray.running.preflight import Ready
from slowfast_ray.running.refusals import RefusedError
from tests.running import s3_server
from tests.running.conftest import program_of

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("own_ray")]

RAY = Path(sys.executable).parent / "ray"
SLOTS = Slots(1, 3, 0, None)
"""With room on the machines that join, which have three CPUs, and none on the one that is there."""
DIES = """
import os, sys
from pathlib import Path

LEFT = Path(__file__).with_name("left")

class Dies:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "slowfast_ray" and (left := int(LEFT.read_text())):
            LEFT.write_text(str(left - 1))
            os._exit(1)

sys.meta_path.insert(0, Dies)
"""
"""A machine's `sitecustomize`: of the processes that are to run this package so many die as the file `left` says."""


@dataclass(frozen=True)
class Joined:
    """A machine that has joined."""

    node: str
    raylet: psutil.Process


@contextmanager
def joined(log: Path, **environment: str) -> Iterator[Joined]:
    known = set(machines.staying())
    command = [RAY, "start", "--address", ray.get_runtime_context().gcs_address, "--num-cpus", "3", "--block"]
    with log.open("w") as said:
        process = subprocess.Popen(
            [*command, "--object-store-memory", "100000000", "--disable-usage-stats"],
            env={**os.environ, **environment},
            stdout=said,
            stderr=subprocess.STDOUT,
        )
    wait(lambda: process.poll() is not None or bool(machines.staying().keys() - known))
    assert process.poll() is None, log.read_text()
    (node,) = machines.staying().keys() - known
    family = psutil.Process(process.pid).children(recursive=True)
    (raylet,) = [each for each in family if program_of(each).endswith("/raylet")]
    try:
        yield Joined(node, raylet)
    finally:
        if raylet.is_running():
            raylet.resume()
        process.terminate()
        process.wait()
        wait(lambda: node not in machines.staying())


@pytest.fixture
def joins(tmp_path: Path) -> Iterator[Callable[..., Joined]]:
    """Lets machines join, with what is added to their environment."""
    with ExitStack() as stack:
        yield lambda **environment: stack.enter_context(joined(tmp_path / "ray.log", **environment))


@pytest.fixture
def ready(tiny: Experiment) -> Ready:
    there = {"run.address": ray.get_runtime_context().gcs_address}
    return preflight.check(tiny.override(there), name="search", objective="val/top1")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_check, "SECONDS_BETWEEN_LOOKS", 0.2)
    monkeypatch.setattr(probes, "SECONDS_BETWEEN_TRIES", 0.2)


def claims_another_optuna(folder: Path) -> Path:
    """A folder of Python's path by which that seems to be installed; gives the file that says so."""
    metadata = folder / "optuna-4.0.0.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text("Metadata-Version: 2.1\nName: optuna\nVersion: 4.0.0\n")
    return metadata


def dies_first(folder: Path, num: int) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(DIES)
    (folder / "left").write_text(str(num))


def wait(is_so: Callable[[], bool]) -> None:
    until = time.monotonic() + 400
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.05)


def num_asked() -> int:
    """Newcomers that are being asked."""
    return sum(each.name.startswith("newcomer-") for each in threading.enumerate())


class Work:
    """Keeps a machine busy."""

    def begin(self) -> None: ...


@pytest.mark.slow
def test_nobody_waits_at_the_end_for_a_machine_that_is_silent(ready: Ready, joins: Callable[..., Joined]) -> None:
    joins().raylet.suspend()
    told: list[str] = []
    with node_check.newcomers(ready, SLOTS, told.append, told.append):
        wait(lambda: num_asked() == 1)
        time.sleep(1)
        began = time.monotonic()
    assert time.monotonic() - began < 30, "an answer is waited for ten times as long"
    assert told == []
    assert not list(Path(ready.experiment.run.storage).parent.glob("**/.probe-*"))


@pytest.mark.slow
def test_a_silent_machine_does_not_hide_that_another_is_not_fit(
    ready: Ready, joins: Callable[..., Joined], tmp_path: Path
) -> None:
    claims_another_optuna(tmp_path / "odd")
    first, _ = sorted((joins(PYTHONPATH=str(tmp_path / "odd")) for _ in range(2)), key=lambda each: each.node)
    first.raylet.suspend()
    halted: list[str] = []
    said: list[str] = []
    with node_check.newcomers(ready, SLOTS, halted.append, said.append):
        wait(lambda: bool(halted))
    assert "a machine joined that is not fit to train: All machines must have the same versions" in halted[0]
    assert "has optuna 4.0.0" in halted[0]
    assert len(said) == 1


def test_a_machine_that_lacks_memory_is_refused_as_such(ready: Ready, joins: Callable[..., Joined]) -> None:
    joins(RAY_memory_usage_threshold="0.001", RAY_memory_monitor_refresh_ms="20")
    with pytest.raises(RefusedError, match=r"could not be asked: .*low on memory.* mend it, or take it out") as refused:
        node_check.check(ready)
    assert "no answer" not in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.slow
def test_a_machine_is_asked_again_where_its_process_dies(
    ready: Ready, joins: Callable[..., Joined], tmp_path: Path
) -> None:
    dies_first(tmp_path / "odd", 2 * probes.NUM_TRIES - 1)
    joins(PYTHONPATH=str(tmp_path / "odd"))
    with pytest.raises(RefusedError, match=r"could not be asked: The worker died unexpectedly"):
        node_check.check(ready)
    node_check.check(ready)
    assert (tmp_path / "odd" / "left").read_text() == "0"


@pytest.mark.slow
def test_a_machine_that_is_being_drained_is_not_asked(
    ready: Ready, joins: Callable[..., Joined], tmp_path: Path
) -> None:
    claims_another_optuna(tmp_path / "odd")
    leaving = joins(PYTHONPATH=str(tmp_path / "odd"))
    work: Any = ray.remote(num_cpus=3)(Work).remote()  # without any, it would go at once
    ray.get(work.begin.remote())
    why = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
    where = ["--address", ray.get_runtime_context().gcs_address, "--node-id", leaving.node]
    subprocess.run([RAY, "drain-node", *where, *why, "--deadline-remaining-seconds", "300"], check=True)
    assert any(node["NodeID"] == leaving.node and node["Alive"] for node in ray.nodes())
    node_check.check(ready)
    ray.kill(work)


@pytest.mark.slow
def test_only_looks_that_find_flaws_count_for_flaws(
    ready: Ready, joins: Callable[..., Joined], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probes, "NUM_TRIES", 1)
    claim = claims_another_optuna(tmp_path / "odd")
    dies_first(tmp_path / "odd", node_check.NUM_LOOKS - 1)
    joins(PYTHONPATH=str(tmp_path / "odd"))
    halted: list[str] = []
    said: list[str] = []

    def mend(text: str) -> None:
        said.append(text)
        if "optuna 4.0.0" in text:
            claim.unlink()
            claim.parent.rmdir()

    with node_check.newcomers(ready, SLOTS, halted.append, mend):
        wait(lambda: len(said) == 2 and num_asked() == 0)
    assert halted == []
    assert "could not be asked" in said[0]


@pytest.mark.slow
def test_a_storage_that_is_away_is_given_the_looks_that_trials_have_tries(
    tiny: Experiment, joins: Callable[..., Joined], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_check, "NUM_LOOKS", 1)
    monkeypatch.setattr(mirror, "NUM_TRIES", 3)
    looks: list[object] = []
    ask = probes.ask

    def counted(*arguments: Any) -> Any:
        looks.append(arguments)
        return ask(*arguments)

    monkeypatch.setattr(probes, "ask", counted)
    with s3_server.started(tmp_path) as server:
        for name, value in {**server.environment, "XDG_CACHE_HOME": str(tmp_path)}.items():
            monkeypatch.setenv(name, value)
        there = {"run.storage": f"s3://{server.bucket}/runs", "run.address": ray.get_runtime_context().gcs_address}
        ready = preflight.check(tiny.override(there), name="search", objective="val/top1")
    joins(**server.environment)  # where nobody listens any more
    halted: list[str] = []
    said: list[str] = []
    with node_check.newcomers(ready, SLOTS, halted.append, said.append):
        wait(lambda: bool(halted))
    assert len(looks) == 3
    assert "`run.storage` (=s3://bucket/runs/search) cannot be reached" in halted[0]
    assert len(said) == 1
