"""Ray's own processes on the driver's machine die: a search ends, which would wait for ever, and can go on."""

import contextlib
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
import ray

from slowfast_ray.experiment import Experiment
from slowfast_ray.running import preflight
from slowfast_ray.running.nodes.slots import Slots
from slowfast_ray.running.training import group
from slowfast_ray.running.training.worker import Row
from tests.running.conftest import ROOT, environment, flags_of, program_of

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_a_search_whose_own_ray_dies_ends_and_can_go_on(tiny: Experiment, tmp_path: Path, own_ray_folder: Path) -> None:
    flags = [*flags_of(tiny.override({"learning.num_epochs": 4, "data.clip_len": 16})), "--search.scheduler", "none"]
    flags += ["--search.num-trials", "2", "--search.max-concurrent", "1"]
    command = [sys.executable, str(ROOT / "experiments" / "tune_thermal.py"), *flags]

    def start(*more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*command, *more],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment(own_ray_folder),
        )

    first = start("--name", "search")
    until = time.monotonic() + 900
    while len([*(tmp_path / "runs" / "search" / "trial-000").glob("epoch-*")]) < 2:  # its newest two stay
        assert first.poll() is None, first.communicate()[0]
        assert time.monotonic() < until
        time.sleep(0.02)
    family = psutil.Process(first.pid).children(recursive=True)
    (agent,) = [each for each in family if program_of(each).endswith("/raylet")]
    for each in [*agent.children(recursive=True), agent]:
        with contextlib.suppress(psutil.Error):  # it may have ended with one of the others
            each.kill()
    said, _ = first.communicate(timeout=1500)
    assert first.returncode == 130, said
    assert "Ray's agent on this machine died" in said

    second = start("--resume", "search")
    said, _ = second.communicate(timeout=1500)
    assert second.returncode == 0, said
    study = optuna.load_study(study_name="search", storage=f"sqlite:///{tmp_path}/runs/search/study.db")
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 2
    assert [sorted(trial.intermediate_values) for trial in study.trials] == [[1, 2, 3, 4]] * 2


END_WITHOUT_A_HEAD = """
import contextlib
import sys
import time

import psutil
import ray

from slowfast_ray.running.training.pulse import Watch
from tests.running.conftest import program_of

ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, _temp_dir=sys.argv[1])
with contextlib.suppress(KeyboardInterrupt), Watch(0.02) as watch:
    ray.get(watch.pulse.restarts.remote())
    for each in psutil.Process().children(recursive=True):
        program = program_of(each)
        if program.endswith("/gcs_server") or program.startswith("ray::Pulse"):
            each.kill()
    time.sleep(5)  # until it asks what has become of this machine
    raise KeyboardInterrupt
print("MLflow can be told")
"""


def test_the_end_does_not_wait_for_a_head_that_ended_too() -> None:
    # Batch systems send SIGTERM to all processes of a job; 60 s without its head, Ray ends this one, too.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        done = subprocess.run(
            [sys.executable, "-c", END_WITHOUT_A_HEAD, folder],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "MLflow can be told"


@pytest.mark.usefixtures("own_ray")
@pytest.mark.parametrize("leaves_by", [KeyboardInterrupt, SystemExit])
def test_a_group_that_is_interrupted_with_its_queue_is_interrupted(
    tiny: Experiment, monkeypatch: pytest.MonkeyPatch, leaves_by: type[BaseException]
) -> None:
    ready = preflight.check(tiny.override({"run.num_workers": 2}), name="one", objective="val/top1")
    preflight.claim(ready)
    rows: list[Row] = []

    def tell_and_die(*args: Any, **options: Any) -> None:
        callback: group.ForwardRows = args[4][0]
        callback.after_report(None, [{"epoch": 1}], None)
        until = time.monotonic() + 300
        while not rows:
            assert time.monotonic() < until
            time.sleep(0.1)
        ray.kill(callback._rows.actor)
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # as Ray Train leaves its own
        raise leaves_by

    monkeypatch.setattr(group, "train", tell_and_die)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        group.fit(ready, "val/top1", rows.append, Slots(2, 1, 0, None))
    assert rows == [{"epoch": 1}]
    assert signal.getsignal(signal.SIGINT) is before
