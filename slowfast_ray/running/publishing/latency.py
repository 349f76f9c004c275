"""How long calls take, several ways of computing side by side, so that a noisy machine hits all of them alike."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

PAUSE_SECONDS = 0.02
"""Between the turns of two ways: the threads of the one before spin on for a while, and take the cores."""
CALLS_A_TURN = 5
SLOW_SECONDS = 0.2
"""A call that takes longer is made once a turn: the threads of others are long at rest when it ends."""
MIN_TURNS, MAX_TURNS = 2, 20


@dataclass(frozen=True)
class Latency:
    """The times of some calls."""

    seconds_N: np.ndarray
    """float64 [N]."""

    @property
    def num_calls(self) -> int:
        """How many were timed."""
        return len(self.seconds_N)

    @property
    def p50_ms(self) -> float:
        """The median [ms]."""
        return float(np.percentile(self.seconds_N, 50) * 1000)

    @property
    def p95_ms(self) -> float:
        """The time that 95 % of the calls do not exceed [ms]."""
        return float(np.percentile(self.seconds_N, 95) * 1000)


def measure(ways: Mapping[str, Callable[[], object]], *, seconds: float) -> dict[str, Latency]:
    """The latency of each way. They take turns until about `seconds` are spent, MAX_TURNS at most, MIN_TURNS at
    least, after two calls of each to warm up; of fast calls, the first of a turn is not counted either.

    A call ends when its result is there: on a GPU, it must bring the result to the CPU.
    """
    for way in ways.values():
        way()
    is_slow = max(_timed(way) for way in ways.values()) > SLOW_SECONDS
    found: dict[str, list[float]] = {name: [] for name in ways}
    begun = time.perf_counter()
    for turn in range(MAX_TURNS):
        if turn >= MIN_TURNS and time.perf_counter() - begun > seconds:
            break
        for name, way in ways.items():
            time.sleep(PAUSE_SECONDS)
            if is_slow:
                found[name].append(_timed(way))
            else:
                way()
                found[name] += [_timed(way) for _ in range(CALLS_A_TURN)]
    return {name: Latency(np.array(each)) for name, each in found.items()}


def _timed(way: Callable[[], object]) -> float:
    begun = time.perf_counter()
    way()
    return time.perf_counter() - begun
