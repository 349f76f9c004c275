"""Machines that are none: each a network, process, mount and host name space of this one, with a cable to one switch.

They share this machine's files, as far as these do not lie in /tmp, /run or a home; a folder in /tmp that all of them
shall see is named. What a machine is made of is gone with its first process: nothing is left to clean up, even where
the tests are killed.
"""

import os
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
COVERED = ("/tmp", "/run", "/home", "/dev/shm")
SUBNET = "10.77.0"
RAY_PORT = 6379
AGENT_PORTS = ("--dashboard-agent-grpc-port=6401", "--metrics-export-port=6402", "--runtime-env-agent-port=6403")
"""Left to choose, Ray's agents have 15 s to tell theirs, or the machine does not start."""
SECONDS = 60.0
"""A machine that has not started or ended by then never will."""
TOOLS = ("unshare", "nsenter", "setpriv", "ip", "mount")
REFUSALS = ("not permitted", "denied", "not supported", "Unknown device type")

_SWITCH = f"""
set -e
ip link set lo up
ip link add switch type bridge
ip address add {SUBNET}.254/24 dev switch
ip link set switch up
echo 1 > /proc/sys/net/ipv4/ip_forward
ip route add unreachable default  # the world outside is refused at once
echo up
exec sleep infinity
"""
# The shell that stays is the machine's first process: it takes in orphans, and its end is that of all others. The
# folders in /tmp are held in /mnt while /tmp is hidden.
_MACHINE = """
set -e
name=$1 names=$2
shift 2
hostname "$name"
ip link set lo up
mount -t tmpfs tmpfs /mnt
for folder in "$@"; do mkdir -p "/mnt$folder"; mount --bind "$folder" "/mnt$folder"; done
for covered in /tmp /run /home /dev/shm; do mount -t tmpfs tmpfs "$covered"; done
chmod 1777 /tmp /dev/shm
for folder in "$@"; do mkdir -p "$folder"; mount --move "/mnt$folder" "$folder"; done
mkdir -p /run/sshd
cp -r /etc/skel /home/root
chmod 700 /home/root
sed 's#^\\(root:.*\\):[^:]*:\\([^:]*\\)$#\\1:/home/root:\\2#' /etc/passwd > /run/passwd
printf '127.0.0.1 localhost\\n%s\\n' "$names" > /run/hosts
for file in passwd hosts; do mount --bind "/run/$file" "/etc/$file"; done
echo up
while :; do sleep 86400; done
"""


