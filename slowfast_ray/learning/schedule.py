"""How the learning rate moves: up a line, down a cosine (Loshchilov and Hutter 2017, arXiv 1608.03983)."""

import math


def factor(step: int, *, num_steps: int, num_warmup_steps: int) -> float:
    """Share of the peak learning rate at `step`, counted from 0: up to 1 at the last warm-up step, then down to 0."""
    if step < num_warmup_steps:
        return (step + 1) / num_warmup_steps
    remaining = max(1, num_steps - num_warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - num_warmup_steps) / remaining)))
