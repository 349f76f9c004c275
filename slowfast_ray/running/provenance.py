"""Where a run came from: the code with its commit, the versions, the command, the device; for its tags in MLflow."""

import contextlib
import functools
import getpass
import os
import platform
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import torch

PACKAGES = ("slowfast-ray", "torch", "pytorchvideo", "ray", "optuna", "mlflow", "numpy")


@functools.cache
def tags() -> dict[str, str]:
    """The tags of every run of this process, MLflow's own among them, which its page has columns for."""
    found = {
        "mlflow.source.name": Path(sys.argv[0]).name,
        "mlflow.source.type": "LOCAL",
        "slowfast_ray.command": command()[:4000],
        "slowfast_ray.versions": ", ".join(
            [f"python {platform.python_version()}", *(f"{name} {version(name)}" for name in PACKAGES)]
        ),
        **_git(),
    }
    with contextlib.suppress(KeyError, OSError):  # a container whose user has no name
        found["mlflow.user"] = getpass.getuser()
    return found


def command() -> str:
    """The command line of this process, for people to copy."""
    script = os.path.relpath(sys.argv[0]) if Path(sys.argv[0]).is_file() else sys.argv[0]
    return shlex.join(["python", script, *sys.argv[1:]])


def device_name(device: torch.device) -> str:
    """For people: NVIDIA L4, or CPU, 2 threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} thread(s)"


def _git() -> dict[str, str]:
    """Commit and state of the checkout that the package runs from; empty where it is installed, or git is not."""
    here = Path(__file__)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "--no-optional-locks", "-C", os.fspath(here.parent), *words],
            capture_output=True, text=True, timeout=10, check=True, env=environment, stdin=subprocess.DEVNULL,
        ).stdout.strip()  # fmt: skip

    try:
        git("ls-files", "--error-unmatch", here.name)  # a copy may lie inside somebody's checkout
        commit, state = git("rev-parse", "HEAD"), git("status", "--porcelain")
    except (OSError, subprocess.SubprocessError):
        return {}
    changed = [line for line in state.splitlines() if not line.startswith("??") or line.endswith(".py")]
    shown = f"{len(changed)} changed file(s)" if changed else "clean"
    return {"mlflow.source.git.commit": commit, "slowfast_ray.git_commit": commit, "slowfast_ray.git_state": shown}
