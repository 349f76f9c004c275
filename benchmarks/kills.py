"""What is lost when something is killed in the middle of a search?

Each round is a search of its own on made-up data: real trials, a real Ray, MLflow in SQLite. At a random moment one of
its processes is killed with SIGKILL: a worker of a group, the process of a trial, the node agent (raylet), or the
driver. What does not go on by itself is started again with --resume, as its user would. At the end what the study and
MLflow hold is compared with what had to be there.

Run       python benchmarks/kills.py
Laptop    python benchmarks/kills.py --rounds 4
Cost      15 to 30 minutes on two cores for 20 rounds
Expected  nothing finished is ever lost, nothing is doubled, at most one epoch of each trial is trained twice;
          benchmarks/results/kills_cpu_2026-11-29.txt
"""

import random
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import psutil
import rich
import tyro
from rich.table import Table
from trainings import machine

from slowfast_ray.data import synthetic

SCRIPT = Path(__file__).parents[1] / "experiments" / "tune_thermal.py"
VICTIMS = {
    "worker of a group": "ray::RayTrainWorker",
    "trial": "ray::ImplicitFunc",
    "node agent": "raylet",
    "driver": "",
}
"""What is killed, and how its command line begins or ends."""
SECONDS_TO_RECOVER = 240
"""A search that has not ended by then is killed and resumed, which the table counts."""


@dataclass(frozen=True, kw_only=True)
class Flags:
    """How often."""

    rounds: int = 20
    """Searches, with the kinds of victims in turn [count]."""

    seed: int = 0
    """Of when to kill [whole number]."""

    num_trials: int = 3
    """Of each search [trials]."""

    num_epochs: int = 4
    """Of each trial [epochs]."""


@dataclass(frozen=True)
class Round:
    """What became of a search."""

    victim: str
    epochs_done: int
    """Over all trials, when it was killed."""
    num_resumed: int
    num_stuck: int
    """Times that the search did not go on, and had to be killed."""
    seconds: float
    """From the kill to the end."""
    repeated: int
    """Most epochs that a trial trained more than once."""
    lost: int
    """Epochs that were reported before the kill and are not in the study at the end, and trials that did not finish."""
    doubled: int
    """Runs and points of MLflow that are there more than once."""


def main() -> None:
    """Plays the rounds and prints the table."""
    flags = tyro.cli(Flags, description=(__doc__ or "").splitlines()[0])
    chance = random.Random(flags.seed)
    rounds: list[Round] = []
    with tempfile.TemporaryDirectory(prefix="kills-", dir="/tmp", ignore_cleanup_errors=True) as scratch:
        data = Path(scratch) / "data"
        synthetic.write(data, seed=3, num_recordings=2, num_frames=260)
        for number in range(flags.rounds):
            victim = [*VICTIMS][number % len(VICTIMS)]
            folder = Path(scratch) / f"round-{number}"
            folder.mkdir()
            rounds.append(play(victim, data, folder, flags, chance.random()))
            print(f"{number + 1} of {flags.rounds}: {rounds[-1]}", file=sys.stderr, flush=True)
    show(rounds)


def play(victim: str, data: Path, folder: Path, flags: Flags, when: float) -> Round:
    """One search; `when` of its epochs (0 to 1) are done before the kill."""
    total = flags.num_trials * flags.num_epochs
    process = start(victim, data, folder, flags, "--name", "search")
    wait_for_epochs(folder, max(1, round(when * (total - 2))), process)
    target = find(victim, process)
    before = epochs_in_study(folder)
    killed_at = time.monotonic()
    target.send_signal(signal.SIGKILL)
    num_resumed = num_stuck = 0
    while not ended(process):
        if process.poll() is None:
            end_all(process)
            num_stuck += 1
        num_resumed += 1
        process = start(victim, data, folder, flags, "--resume", "search")
    seconds = time.monotonic() - killed_at
    after = epochs_in_study(folder)
    return Round(
        victim,
        sum(map(len, before.values())),
        num_resumed,
        num_stuck,
        seconds,
        max((repeated_in(log) for log in folder.glob("runs/search/trial-*/log.txt")), default=0),
        sum(len(epochs - after.get(number, set())) for number, epochs in before.items())
        + sum(after.get(number) != {*range(1, flags.num_epochs + 1)} for number in range(flags.num_trials)),
        doubled_in(folder / "mlflow.db", flags.num_trials),
    )


