"""Ray's agent on the driver's own machine dies: the search ends, which would wait for ever, and can go on."""

import contextlib
import subprocess
import sys
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
