"""The scripts as their users call them: each trains a step on made-up data, in a process of its own."""

import ast
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from slowfast_ray.experiment import Experiment
from slowfast_ray.running.tracking import tracking
from tests.running.conftest import ROOT, environment, flags_of, runs_in

SCRIPTS = sorted((ROOT / "experiments").glob("*.py"))
SMALL_SEARCH = ("--search.num-trials", "2", "--search.max-concurrent", "2")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_opens_with_question_command_cost_and_expectation(script: Path) -> None:
    text = ast.get_docstring(ast.parse(script.read_text())) or ""
    assert text.splitlines()[0].endswith("?")
    for label in ("Run  ", "Laptop  ", "Cost  ", "Expected  "):
        assert f"\n{label}" in text, label
    assert "TODO" not in text


def run(script: str, *flags: str, folder: Path, ray_folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, ROOT / "experiments" / f"{script}.py", *flags],
        cwd=folder, env=environment(ray_folder), capture_output=True, text=True, timeout=1200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == "", "a quiet terminal"
    return done.stdout


@pytest.mark.ray
@pytest.mark.parametrize("num_workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_tune_thermal(tiny: Experiment, tmp_path: Path, own_ray_folder: Path, num_workers: int) -> None:
    # Before anything starts, bad input: what a shell sees is an exit code and one line, no traceback.
    done = subprocess.run(
        [sys.executable, ROOT / "experiments" / "tune_thermal.py", "--data.root", "/nowhere"],
        cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.strip().splitlines() == [
        "error: No such data folder: /nowhere; `data.root` must hold frames/ and annotations/."
    ]
    # With two workers the script starts Ray with its dashboard, one after the other group on the same two CPUs.
    experiment = tiny.override({"run.num_workers": num_workers, "data.clip_len": 16})
    flags = (*flags_of(experiment), "--search.num-trials", "2", "--name", "two")
    shown = run("tune_thermal", *flags, folder=tmp_path, ray_folder=own_ray_folder)
    assert "2 trials in" in shown
    assert "To beat without a network, val/mean_class: majority" in shown
    assert "; lift " in shown
    assert "Train it again:" in shown
    assert experiment.run.tracking_uri is not None
    parent, *children = runs_in(experiment.run.tracking_uri)
    assert [run.info.status for run in (parent, *children)] == ["FINISHED"] * 3
    assert {child.data.metrics["val/num_samples"] for child in children} == {32.0}


@pytest.mark.ray
@pytest.mark.slow
def test_train_thermal_over_two_workers(tiny: Experiment, tmp_path: Path, own_ray_folder: Path) -> None:
    experiment = tiny.override({"run.num_workers": 2, "learning.num_epochs": 2})
    shown = run("train_thermal", *flags_of(experiment), "--name", "one", folder=tmp_path, ray_folder=own_ray_folder)
    assert [line.split()[1] for line in shown.splitlines() if line.startswith("epoch ")] == ["1/2", "2/2"]
    assert experiment.run.tracking_uri is not None
    (found,) = runs_in(experiment.run.tracking_uri)
    assert found.info.status == "FINISHED"
    assert found.data.metrics["val/num_samples"] == 32
    assert found.data.metrics["best_epoch"] in (1, 2)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_a_search_cleanly(tiny: Experiment, tmp_path: Path, kind: signal.Signals) -> None:
    ray_folder = Path("/tmp") / f"ray-stop-{os.getpid()}-{kind}"
    experiment = tiny.override({"learning.num_epochs": 10_000, "data.clip_len": 16})
    process = subprocess.Popen(
        [sys.executable, ROOT / "experiments" / "tune_thermal.py", *flags_of(experiment), *SMALL_SEARCH],
        cwd=tmp_path, env=environment(ray_folder), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    until = time.monotonic() + 600
    while len({epoch.parent for epoch in (tmp_path / "runs").glob("*/trial-*/epoch-*")}) < 2:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until
        time.sleep(0.2)
    os.killpg(process.pid, kind)  # a terminal sends Ctrl-C to the whole group
    shown, _ = process.communicate(timeout=600)
    assert process.returncode == 130, shown
    assert "nterrupted" in shown
    assert "Traceback" not in shown
    assert experiment.run.tracking_uri is not None
    runs = runs_in(experiment.run.tracking_uri)
    assert len(runs) == 3
    assert {run.info.status for run in runs} == {"KILLED"}
    assert {run.data.tags[tracking.STATE] for run in runs} == {"stopped"}
    assert all("val/loss" in run.data.metrics for run in runs[1:]), "what was done is in MLflow"
    until = time.monotonic() + 300
    while left := processes_naming(str(ray_folder)):
        assert time.monotonic() < until, left
        time.sleep(0.5)


def processes_naming(text: str) -> list[str]:
    """Command lines, and environments where they can be read, of living processes that contain `text`."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                words = [*process.cmdline(), *process.environ().values()]
                found += [" ".join(process.cmdline())] if any(text in word for word in words) else []
        except psutil.Error:
            continue
    return found
