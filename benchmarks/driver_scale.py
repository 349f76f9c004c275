"""How many trials does one driver serve, and what becomes slow as a search grows?

Plays a search without Ray and without training: the board, the study on SQLite, the rungs, the records, the journal,
MLflow's store and the terminal's view are the real ones, in one process with the real sending thread, as in a search.
Made up are the learning curves, and when an epoch is done: slots train at once, each epoch takes the seconds of its
batch and clip, give or take a fifth. A trial's checkpoint is written by the real writer, with a network of one weight,
once, when the trial ends: before that the driver reads none. Weights are what it lacks beside a real one.

Not in it: Ray Tune's own work for each report (its event loop, its notes on disk), and a network between driver, store
and files. Reports come as fast as the driver takes them, so that entries for MLflow wait behind: how many it takes a
second shows when the driver rests, at the end. Without tracking, entries go to the journal, and no store answers.

Run       python benchmarks/driver_scale.py
          python benchmarks/driver_scale.py --no-tracking --sampler tpe
Cost      up to an hour on two cores
Expected  benchmarks/results/driver_scale_*.txt
"""

import contextlib
import cProfile
import heapq
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import tyro
from driver_playing import COLUMNS, END, REPORT, SUGGESTION, Clock, Mark, Playing, mark_of
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from trainings import machine

from search_spaces.thermal import THERMAL
from slowfast_ray.data import synthetic
from slowfast_ray.experiment import LAPTOP
from slowfast_ray.running import preflight
from slowfast_ray.running.folders import logs
from slowfast_ray.running.folders.sending import Sender
from slowfast_ray.running.progress import SearchView
from slowfast_ray.running.searching import search_begun, search_rules, search_space, tuner
from slowfast_ray.running.searching.config import Sampler, Scheduler, SearchConfig
from slowfast_ray.running.searching.searcher import SearchBoard
from slowfast_ray.running.tracking.tracking import Tracker
from slowfast_ray.running.training import worker
from slowfast_ray.running.training.records import Records
from slowfast_ray.running.training.worker import Row

MARKS = (50, 100, 200, 400, 700, 1000)
"""A row is printed once every slot has told of an epoch, after so many trials have ended, and after the last."""
NOBODY = "http://127.0.0.1:9"
"""An MLflow server that does not answer."""
EPOCH_SECONDS = (5, 10, 30, 60, 300)


@dataclass(frozen=True, kw_only=True)
class Flags:
    """What is played."""

    num_trials: int = 1000
    """Trials of the search [trials]."""
    num_epochs: int = 50
    """Of a training to its end [epochs]."""
    slots: int = 128
    """Trials at once."""
    sampler: Sampler = "random"
    """Who suggests."""
    scheduler: Scheduler = "asha"
    """Who stops trials early."""
    grace_epochs: int | None = None
    """The first rung [epochs]. None: as a search has it."""
    budget_gpu_hours: float | None = None
    """With one, however large, the driver adds up what all trials have cost."""
    tracking: bool = True
    """Whether an MLflow store answers."""
    tracking_uri: str | None = None
    """An MLflow store, or server. None: a new SQLite file."""
    profile: Path | None = None
    """File for cProfile's figures of the driver's own thread."""
    data_frames: int = 785
    """Of each recording of the made-up data; the default makes 312 training and 98 validation samples."""


@dataclass(frozen=True)
class Played:
    """A search that was played."""

    marks: list[Mark]
    folder: Path
    uri: str
    endings: Counter[str]
    epochs: int
    """Reported in all."""
    simulated_seconds: float
    """By the made-up clock."""
    slot_seconds: float
    """That slots trained, by the same clock."""
    num_unsent: int
    """After a last flush."""
    sent_per_second: float
    """Entries that the store took a second while the driver rested; NaN where none waited."""


def play(flags: Flags, folder: Path, tell: Callable[[Mark], None] = lambda mark: None) -> Played:
    """Plays a search in the empty `folder`; `tell` hears of each mark."""
    root, uri = folder / "data", flags.tracking_uri or f"sqlite:///{folder}/mlflow.db"
    synthetic.write(root, num_frames=flags.data_frames)
    experiment = LAPTOP.override(
        {
            "data.root": str(root),
            "learning.num_epochs": flags.num_epochs,
            "run.storage": str(folder / "runs"),
            "run.tracking_uri": uri,
        }
    )
    names = ("num_trials", "sampler", "scheduler", "grace_epochs", "budget_gpu_hours")
    config = SearchConfig(**{name: getattr(flags, name) for name in names})
    ready = tuner.check(experiment, THERMAL, config, name="played")
    space = search_space.drawable(THERMAL)
    preflight.claim(ready, search_begun.to_json(space, config))
    store = uri if flags.tracking else NOBODY
    with Sender(ready.home) as sender, logs.kept_in(ready.folder), Tracker(store, ready.folder) as tracker:
        run = tracker.open(ready.name, ready.experiment, ready.folder, tags=ready.tags(), resume=False)
        tracker.flush()  # makes the store's tables before the clock runs
        records = Records(ready, config, tracker, run, SearchView(ready.name, config, flags.num_epochs), sender)
        board = SearchBoard(records, search_rules.open_study(ready, space, config))
        marks, simulated, slot_seconds = _play(flags, board, records, tell)
        records.close()
        waiting, began = tracker.num_unsent, time.perf_counter()
        tracker.end(run, "finished")
        tracker.flush()
        seconds = time.perf_counter() - began
        num_sent = waiting - tracker.num_unsent
        return Played(
            marks=marks,
            folder=ready.folder,
            uri=tracker.uri,
            endings=Counter(str(trial.state) for trial in board.trials),
            epochs=sum(trial.epoch for trial in board.trials),
            simulated_seconds=simulated,
            slot_seconds=slot_seconds,
            num_unsent=tracker.num_unsent,
            sent_per_second=num_sent / seconds if num_sent > 0 else float("nan"),
        )


