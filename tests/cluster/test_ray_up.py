"""cluster/onprem.yaml by the commands of cluster/README.md: a laptop, and two machines that it reaches by ssh."""

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from slowfast_ray.experiment import Experiment
from tests.cluster import hosts
from tests.cluster.hosts import BIN, Machine
from tests.running.conftest import ROOT, flags_of, runs_in

pytestmark = pytest.mark.cluster

RAY = BIN / "ray"
KEY = "/home/root/.ssh/slowfast_ray"
STATUS = "RAY_AUTH_MODE=token slowfast_ray/.venv/bin/ray status"
SSHD = """\
HostKey {folder}/host_key
PidFile none
PermitRootLogin prohibit-password
PasswordAuthentication no
UsePAM no
"""
# Stands in for `venv` and `pip install --editable`, which need a network. The package itself is hidden: jobs bring it.
SETUP = f"ln -sfn {BIN.parent} ~/slowfast_ray/.venv"


def cluster_file(head: Machine, worker: Machine) -> str:
    """cluster/onprem.yaml with these machines, without what needs a network."""
    text = (ROOT / "cluster" / "onprem.yaml").read_text()
    for placeholder, value in (
        ("[10.0.0.11, 10.0.0.12]", f"[{worker.address}]"),
        ("10.0.0.10", head.address),
        ("USER", "root"),
    ):
        assert placeholder in text
        text = text.replace(placeholder, value)
    config = yaml.safe_load(text)
    assert config["auth"]["ssh_private_key"].replace("~", "/home/root") == KEY
    others = [each for each in config["setup_commands"] if "pip " not in each and "venv " not in each]
    assert len(others) < len(config["setup_commands"])
    return yaml.safe_dump({**config, "setup_commands": [SETUP, *others]})


@contextmanager
def by_ssh(folder: Path, *shared: Path) -> Iterator[tuple[Machine, Machine, Machine]]:
    """A laptop with a key and a token, and two machines that know the key."""
    if not shutil.which("sshd", path="/usr/sbin") or not shutil.which("rsync"):
        pytest.skip("openssh-server or rsync is not installed")
    for name in ("host_key", "key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    (folder / "sshd").write_text(SSHD.format(folder=folder))
    with hosts.network(3, shared=[folder, *shared]) as (laptop, head, worker):
        for machine in (laptop, head, worker):
            del machine.environment["RAY_AUTH_TOKEN"]  # it is in a file, which `ray up` copies
        for machine in (head, worker):
            for package in ("slowfast_ray", "search_spaces"):
                machine.hide(ROOT / package)
            machine.run(["install", "-D", "-m", "600", folder / "key.pub", "/home/root/.ssh/authorized_keys"])
            machine.run(["/usr/sbin/sshd", "-f", folder / "sshd"])
        laptop.run(["install", "-D", "-m", "600", folder / "key", KEY])
        laptop.run([RAY, "get-auth-token", "--generate"])
        (folder / "onprem.yaml").write_text(cluster_file(head, worker))
        yield laptop, head, worker


def is_there(machine: Machine, process: str) -> bool:
    return process in machine.run(["ps", "-e", "-o", "args"])


def wait(is_so: Callable[[], bool], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < until
        time.sleep(1)


def test_a_search_on_machines_of_ones_own(tiny: Experiment, tmp_path: Path, made_up_root: Path) -> None:
    experiment = tiny.override({"data.clip_len": 16, "learning.num_epochs": 2})
    file = tmp_path / "onprem.yaml"
    with by_ssh(tmp_path, made_up_root) as (laptop, head, worker):
        laptop.run([RAY, "up", "-y", file], folder=ROOT, timeout=600)
        laptop.start([RAY, "dashboard", file])
        wait(lambda: " 2 local.cluster.node" in laptop.run([RAY, "exec", file, STATUS]), 600)

        laptop.environment["RAY_API_SERVER_ADDRESS"] = "http://127.0.0.1:8265"
        submit = [RAY, "job", "submit", "--working-dir", ".", "--submission-id", "one", "--"]
        search = ["python", "experiments/tune_thermal.py", *flags_of(experiment), "--name", "search"]
        said = laptop.run([*submit, *search, "--search.num-trials", "2"], folder=ROOT, timeout=600)
        assert "Job 'one' succeeded" in said
        assert "2 trials in" in said

        laptop.run([RAY, "rsync-down", file, f"{tmp_path}/runs/search/", "/tmp/search/"])
        assert "study.db" in laptop.run(["ls", "/tmp/search"])

        assert is_there(head, "raylet")
        assert is_there(worker, "raylet")
        laptop.run([RAY, "down", "-y", file])
        assert not is_there(head, "raylet")
        wait(lambda: not is_there(worker, "raylet"), 600)  # once it has missed the head for a while
    assert experiment.run.tracking_uri is not None
    assert [run.info.status for run in runs_in(experiment.run.tracking_uri)] == ["FINISHED"] * 3
