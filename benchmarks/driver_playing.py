"""The parts of driver_scale.py: a trial that is played, and what the driver needed until a mark."""

import io
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import psutil
import torch
from rich.console import Console

from slowfast_ray.data import dataset
from slowfast_ray.learning import checkpoint, counts
from slowfast_ray.learning.checkpoint import Progress
from slowfast_ray.learning.learner import Learner
from slowfast_ray.learning.predictions import Predictions
from slowfast_ray.running.folders import begun, logs
from slowfast_ray.running.folders.mirror import Mirror
from slowfast_ray.running.training import worker
from slowfast_ray.running.training.boards import Job
from slowfast_ray.running.training.records import Records
from slowfast_ray.running.training.worker import Row

T = TypeVar("T")
REPORT, SUGGESTION, END = "report", "suggestion", "end"


class Clock:
    """Seconds of calls, and seconds that the CPU worked for them in this thread, by what they did."""

    def __init__(self) -> None:
        self.wall: dict[str, list[float]] = defaultdict(list)
        self.cpu: dict[str, list[float]] = defaultdict(list)
        self._began = time.process_time()

    def of(self, what: str, call: Callable[[], T]) -> T:
        """Calls, and notes how long it took."""
        began, began_cpu = time.perf_counter(), time.thread_time()
        found = call()
        self.wall[what].append(time.perf_counter() - began)
        self.cpu[what].append(time.thread_time() - began_cpu)
        return found

    def process_seconds(self) -> float:
        """That the CPU worked for all threads, since this clock began."""
        return time.process_time() - self._began


@dataclass(frozen=True)
class Mark:
    """The driver since the mark before; sizes are as they stand."""

    num_ended: int
    num_reports: int
    report_ms: float
    """Median."""
    report_p95_ms: float
    report_cpu_ms: float
    """Mean of the CPU's own."""
    suggestion_ms: float
    """Median."""
    end_ms: float
    """Median."""
    seconds_a_report: float
    """All of the driver's time, suggestions and ends included."""
    cpu_seconds_a_report: float
    """The CPU's own of it, without waiting for the disk or for other threads."""
    process_seconds_a_report: float
    """The CPU's own for all threads: with the sending thread, and what is made up."""
    view_ms: float
    """The CPU's own for a refresh of the live view, which a terminal sees twice a second."""
    memory_mb: float
    study_mb: float
    journal_mb: float
    num_waiting: int


COLUMNS: dict[str, Callable[[Mark], str]] = {
    "trials ended": lambda mark: str(mark.num_ended),
    "reports": lambda mark: str(mark.num_reports),
    "report ms": lambda mark: f"{mark.report_ms:.1f}",
    "p95": lambda mark: f"{mark.report_p95_ms:.1f}",
    "CPU, mean": lambda mark: f"{mark.report_cpu_ms:.1f}",
    "suggestion ms": lambda mark: f"{mark.suggestion_ms:.0f}",
    "end ms": lambda mark: f"{mark.end_ms:.0f}",
    "all ms": lambda mark: f"{1000 * mark.seconds_a_report:.0f}",
    "CPU": lambda mark: f"{1000 * mark.cpu_seconds_a_report:.0f}",
    "all threads": lambda mark: f"{1000 * mark.process_seconds_a_report:.0f}",
    "view ms": lambda mark: f"{mark.view_ms:.0f}",
    "memory MB": lambda mark: f"{mark.memory_mb:.0f}",
    "study MB": lambda mark: f"{mark.study_mb:.1f}",
    "journal MB": lambda mark: f"{mark.journal_mb:.1f}",
    "waiting": lambda mark: str(mark.num_waiting),
}
"""Of the table, in order."""