def _play(
    flags: Flags, board: SearchBoard, records: Records, tell: Callable[[Mark], None]
) -> tuple[list[Mark], float, float]:
    """What jobs.py does, told by a made-up clock; gives the marks, its last moment, and the seconds of all slots."""
    config, folder, classes = records.config, records.ready.folder, records.ready.data.classes
    next_marks = [0, *(mark for mark in MARKS if mark < flags.num_trials), flags.num_trials]
    clock, marks, num_ended, slot_seconds, now = Clock(), [], 0, 0.0, 0.0
    playing: list[tuple[float, str, Playing]] = []

    def fill() -> None:
        while len(playing) < flags.slots and (job := clock.of(SUGGESTION, board.next)) is not None:
            trial = Playing.of(job, classes, config.best_epoch_by)
            heapq.heappush(playing, (now + trial.seconds, job.name, trial))

    def take(name: str, row: Row) -> bool:
        is_stopped = board.row(name, row)
        board.is_over()  # as Tune asks after each report
        return is_stopped

    fill()
    while playing:
        now, name, trial = heapq.heappop(playing)
        row = trial.epoch(records.ready.home.below(name))
        slot_seconds += trial.seconds
        is_stopped = clock.of(REPORT, lambda name=name, row=row: take(name, row))
        if is_stopped or row[worker.FINISHED]:
            trial.save(folder / name)
            clock.of(END, lambda name=name: board.ended(name, None, ""))
            num_ended += 1
        else:
            heapq.heappush(playing, (now + trial.seconds, name, trial))
        if num_ended == next_marks[0] and (num_ended or len(clock.wall[REPORT]) == flags.slots):
            marks.append(mark_of(next_marks.pop(0), clock, records))
            tell(marks[-1])
            clock = Clock()
        fill()
    return marks, now, slot_seconds


def said_of(flags: Flags, played: Played) -> Iterator[str]:
    """What follows from the marks, in sentences."""
    first, last = played.marks[0], played.marks[-1]
    bend = next((mark.num_ended for mark in played.marks if mark.report_cpu_ms >= 2 * first.report_cpu_ms), None)
    grew = "never takes" if bend is None else f"takes, until {bend} trials have ended,"
    yield (
        f"A report {grew} twice the CPU time that it takes at the start, and at the end "
        f"{last.report_cpu_ms / first.report_cpu_ms:.1f} times as much."
    )
    per_second = 1 / last.seconds_a_report, 1 / last.cpu_seconds_a_report
    yield (
        f"At the end the driver takes {per_second[0]:.0f} reports a second as measured, suggestions and ends included; "
        f"{per_second[1]:.0f} if it waited for nobody; {1 / last.process_seconds_a_report:.0f} on one core that sends "
        "to MLflow as well."
    )
    slots = ", ".join(f"{seconds * per_second[0]:.0f} of {seconds} s" for seconds in EPOCH_SECONDS)
    yield f"As measured it serves, by the length of their epochs, so many slots: {slots}."
    yield (
        f"MLflow took {played.sent_per_second:.0f} entries a second while the driver rested; "
        f"{played.num_unsent} are unsent."
    )
    ended = ", ".join(f"{num} {ending}" for ending, num in sorted(played.endings.items()))
    busy = played.slot_seconds / (flags.slots * played.simulated_seconds)
    yield (
        f"{ended}; {played.epochs} epochs. By the made-up clock {played.simulated_seconds / 3600:.1f} h, in which "
        f"{busy:.0%} of the slots' time was training."
    )


def main() -> None:
    """Plays a search and prints how the driver did."""
    flags = tyro.cli(Flags, description=(__doc__ or "").splitlines()[0])
    console = Console(width=180)
    table = Table(
        box=SIMPLE_HEAD, pad_edge=False, title="What the driver needs, as a search grows", title_justify="left"
    )
    for column in COLUMNS:
        table.add_column(column, no_wrap=True, justify="right")
    before = os.getloadavg()[0]
    if not flags.tracking:
        os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    said, profile = sys.stderr, cProfile.Profile() if flags.profile else contextlib.nullcontext()

    def tell(mark: Mark) -> None:
        table.add_row(*(show(mark) for show in COLUMNS.values()))
        print(asdict(mark), file=said, flush=True)

    with tempfile.TemporaryDirectory(prefix="driver-scale-", dir="/tmp") as folder:
        # The view of a search prints as well, to nobody here.
        with Path(os.devnull).open("w") as devnull, contextlib.redirect_stdout(devnull), profile:
            played = play(flags, Path(folder), tell)
        if isinstance(profile, cProfile.Profile):
            profile.dump_stats(str(flags.profile))
    console.print(table)
    for sentence in said_of(flags, played):
        print(sentence)
    settings = {name: value for name, value in asdict(flags).items() if value != getattr(Flags, name)}
    print(f"{settings or 'as it comes'}; load of the machine before it began: {before:.1f}. {machine()}")


if __name__ == "__main__":
    main()
