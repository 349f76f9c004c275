"""How far an epoch had come when training was left, to go on elsewhere."""

from dataclasses import dataclass

import torch

from slowfast_ray.learning.counts import Counts


@dataclass(frozen=True)
class Middle:
    """Between two steps of an epoch."""

    num_steps: int
    """Steps that are done."""
    counts: Counts
    """Over all workers."""
    seconds: float
    """What they took."""
    lr: float
    """Of the classifier, where the epoch began."""

    def to_list(self) -> list[float]:
        """As numbers, for a file."""
        counts = self.counts
        sums = (counts.num_clips, counts.num_top1, counts.num_top5, counts.loss_sum)
        return [self.num_steps, self.seconds, self.lr, *map(float, sums)]

    @staticmethod
    def from_list(values: list[float]) -> "Middle":
        """What `to_list` gave."""
        num_steps, seconds, lr, *sums = values
        return Middle(int(num_steps), Counts(*torch.tensor(sums, dtype=torch.float64)), seconds, lr)


class LeftError(Exception):
    """Training was left between two steps of an epoch, since a worker must leave its machine."""

    def __init__(self, middle: Middle) -> None:
        super().__init__(f"Training was left after {middle.num_steps} steps of an epoch.")
        self.middle = middle
