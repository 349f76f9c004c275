"""Where a run came from: the commit of the package's own checkout, and of no other."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from slowfast_ray.running import provenance
from tests.running.conftest import ROOT

TAGS = "import json; from slowfast_ray.running import provenance; print(json.dumps(provenance.tags()))"


def git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=somebody", "-c", "user.email=somebody@example.org")
    return subprocess.run(["git", "-C", str(folder), *who, *words], capture_output=True, text=True, check=True).stdout


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """Somebody's own checkout, in which a copy of the package lies that is not part of it."""
    git(tmp_path, "init", "--quiet")
    (tmp_path / "own.txt").write_text("mine")
    git(tmp_path, "add", "own.txt")
    git(tmp_path, "commit", "--quiet", "--message", "mine")
    shutil.copytree(ROOT / "slowfast_ray", tmp_path / "slowfast_ray", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def tags_of(folder: Path, **variables: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(folder), **variables}
    command = [sys.executable, "-c", TAGS]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
def test_the_commit_is_that_of_the_checkout_that_the_package_is_part_of(elsewhere: Path) -> None:
    assert "git_commit" not in tags_of(elsewhere), "another project's commit says nothing"
    git(elsewhere, "add", "slowfast_ray")
    git(elsewhere, "commit", "--quiet", "--message", "with the package")
    commit = git(elsewhere, "rev-parse", "HEAD").strip()
    # Set while git runs a hook, for another repository.
    told = tags_of(elsewhere, GIT_DIR=str(ROOT / ".git"))
    assert f'"slowfast_ray.git_commit": "{commit}"' in told
    assert '"slowfast_ray.git_state": "clean"' in told
    (elsewhere / "slowfast_ray" / "new.py").write_text("")
    (elsewhere / "notes.txt").write_text("")
    assert '"slowfast_ray.git_state": "1 changed file(s)"' in tags_of(elsewhere)


def test_versions_and_command_are_told() -> None:
    tags = provenance.tags()
    assert f"python {sys.version.split()[0]}" in tags["slowfast_ray.versions"]
    assert "ray " in tags["slowfast_ray.versions"]
    assert tags["slowfast_ray.command"].startswith("python ")
