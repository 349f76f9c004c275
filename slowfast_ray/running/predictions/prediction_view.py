"""What the terminal shows of predictions: a bar while they are made, and what was found in the end."""

from collections import Counter
from collections.abc import Iterable, Sequence
from types import TracebackType

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from slowfast_ray.learning import intervals
from slowfast_ray.running.predicting import WRONG_UNIT
from slowfast_ray.running.predictions.prediction_axis import clock
from slowfast_ray.running.predictions.prediction_plan import Plan
from slowfast_ray.running.predictions.prediction_run import Done

NUM_ACTIONS = 3
"""Most frequent ones that are named."""


class PredictView:
    """A bar over recordings; on a terminal only."""

    def __init__(self, num_recordings: int, console: Console) -> None:
        self._num_windows = 0
        self._bar = Progress(
            TextColumn("predicting", style="bold"), BarColumn(30), MofNCompleteColumn(), TextColumn("recordings"),
            TimeElapsedColumn(), TextColumn("{task.fields[windows]}"), console=console, transient=True,
            disable=not console.is_terminal,
        )  # fmt: skip
        self._task = self._bar.add_task("", total=num_recordings, windows="")

    def __enter__(self) -> "PredictView":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def windows(self, number: int) -> None:
        """So many windows more are done, where they are done in this process."""
        self._num_windows += number
        self._bar.update(self._task, windows=f"{self._num_windows} windows")

    def recording(self) -> None:
        """A recording is done."""
        self._bar.advance(self._task)


def summary(found: Sequence[Done]) -> Table:
    """A row for each recording that did not fail."""
    with_truths = any(each.is_right for each in found)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("recording", overflow="fold")
    table.add_column("duration", justify="right")
    table.add_column("windows", justify="right")
    table.add_column("most frequent actions", overflow="fold")
    if with_truths:
        table.add_column("keyframes right", justify="right")
    for each in found:
        if each.table is None:
            continue
        row = [Text(each.path.stem), _duration(each.table), str(len(each.table)), Text(_actions(each.table))]
        table.add_row(*row, *([share_right([each])] if with_truths else []))
    return table


def share_right(found: Iterable[Done]) -> str:
    """Of the annotated keyframes whose class the model knows, for people; a dash without any."""
    is_right = [right for each in found for right in each.is_right if right is not None]
    return str(intervals.wilson(sum(is_right), len(is_right))) if is_right else "-"


def warnings(plan: Plan, found: Sequence[Done]) -> list[str]:
    """What makes the predictions, or their share of right ones, worth less than it seems."""
    said = plan.warnings()
    good = [(each, each.table) for each in found if each.table is not None]
    resized = [(each, table["note"].iloc[0]) for each, table in good if "resized" in table["note"].iloc[0]]
    if resized:
        note = next(part for part in resized[0][1].split("; ") if "resized" in part)
        said.append(
            f"{len(resized)} of {len(good)} recordings have frames of another size than those that the model was "
            f"trained on, and are resized: {resized[0][0].path.stem} {note.removeprefix('resized ')}."
        )
    repaired = [each for each, _ in good if each.num_dead_pixels]
    if repaired:
        number = sum(each.num_dead_pixels for each in repaired)
        said.append(f"{number} dead pixel values in {len(repaired)} of {len(good)} recordings are repaired.")
    wrong_unit = [each for each, table in good if table["note"].str.contains(WRONG_UNIT, regex=False).any()]
    if wrong_unit:
        data = plan.experiment.data
        said.append(
            f"In {len(wrong_unit)} of {len(good)} recordings, first {wrong_unit[0].path.stem}, most pixels of some "
            f"clips lie outside {data.min_celsius:g} to {data.max_celsius:g} degrees Celsius, where the model tells no "
            f"temperatures apart: {WRONG_UNIT}"
        )
    if any(each.is_right for each in found):
        said.append(
            f"A model does not say which recordings it was trained on ({plan.description.trained_as}): if these were "
            "among them, or others of the same session, the shares right flatter. Keyframes near each other in time "
            "look alike, so that the intervals are too narrow."
        )
    return said


def _duration(table: pd.DataFrame) -> str:
    starts_ms, ends_ms = table["start_ms"].dropna().to_numpy(), table["end_ms"].dropna().to_numpy()
    if not len(starts_ms):
        return f"{table['end_frame'].max() + 1} frames"
    return clock(float(ends_ms.max() - starts_ms.min()) / 1000)


def _actions(table: pd.DataFrame) -> str:
    num_frames: Counter[str] = Counter()
    for name, first, last in zip(table["class"], table["start_frame"], table["end_frame"], strict=True):
        num_frames[name] += last + 1 - first
    return ", ".join(
        f"{name} {number / num_frames.total():.0%}" for name, number in num_frames.most_common(NUM_ACTIONS)
    )
