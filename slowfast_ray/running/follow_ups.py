"""The commands that a script prints for people to copy: how to go on from what it just did."""

import os
import shlex
import sys
from dataclasses import fields
from pathlib import Path

from slowfast_ray.data.config import DataConfig
from slowfast_ray.experiment import Experiment
from slowfast_ray.model.pretrained_report import ARCHITECTURE
from slowfast_ray.running.flags import PRESETS, Preset
from slowfast_ray.running.preflight import Ready


def command_again(experiment: Experiment, preset: Preset, metric: str) -> str:
    """The command that trains `experiment` again, from the current folder."""
    own = PRESETS[preset].flatten()
    # With weights, the file decides the defaults of these, so that all of them are said.
    told = {f"model.{name}" for name in ARCHITECTURE if name != "channels"} if experiment.model.weights else set()
    changed = {name: value for name, value in experiment.flatten().items() if own[name] != value or name in told}
    changed.pop("model.num_classes", None)  # the dataset says
    if not experiment.run.needs_ray:
        changed.pop("run.cpus_per_worker", None)  # of the trial's process on Ray; this one has all cores
    words = [word for name, value in changed.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    script = os.path.relpath(Path(sys.argv[0]).with_name("train_thermal.py"))
    return shlex.join([program(), script, "--preset", preset, "--metric", metric, *words])


def audit_command(data: DataConfig) -> str:
    """The command that audits this data with all that is found, from the current folder."""
    plain = DataConfig()
    changed = {field.name: getattr(data, field.name) for field in fields(data)}
    words = [
        word
        for name, value in changed.items()
        if value is not None and value != getattr(plain, name)
        for word in (f"--data.{name.replace('_', '-')}", str(value))
    ]
    return shlex.join([program(), os.path.relpath(Path(sys.argv[0]).with_name("audit_thermal.py")), *words])


def program() -> str:
    """How this Python is called from the current folder, for commands that people copy."""
    return os.path.relpath(sys.executable) if Path(sys.executable).is_relative_to(Path.cwd()) else sys.executable


def register_command(chosen: Path) -> str:
    """The command that makes a registered model of a checkpoint, from the current folder."""
    script = os.path.relpath(Path(sys.argv[0]).with_name("register_thermal.py"))
    return shlex.join([program(), script, os.path.relpath(chosen)])


def fetch_command(ready: Ready) -> str:
    """The command that brings a run from its URL, from the current folder."""
    script = os.path.relpath(Path(sys.argv[0]).with_name("fetch_thermal.py"))
    return shlex.join([program(), script, ready.home.place, ready.name])


def mlflow_command(tracking_uri: str) -> str:
    """How to open the MLflow UI on a store; for a server, its address."""
    if tracking_uri.startswith(("http://", "https://")):
        return tracking_uri
    return shlex.join([program(), "-m", "mlflow", "ui", "--backend-store-uri", tracking_uri])


def sync_command(ready: Ready) -> str:
    """The command that sends what MLflow lacks of a run, from the current folder."""
    script = os.path.relpath(Path(sys.argv[0]).with_name("sync_tracking.py"))
    return shlex.join([program(), script, os.path.relpath(ready.folder)])


def resume_command(ready: Ready) -> str:
    """The command that goes on with a search, from the current folder."""
    storage = ready.experiment.run.storage
    away = [] if Path(storage) == Path("runs").absolute() else ["--run.storage", storage]
    return shlex.join([program(), os.path.relpath(Path(sys.argv[0])), "--resume", ready.name, *away])