def start(victim: str, data: Path, folder: Path, flags: Flags, *more: str) -> subprocess.Popen[bytes]:
    """A search as a process of its own, with groups where a group's worker is the victim."""
    settings = {
        "data.root": data,
        "data.clip-len": 16,
        "data.height": 20,
        "data.width": 30,
        "model.width": 0.125,
        "learning.num-epochs": flags.num_epochs,
        "run.num-workers": 2 if victim == "worker of a group" else 1,
        "run.storage": folder / "runs",
        "run.tracking-uri": f"sqlite:///{folder}/mlflow.db",
        "search.num-trials": flags.num_trials,
        "search.scheduler": "none",
        "search.max-concurrent": 1,
        "run.gpus-per-worker": 0,  # one GPU would not do for a group of two
    }
    words = [str(word) for name, value in settings.items() for word in (f"--{name}", value)]
    environment = {"RAY_TMPDIR": str(folder.parent / "ray"), "OMP_NUM_THREADS": "1"}
    with (folder / "said.txt").open("ab") as said:
        return subprocess.Popen(
            [sys.executable, str(SCRIPT), *words, *more],
            stdout=said,
            stderr=subprocess.STDOUT,
            env={**psutil.Process().environ(), **environment},
        )


def wait_for_epochs(folder: Path, num_epochs: int, process: subprocess.Popen[bytes]) -> None:
    """Returns once so many epochs are in the study."""
    while sum(map(len, epochs_in_study(folder).values())) < num_epochs:
        if process.poll() is not None:
            raise RuntimeError(f"The search ended before it was killed: {(folder / 'said.txt').read_text()[-2000:]}")
        time.sleep(0.1)


def find(victim: str, process: subprocess.Popen[bytes]) -> psutil.Process:
    """The process to kill, as soon as there is one."""
    driver = psutil.Process(process.pid)
    while victim != "driver":
        for each in driver.children(recursive=True):
            try:
                words = each.cmdline() or [""]
            except psutil.NoSuchProcess:
                continue
            if words[0].startswith(VICTIMS[victim]) or words[0].endswith(f"/{VICTIMS[victim]}"):
                return each
        time.sleep(0.1)
    return driver


def ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether a search ended as it should, within the time for it."""
    try:
        return process.wait(timeout=SECONDS_TO_RECOVER) == 0
    except subprocess.TimeoutExpired:
        return False


def end_all(process: subprocess.Popen[bytes]) -> None:
    """Kills a search with its Ray."""
    for each in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
        each.send_signal(signal.SIGKILL)
    process.wait()


def epochs_in_study(folder: Path) -> dict[int, set[int]]:
    """The epochs that the study knows of each trial, by its number."""
    rows = read(
        folder / "runs" / "search" / "study.db",
        "SELECT number, step FROM trials JOIN trial_intermediate_values USING (trial_id)",
    )
    found: dict[int, set[int]] = {}
    for number, epoch in rows:
        found.setdefault(number, set()).add(epoch)
    return found


def repeated_in(log: Path) -> int:
    """Epochs that the log of a trial tells of more than once."""
    epochs = re.findall(r"Epoch (\d+) of", log.read_text(encoding="utf-8"))
    return len(epochs) - len({*epochs})


def doubled_in(database: Path, num_trials: int) -> int:
    """Runs beyond those of the search and its trials, and points of a metric beyond one an epoch."""
    ((num_runs,),) = read(database, "SELECT COUNT(*) FROM runs")
    points = read(database, "SELECT COUNT(*) FROM metrics WHERE key = 'val/loss' GROUP BY run_uuid, step")
    return num_runs - num_trials - 1 + sum(num - 1 for (num,) in points)


def read(database: Path, query: str) -> list[tuple[int, ...]]:
    """Rows of an SQLite file; none where it is not there yet."""
    if not database.is_file():
        return []
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=30)) as connection:
        try:
            return connection.execute(query).fetchall()
        except sqlite3.OperationalError:  # its tables are being made
            return []


def show(rounds: list[Round]) -> None:
    """The table, a row for each kind of victim."""
    table = Table(title=f"{len(rounds)} searches, one process of each killed; {machine()}")
    for name in ("killed", "rounds", "resumed", "stuck", "s to the end", "epochs twice", "lost", "doubled"):
        table.add_column(name, justify="left" if name == "killed" else "right")
    for victim in VICTIMS:
        own = [each for each in rounds if each.victim == victim]
        if own:
            seconds = sorted(each.seconds for each in own)
            table.add_row(
                victim,
                str(len(own)),
                str(sum(each.num_resumed for each in own)),
                str(sum(each.num_stuck for each in own)),
                f"{seconds[0]:.0f} to {seconds[-1]:.0f}",
                f"at most {max(each.repeated for each in own)}",
                str(sum(each.lost for each in own)),
                str(sum(each.doubled for each in own)),
            )
    rich.print(table)
    print("epochs twice: of one trial; lost: epochs and trials; doubled: runs and points in MLflow")


if __name__ == "__main__":
    main()
