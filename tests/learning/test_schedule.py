"""The learning rate: up a line to the peak, down a cosine to nothing."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slowfast_ray.learning.schedule import factor


def factors(num_steps: int, num_warmup_steps: int) -> list[float]:
    return [factor(step, num_steps=num_steps, num_warmup_steps=num_warmup_steps) for step in range(num_steps)]


def test_the_way_of_a_short_run() -> None:
    half = math.sqrt(0.5) / 2  # the cosine of 45 degrees, halved
    expected = [0.25, 0.5, 0.75, 1.0, 1.0, 0.5 + half, 0.5, 0.5 - half]
    assert factors(8, 4) == pytest.approx(expected)
    assert factor(8, num_steps=8, num_warmup_steps=4) == pytest.approx(0)


@settings(max_examples=100, deadline=None)
@given(data=st.data(), num_steps=st.integers(1, 300))
def test_it_rises_to_the_peak_and_falls_towards_nothing(data: st.DataObject, num_steps: int) -> None:
    num_warmup_steps = data.draw(st.integers(0, num_steps))
    found = factors(num_steps, num_warmup_steps)
    assert all(0 < each <= 1 for each in found)  # a step of length 0 would be wasted
    rising, falling = found[:num_warmup_steps], found[num_warmup_steps:]
    assert rising == sorted(rising)
    assert falling == sorted(falling, reverse=True)
    assert max(found) == 1
    if rising:
        assert rising[-1] == 1
        steps = [after - before for before, after in zip([0, *rising[:-1]], rising, strict=True)]
        assert steps == pytest.approx([1 / num_warmup_steps] * num_warmup_steps)
    assert factor(num_steps, num_steps=num_steps, num_warmup_steps=num_warmup_steps) == pytest.approx(
        0 if falling else 1
    )


def test_past_the_end_it_does_not_rise_again() -> None:
    # A scheduler is stepped once more after the last step, and a cosine alone would come back.
    assert [factor(step, num_steps=10, num_warmup_steps=2) for step in (10, 11, 15, 30)] == pytest.approx([0] * 4)