@dataclass(frozen=True)
class Machine:
    """One of the machines."""

    name: str
    address: str
    environment: dict[str, str]
    """Of all that is started there."""
    outside: subprocess.Popen[str]
    """Ends with the first process, once all others have."""
    init: int
    """Its first process, by the number that it has outside."""
    cable: str
    switch: int
    """The process whose network the other end of the cable is in."""
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, command: Sequence[str | Path], *, folder: Path | str = "/home/root") -> subprocess.Popen[str]:
        """Starts a command inside, in `folder`; its output and errors come through one pipe."""
        inside = ["nsenter", "--target", str(self.init), "--mount", "--net", "--pid", "--uts", f"--wdns={folder}"]
        process = subprocess.Popen(
            [*inside, "--", *command],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def run(
        self,
        command: Sequence[str | Path],
        *,
        timeout: float = 300,
        folder: Path | str = "/home/root",
    ) -> str:
        """What a command says, errors included; fails where it fails."""
        process = self.start(command, folder=folder)
        try:
            said, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired as error:
            told = (error.output or b"").decode()
            raise AssertionError(f"{self.name}: {shlex.join(map(str, command))} hangs: {told}") from error
        assert process.returncode == 0, f"{self.name}: {shlex.join(map(str, command))} ended with {said}"
        return said

    def ray_start(self, head: "Machine | None" = None, *, num_cpus: int = 1, num_gpus: int = 0) -> str:
        """Starts Ray: joined to `head`, or as the head of a new cluster, whose address it gives. GPUs are only said to
        be there.
        """
        role = ["--head", f"--port={RAY_PORT}", "--dashboard-host=127.0.0.1"]
        if head is not None:
            role = [f"--address={head.address}:{RAY_PORT}"]
        own = [f"--node-ip-address={self.address}", f"--num-cpus={num_cpus}", "--object-store-memory=100000000"]
        own += [f"--num-gpus={num_gpus}"] if num_gpus else []
        self.run([BIN / "ray", "start", *role, *own, *AGENT_PORTS, "--disable-usage-stats"])
        return f"{self.address}:{RAY_PORT}"

    def claims(self, package: str, version: str) -> None:
        """From now on, this version of a package seems to be installed on it."""
        folder = Path("/home/root/claimed")
        metadata = folder / f"{package}-{version}.dist-info" / "METADATA"
        said = f"Metadata-Version: 2.1\\nName: {package}\\nVersion: {version}\\n"
        self.run(["mkdir", "-p", metadata.parent])
        self.run(["sh", "-c", f"printf '{said}' > {metadata}"])
        self.environment["PYTHONPATH"] = str(folder)

    def hide(self, folder: Path) -> None:
        """Makes a folder of this machine's empty on that one, as where a package is not installed."""
        self.run(["mount", "-t", "tmpfs", "tmpfs", folder])

    def unplug(self) -> None:
        """Pulls its cable: it goes on, and nobody hears of it."""
        _ip(self.switch, "link", "set", self.cable, "down")

    def kill(self) -> None:
        """Takes its power: all of its processes end at once, and no connection is closed."""
        self.unplug()
        self._end()

    def _end(self) -> None:
        if self.outside.poll() is None:
            os.kill(self.init, signal.SIGKILL)
            self.outside.wait(SECONDS)
        for process in self.started:
            process.wait(SECONDS)
            if process.stdout is not None:
                process.stdout.close()


@contextmanager
def network(num: int, *, shared: Sequence[Path] = (), **environment: str) -> Iterator[list[Machine]]:
    """So many machines on one switch. `shared` are folders in /tmp that all of them see, and `environment` is added to
    that of all of them.

    Skips the test where this machine refuses to be divided.
    """
    if os.geteuid():
        pytest.skip("only root can divide this machine into several")
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        pytest.skip(f"{', '.join(missing)} must be installed to divide this machine into several")
    shared = [*shared, *_own_folders()]
    names = [f"machine-{number}" for number in range(num)]
    addresses = [f"{SUBNET}.{number + 1}" for number in range(num)]
    listed = "\n".join(f"{address} {name}" for name, address in zip(names, addresses, strict=True))
    token = secrets.token_hex(32)
    with ExitStack() as stack:
        switch = stack.enter_context(_process(["unshare", "--net"], _SWITCH))
        machines = []
        for name, address in zip(names, addresses, strict=True):
            apart = ["unshare", "--net", "--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
            outside = stack.enter_context(_process(apart, _MACHINE, name, listed, *map(str, shared)))
            (init,) = psutil.Process(outside.pid).children()
            cable = f"cable{len(machines)}"
            _ip(switch.pid, "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", str(init.pid))
            _ip(switch.pid, "link", "set", cable, "master", "switch", "up")
            for words in (
                ["address", "add", f"{address}/24", "dev", "eth0"],
                ["link", "set", "eth0", "up"],
                ["route", "add", "default", "via", f"{SUBNET}.254"],  # by which Ray finds its own address
            ):
                _ip(init.pid, *words)
            own = {**_environment(token), **environment}
            machine = Machine(name, address, own, outside, init.pid, cable, switch.pid)
            stack.callback(machine._end)
            machines.append(machine)
        yield machines


def _own_folders() -> list[Path]:
    """Of this checkout and its Python, those that lie where machines have folders of their own."""
    found = dict.fromkeys([ROOT, Path(sys.prefix), Path(sys.base_prefix)])
    outermost = [each for each in found if not any(other in each.parents for other in found)]
    return [each for each in outermost if any(each.is_relative_to(covered) for covered in COVERED)]


def _environment(token: str) -> dict[str, str]:
    return {
        "PATH": f"{BIN}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/home/root",
        "LANG": "C.UTF-8",
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "RAY_USAGE_STATS_ENABLED": "0",
    }


@contextmanager
def _process(apart: Sequence[str], script: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A shell in name spaces of its own, which says when it is up, and dies with this process."""
    command = ["setpriv", "--pdeathsig", "KILL", *apart, "--", "sh", "-c", script, "sh", *arguments]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    try:
        said = process.stdout.readline()
        if any(refusal in said for refusal in REFUSALS):
            pytest.skip(f"this machine refuses to be divided: {said.strip()}")
        assert said == "up\n", said + process.stdout.read()
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def _ip(pid: int, *words: str) -> None:
    """`ip` in the network of a process."""
    subprocess.run(["nsenter", "--target", str(pid), "--net", "--", "ip", *words], check=True, timeout=SECONDS)