@dataclass
class Playing:
    """A trial that trains, as a slot would see it."""

    job: Job
    seconds: float
    """Of an epoch."""
    quality: float
    progress: Progress
    rng: np.random.Generator = field(repr=False)

    @staticmethod
    def of(job: Job, classes: tuple[str, ...], objective: str) -> "Playing":
        """What a job would learn follows from its own settings."""
        rng = np.random.default_rng(int(job.name.rsplit("-", 1)[-1]))
        lr, clip = job.experiment.learning.lr, job.experiment.data.clip_len
        quality = 0.7 - 0.1 * abs(np.log10(lr / 0.03)) + 0.05 * rng.standard_normal()
        seconds = 60 * clip / 32 * rng.uniform(0.8, 1.2)
        return Playing(job, seconds, quality, Progress(classes=list(classes), objective=objective), rng)

    def epoch(self, home: Mirror) -> Row:
        """Another epoch; gives its row, by the worker's own function."""
        progress, experiment = self.progress, self.job.experiment
        epoch = progress.epoch + 1
        value = float(self.quality * (1 - np.exp(-4 * epoch / experiment.learning.num_epochs)))
        value += 0.02 * self.rng.standard_normal()
        names = (
            counts.VAL_TOP1,
            counts.VAL_TOP5,
            counts.VAL_MEAN_CLASS,
            counts.TRAIN_TOP1,
            counts.TRAIN_CLIPS_PER_SECOND,
        )
        metrics = {
            **dict.fromkeys(names, value), counts.TRAIN_LOSS: 2 - value, counts.VAL_LOSS: 2 - value,
            counts.TRAIN_LR: experiment.learning.lr, counts.TRAIN_MICRO_BATCH: 8, counts.VAL_SAMPLES: 98,
            counts.EPOCH_SECONDS: self.seconds,
        }  # fmt: skip
        progress.epoch, progress.history = epoch, [*progress.history, metrics]
        if progress.best_epoch == 0 or value > progress.best_value:
            progress.best_epoch, progress.best_value = epoch, value
        system = {"system/process_cpu_percentage": 99.0, "system/process_memory_megabytes": 2000.0}
        return {**worker.row_of(progress, home, experiment), **system, worker.DEVICE: "made up"}

    def save(self, folder: Path) -> None:
        """Its newest checkpoint and its log, as the driver will look for them."""
        experiment = self.job.experiment
        target_S = dataset.load(experiment.data).val.labels_S
        noise_SK = torch.from_numpy(self.rng.standard_normal((len(target_S), len(self.progress.classes)))).float()
        logits_SK = noise_SK + 3 * self.quality * torch.nn.functional.one_hot(target_S, noise_SK.shape[1])
        learner = Learner.start(torch.nn.Linear(1, 1), experiment.learning, num_train_steps=1)
        checkpoint.save(folder, learner, self.progress, experiment.to_json(), Predictions(logits_SK, target_S))
        lines = (f"Epoch {epoch}: {metrics}.\n" for epoch, metrics in enumerate(self.progress.history, start=1))
        (folder / logs.LOG).write_text("".join(lines), encoding="utf-8")


def mark_of(num_ended: int, clock: Clock, records: Records) -> Mark:
    """What `clock` noted, and how large everything is."""

    def median_ms(what: str, quantile: float = 0.5) -> float:
        return 1000 * float(np.quantile(clock.wall[what] or [np.nan], quantile))

    folder, num_reports = records.ready.folder, len(clock.wall[REPORT])
    console = Console(file=io.StringIO(), force_terminal=True, width=160)
    viewing = Clock()
    for _ in range(3):
        viewing.of("view", lambda: console.print(records.view._render()))
    journal = sum(file.stat().st_size for file in folder.glob("tracking-*.jsonl"))
    return Mark(
        num_ended=num_ended,
        num_reports=num_reports,
        report_ms=median_ms(REPORT),
        report_p95_ms=median_ms(REPORT, 0.95),
        report_cpu_ms=1000 * float(np.mean(clock.cpu[REPORT])),
        suggestion_ms=median_ms(SUGGESTION),
        end_ms=median_ms(END),
        seconds_a_report=sum(map(sum, clock.wall.values())) / num_reports,
        cpu_seconds_a_report=sum(map(sum, clock.cpu.values())) / num_reports,
        process_seconds_a_report=clock.process_seconds() / num_reports,
        view_ms=1000 * min(viewing.cpu["view"]),
        memory_mb=psutil.Process().memory_info().rss / 1e6,
        study_mb=(folder / begun.STUDY).stat().st_size / 1e6,
        journal_mb=journal / 1e6,
        num_waiting=records.tracker.num_unsent,
    )
