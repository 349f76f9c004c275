"""What Ray is asked and told of machines, and what is said where it has no room: by a real Ray, on this machine."""

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import tune
from ray.util.placement_group import placement_group, remove_placement_group

from slowfast_ray.experiment import Experiment
from slowfast_ray.learning import checkpoint
from slowfast_ray.running import preflight
from slowfast_ray.running.nodes import machines
from slowfast_ray.running.nodes.slots import Slots
from slowfast_ray.running.training import group, jobs, room, trainer, tune_parts
from slowfast_ray.running.training.boards import REASON, VERDICT
from slowfast_ray.running.training.pulse import Watch
from slowfast_ray.running.training.tune_parts import Source
from tests.running.conftest import environment
from tests.running.plain_board import PlainBoard

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("own_ray")]

OTHER_PYTHON = """
import sys, ray, ray._private.utils
from slowfast_ray.run_config import RunConfig
from slowfast_ray.running.nodes import cluster
ray._private.utils.compute_version_info = lambda: (ray.__version__, "3.11.99")
with cluster.connected(RunConfig(address=sys.argv[1]), verbose=False):
    pass
"""

SOME_OF_A_MACHINE = """
import os, ray, torch
from slowfast_ray.run_config import RunConfig
from slowfast_ray.running.nodes import cluster, machines
torch.cuda.device_count = lambda: 3
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
with cluster.connected(RunConfig(), verbose=False):
    print(machines.here().now[0], "|", machines.joined().now[0])
"""


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (None, False),
        ("ulimit -n 65536; ray start --head  --block  --num-cpus=0 ", False),
        ("ray start --head  --block  --no-monitor  --num-cpus=0 ", True),
        ("ray start --block  --address=head:6379 ", False),
    ],
)
def test_on_kubernetes_a_cluster_grows_where_it_is_scaled(
    command: str | None, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(machines.ON_KUBERNETES, raising=False)
    if command is not None:
        monkeypatch.setenv(machines.ON_KUBERNETES, command)
    assert machines.joined().can_grow is expected


def said_by(program: str, folder: Path, *arguments: str) -> str:
    """What a program prints, in a process of its own."""
    outside = {name: value for name, value in environment(folder).items() if name != "RAY_ADDRESS"}
    command = [sys.executable, "-c", program, *arguments]
    ended = subprocess.run(command, env=outside, capture_output=True, text=True, timeout=600, check=False)
    return ended.stdout + ended.stderr


@pytest.mark.slow
def test_ray_on_this_machine_counts_what_this_process_may_use(own_ray_folder: Path) -> None:
    assert "1 CPUs and 3 GPUs | 1 CPUs and 3 GPUs" in said_by(SOME_OF_A_MACHINE, own_ray_folder)


def test_a_cluster_of_another_python_is_refused_with_both_versions(own_ray_folder: Path) -> None:
    here = ".".join(map(str, sys.version_info[:3]))
    (refusal,) = [
        line
        for line in said_by(OTHER_PYTHON, own_ray_folder, ray.get_runtime_context().gcs_address).splitlines()
        if line.startswith("slowfast_ray.running.refusals.RefusedError: `run.address`")
    ]
    assert f"cannot be joined: Version mismatch: The cluster was started with: Ray: {ray.__version__}" in refusal
    assert f"Python: {here} This process on" in refusal
    assert "Python: 3.11.99. A search runs on a machine of its cluster" in refusal


class OtherJob:
    """Holds CPUs."""

    def begin(self) -> None: ...


def free_once_told(other: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Gives the CPUs back once it is said that they are missed, and could have been said again."""

    def wait() -> None:
        until = time.monotonic() + 300
        while not any("room" in text for text in caplog.messages) and time.monotonic() < until:
            time.sleep(0.1)
        time.sleep(2)
        ray.kill(other)

    threading.Thread(target=wait, name="other job").start()


def train_alone(config: dict[str, object]) -> None:
    tune.report({VERDICT: "failed", REASON: "done"})


def train_for_long(config: dict[str, object]) -> None:
    time.sleep(12)
    train_alone(config)


def train_in_a_group(config: dict[str, object]) -> None:
    group = placement_group([{"CPU": 1}] * 2)
    ray.get(group.ready())
    tune.report({VERDICT: "failed", REASON: "done"})
    remove_placement_group(group)


@pytest.mark.parametrize(("num_workers", "trainable"), [(1, train_alone), (2, train_in_a_group)])
@pytest.mark.slow
def test_trials_that_find_no_room_say_so_once_and_begin_when_there_is(
    num_workers: int,
    trainable: Callable[[dict[str, object]], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(room, "SECONDS_UNTIL_TOLD", 5.0)  # within which a trial whose group is gone ends, too
    monkeypatch.setattr(room, "SECONDS_BETWEEN_LOOKS", 0.5)
    other: Any = ray.remote(num_cpus=2)(OtherJob).remote()
    ray.get(other.begin.remote())
    free_once_told(other, caplog)
    board = PlainBoard(num_jobs=1)
    with Watch(15) as watch, caplog.at_level(logging.WARNING, "slowfast_ray"):
        jobs._run(board, watch, "search", trainable, Slots(num_workers, 1, 0, None), max_failures=0, verbose=False)
    assert board.ends == ["failed"]
    (note,) = [each.getMessage() for each in caplog.records if "room" in each.getMessage()]
    who = "a worker" if num_workers == 1 else "2 workers"
    assert f"it asks for {who} with 1 CPU core(s), and the cluster has 0 CPUs and 0 GPUs free" in note


@pytest.mark.slow
def test_trials_that_have_room_train_without_a_word(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(room, "SECONDS_UNTIL_TOLD", 5.0)  # within which its process gets its room
    monkeypatch.setattr(room, "SECONDS_BETWEEN_LOOKS", 0.2)
    board = PlainBoard(num_jobs=1)
    with Watch(15) as watch, caplog.at_level(logging.WARNING, "slowfast_ray"):
        jobs._run(board, watch, "search", train_for_long, Slots(1, 1, 0, None), max_failures=0, verbose=False)
    assert board.ends == ["failed"]
    assert caplog.messages == []


@pytest.mark.slow
def test_a_run_that_finds_no_room_says_so_too(
    tiny: Experiment, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(room, "SECONDS_UNTIL_TOLD", 1.0)
    monkeypatch.setattr(group, "SECONDS_BETWEEN_LOOKS", 0.5)
    monkeypatch.setattr(room, "SECONDS_BETWEEN_LOOKS", 0.5)
    other: Any = ray.remote(num_cpus=2)(OtherJob).remote()
    ray.get(other.begin.remote())
    free_once_told(other, caplog)
    ready = preflight.check(tiny.override({"run.num_workers": 2}), name="run", objective="val/top1", resume=False)
    with caplog.at_level(logging.WARNING, "slowfast_ray"):
        trainer.fit(ready, "val/top1", on_row=lambda row: None)
    notes = [each.getMessage() for each in caplog.records if "has had room" in each.getMessage()]
    assert notes, "and perhaps again, at this pace, while Ray Train ends what trained"
    assert "it asks for 2 workers with 1 CPU core(s), and the cluster has 0 CPUs" in notes[0]
    assert checkpoint.newest(ready.folder) is not None, "it began once there was room"


def test_a_machine_that_is_too_small_for_a_worker_is_named_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tune_parts, "SECONDS_BETWEEN_COUNTS", 0.0)
    source = Source(PlainBoard(), Slots(1, 3, 0, None))
    with caplog.at_level(logging.WARNING, "slowfast_ray"):
        assert [source.suggest("first"), source.suggest("second")] == [None, None]
    (note,) = [each.getMessage() for each in caplog.records]
    assert note.startswith("A machine with 2 CPUs and 0 GPUs trains nothing, since each worker asks for 3 CPU core(s);")
    assert "--run.cpus-per-worker 2 would fit" in note
