"""What a trial is worth: the objectives of a search, from the epochs that it has done."""

from collections.abc import Sequence

from slowfast_ray.learning import counts
from slowfast_ray.learning.intervals import Interval

GPU_SECONDS = "cost/gpu_seconds"
"""How long a trial held its workers: epochs times workers, evaluations included; without GPUs, seconds of a worker."""

HIGHER_IS_BETTER = {**counts.HIGHER_IS_BETTER, GPU_SECONDS: False}


def check(names: Sequence[str]) -> None:
    """Raises ValueError for an objective that no run reports, or one that is there twice."""
    for name in names:
        if name not in HIGHER_IS_BETTER:
            raise ValueError(
                f"`search.objectives` names {name!r}, which no run reports; choose of {', '.join(HIGHER_IS_BETTER)}."
            )
    if len(set(names)) < len(names):
        raise ValueError(f"`search.objectives` (={','.join(names)}) names one twice; name each once.")
    if list(names) == [GPU_SECONDS]:
        raise ValueError(
            f"`search.objectives` (={GPU_SECONDS}) alone finds the trial that learns least; weigh it against another: "
            f"{counts.VAL_MEAN_CLASS},{GPU_SECONDS}."
        )


def value(history: Sequence[dict[str, float]], name: str, *, smooth_epochs: int, num_devices: float) -> float:
    """An objective after the epochs of `history`, at least one: a cost in sum, anything else as the mean over the last
    `smooth_epochs`.
    """
    if name == GPU_SECONDS:
        return num_devices * sum(metrics[counts.EPOCH_SECONDS] for metrics in history)
    newest = [metrics[name] for metrics in history[-smooth_epochs:]]
    return sum(newest) / len(newest)


def around(value: float, interval: Interval | None) -> Interval | None:
    """The interval of the newest epoch, moved to the smoothed value."""
    if interval is None:
        return None
    moved = value - interval.value
    return Interval(value, interval.low + moved, interval.high + moved, interval.num_samples)
