"""Ray's own processes on the driver's machine die: a search ends, which would wait for ever, and can go on."""

import contextlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import optuna
import psutil
import pytest

from slowfast_ray.experiment import Experiment
from tests.running.conftest import ROOT, environment, flags_of

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def program_of(process: psutil.Process) -> str:
    """The first word of its command; empty where it has ended meanwhile."""
    with contextlib.suppress(psutil.Error):
        return (process.cmdline() or [""])[0]
    return ""


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
import sys
import time

import psutil
import ray

from slowfast_ray.running.training.pulse import Watch

ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, _temp_dir=sys.argv[1])
with Watch(0.02) as watch:
    ray.get(watch.pulse.restarts.remote())
    family = {(each.cmdline() or [""])[0]: each for each in psutil.Process().children(recursive=True)}
    for program, process in family.items():
        if program.endswith("/gcs_server") or program.startswith("ray::Pulse"):
            process.kill()
    time.sleep(5)  # until it asks what has become of this machine
print("MLflow can be told")
"""


def test_the_end_does_not_wait_for_a_head_that_ended_too() -> None:
    # Batch systems send SIGTERM to all processes of a job; 60 s without its head, Ray ends this one, too.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        done = subprocess.run(
            [sys.executable, "-c", END_WITHOUT_A_HEAD, folder], capture_output=True, text=True, timeout=600, check=False
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "MLflow can be told"
