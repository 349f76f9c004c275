"""For tests of whole runs: scripts called as users call them, and a look into the MLflow store."""

import contextlib
import importlib.util
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from slowfast_ray.experiment import Experiment

ROOT = Path(__file__).parents[2]
ASK_STORE = "/api/2.0/mlflow/experiments/get?experiment_id=0"
"""On an MLflow server: its store answers. At /health it answers before it has opened any."""


@pytest.fixture
def call_script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Runs main() of a script in experiments/ in this process, in an empty working folder, with the given flags.

    What SIGTERM does is set back.
    """
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)

    def call(script: str, *flags: str) -> None:
        spec = importlib.util.spec_from_file_location(script, ROOT / "experiments" / f"{script}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setattr(sys, "argv", [f"experiments/{script}.py", *flags])
        spec.loader.exec_module(module)
        module.main()

    handler = signal.getsignal(signal.SIGTERM)
    yield call
    signal.signal(signal.SIGTERM, handler)


def flags_of(experiment: Experiment) -> list[str]:
    """An experiment in the words of the command line."""
    return [
        text
        for name, value in experiment.flatten().items()
        if value is not None
        for text in (f"--{name.replace('_', '-')}", str(value))
    ]


def runs_in(uri: str, name: str = "slowfast_ray") -> list[Run]:
    """All runs of an MLflow experiment, the oldest first."""
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    return client.search_runs([experiment.experiment_id], order_by=["start_time ASC"])


def program_of(process: psutil.Process) -> str:
    """The first word of its command; empty where it has ended meanwhile."""
    with contextlib.suppress(psutil.Error):
        return (process.cmdline() or [""])[0]
    return ""


def environment(folder: Path) -> dict[str, str]:
    """For a script in a process of its own: Ray's files in `folder`, one thread."""
    return {**os.environ, "RAY_TMPDIR": str(folder), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
