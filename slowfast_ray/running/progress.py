"""What the terminal shows: one quiet live view where there is a terminal, one line an event where there is none."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from slowfast_ray.learning.loop import Step
from slowfast_ray.running.searching.config import SearchConfig
from slowfast_ray.running.searching.trials import Trial, describe
from slowfast_ray.running.training import system_metrics, worker
from slowfast_ray.running.training.worker import Row


class SearchView:
    """A search in progress: a bar, the best so far, and the trials that run."""

    def __init__(self, name: str, config: SearchConfig, num_epochs: int) -> None:
        self._name, self._metric, self._num_epochs = name, config.metric, num_epochs
        self._num_trials = config.num_trials
        self._budget_seconds = None if config.time_budget_min is None else config.time_budget_min * 60
        self._started = time.monotonic()
        self._console = Console()
        self._trials: list[Trial] = []
        self._best: Trial | None = None
        self._said_best: set[str] = set()
        self._said: dict[str, str] = {}
        # A function, not a value: the clock moves between events.
        self._live = Live(get_renderable=self._render, console=self._console, refresh_per_second=2, transient=True)

    def __enter__(self) -> "SearchView":
        if self._console.is_terminal:
            self._live.start()
        else:
            self.say(f"{self._name}: {self._num_trials} trials of up to {self._num_epochs} epochs.")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def update(self, trials: Sequence[Trial], best: Trial | None) -> None:
        """Something happened to a trial."""
        is_news = best is not None and best.state is not None and best.name not in self._said_best
        self._trials, self._best = list(trials), best
        if not self._console.is_terminal:
            if is_news and best is not None:
                self._said_best.add(best.name)
                self.say(f"[{self._elapsed()}] best so far: {self._score(best)} by {best.name}, epoch {best.epoch}")
            self._say_what_changed()

    def say(self, line: str) -> None:
        """A line that stays."""
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _say_what_changed(self) -> None:
        for trial in self._trials:
            state = trial.state or "started"
            if self._said.get(trial.name) != state:
                self._said[trial.name] = state
                scored = "" if not trial.history else f" after {trial.epoch} epochs, {self._score(trial)}"
                described = describe(trial.sample, trial.experiment)
                self.say(f"[{self._elapsed()}] {trial.name} {state}{scored} ({described})")

    def _elapsed(self) -> str:
        return _clock(time.monotonic() - self._started)

    def _score(self, trial: Trial) -> str:
        return f"{self._metric} {trial.value:.4f}"

    def _render(self) -> Group:
        ended = [trial for trial in self._trials if trial.state is not None]
        numbers = {
            state: sum(trial.state == state for trial in ended)
            for state in ("finished", "pruned", "failed", "infeasible")
        }
        bar = Progress(
            TextColumn("[bold]{task.description}"), BarColumn(30), MofNCompleteColumn(), TextColumn("trials"),
            TextColumn("{task.fields[rest]}"), console=self._console,
        )  # fmt: skip
        elapsed = time.monotonic() - self._started
        left = self._seconds_left(len(ended), elapsed)
        rest = f"{_clock(elapsed)} so far" + ("" if left is None else f", about {_clock(left)} left")
        bar.add_task(self._name, total=self._num_trials, completed=len(ended), rest=rest)
        running = Table.grid(padding=(0, 2))
        for trial in self._trials:
            if trial.state is None:
                score = "-" if not trial.history else self._score(trial)
                running.add_row(
                    f"  {trial.name}", f"epoch {trial.epoch}/{self._epochs_of(trial)}", score,
                    describe(trial.sample, trial.experiment),
                )  # fmt: skip
        counted = f"  {len(self._trials) - len(ended)} running, " + ", ".join(f"{n} {s}" for s, n in numbers.items())
        best = "  no epoch done yet"
        if self._best is not None:
            best = (
                f"  best so far: {self._score(self._best)} by {self._best.name}, epoch {self._best.epoch} "
                f"({describe(self._best.sample, self._best.experiment)})"
            )
        return Group(bar, Text(counted), Text(best, style="green"), running)

    def _epochs_of(self, trial: Trial) -> int:
        return trial.experiment.learning.num_epochs

    def _seconds_left(self, num_ended: int, elapsed: float) -> float | None:
        """By the epochs that ended trials took, pruned ones included; None before there is anything to go by."""
        shares = [min(1.0, trial.epoch / self._epochs_of(trial)) for trial in self._trials if trial.state is None]
        done = num_ended + sum(shares)
        by_trials = None if done < 0.1 else elapsed / done * (self._num_trials - done)
        if self._budget_seconds is None:
            return by_trials
        by_budget = max(0.0, self._budget_seconds - elapsed)
        return by_budget if by_trials is None else min(by_trials, by_budget)


class TrainView:
    """A single run in progress: a bar over its epochs with what its steps show, and a line an epoch.

    Of a run over several workers no steps are seen: its bar moves once an epoch.
    """

    def __init__(
        self,
        name: str,
        *,
        num_epochs: int,
        num_epochs_done: int,
        batch_size: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name, self._num_epochs, self._batch_size = name, num_epochs, batch_size
        self._clock = clock
        self._started = clock()
        # Two moments and how many epochs were done then: the pace is what lies between.
        self._first = self._last = _Moment(self._started, num_epochs_done)
        self._step: Step | None = None
        self._loss_sum = 0.0
        self._epoch_began, self._step_seconds = self._started, 0.0
        self._console = Console()
        # A function, not a value: the clock moves between steps.
        self._live = Live(get_renderable=self._render, console=self._console, refresh_per_second=2, transient=True)

    def __enter__(self) -> "TrainView":
        done = math.floor(self._last.num_epochs)
        if done:
            self._say(f"{self._name}: {done} of {self._num_epochs} epochs are done, {self._num_epochs - done} to go.")
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def step(self, step: Step) -> None:
        """A step of the optimiser is done."""
        self._last = _Moment(self._clock(), step.epoch - 1 + step.step / step.num_steps)
        if self._step is None:  # what came before was not training, but its preparation
            self._first = self._last
        if self._step is None or self._step.epoch != step.epoch:
            self._loss_sum, self._epoch_began = 0.0, self._last.seconds
        self._loss_sum += step.loss
        self._step_seconds = self._last.seconds - self._epoch_began
        self._step = step

    def update(self, row: Row) -> None:
        """An epoch is done."""
        self._last = _Moment(self._clock(), row[worker.EPOCH])
        metrics = "  ".join(
            f"{name} {value:.4g}"
            for name, value in row.items()
            if "/" in name and not name.startswith(system_metrics.PREFIX)
        )
        best = "  (best)" if row[worker.BEST_EPOCH] == row[worker.EPOCH] else ""
        self._say(f"epoch {row[worker.EPOCH]}/{self._num_epochs}  {metrics}{best}")

    def pace(self) -> str:
        """Mean loss of the epoch so far, learning rate, clips a second, and how long the whole run still takes.

        Evaluations so far are in what is left; where early stopping may end the run, it is what is left at most.
        """
        parts, now = [], self._clock()
        if self._step is not None:
            parts += [f"loss {self._loss_sum / self._step.step:.4g}", f"lr {self._step.lr:.3g}"]
            if self._step.step > 1 and self._step_seconds:
                # When the first step of an epoch began is not known, only when it was done.
                num_clips = (self._step.step - 1) * self._batch_size
                parts.append(f"{num_clips / self._step_seconds:.3g} clips/s")
        parts.append(f"{_clock(now - self._started)} so far")
        done, seconds = self._last.num_epochs - self._first.num_epochs, self._last.seconds - self._first.seconds
        if done:
            left = (self._num_epochs - self._last.num_epochs) * seconds / done - (now - self._last.seconds)
            parts.append(f"about {_clock(max(0.0, left))} left")
        return "  ".join(parts)

    def _say(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _render(self) -> Group:
        bar = Progress(
            TextColumn("{task.description}", style="bold", markup=False), BarColumn(30),
            TextColumn("{task.fields[rest]}"), console=self._console,
        )  # fmt: skip
        done = self._last.num_epochs
        task = bar.add_task(self._name, total=self._num_epochs, rest=f"{math.floor(done)}/{self._num_epochs} epochs")
        bar.update(task, completed=done)
        return Group(bar, Text(f"  {self.pace()}", no_wrap=True, overflow="ellipsis"))


@dataclass(frozen=True)
class _Moment:
    seconds: float
    num_epochs: float


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
