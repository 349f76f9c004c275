"""Settings of the data: which are refused, with what to do about it, and which do nothing beside others."""

import re
from dataclasses import fields
from typing import Any

import pytest

from slowfast_ray.data.config import DataConfig


@pytest.mark.parametrize(
    "changes",
    [
        {"clip_len": 0},
        {"frame_interval": 0},
        {"height": 0},
        {"width": -1},
        {"split": "random"},
        {"labels": "everything"},
        {"ties": "highest"},
        {"fold": -1},
        {"num_folds": 1},
        {"split_seed": -1},
        {"split_seed": 2**32},
        {"person_margin": -0.1},
        {"person_margin": float("inf")},
        {"person_margin": float("nan")},
        {"class_balance": -0.1},
        {"class_balance": 1.1},
        {"class_balance": float("nan")},
        {"frame_interval_ms": 0.0},
        {"frame_interval_ms": -170.0},
        {"frame_interval_ms": float("nan")},
        {"frame_interval_ms": float("inf")},
        {"purge_window": 63.0},
        {"purge_window": 0.0},
        {"purge_window": float("nan")},
        {"purge_window": float("inf")},
        {"flip_prob": 1.1},
        {"erase_prob": -0.1},
        {"max_shift": 1.0},
        {"min_crop": 0.0},
        {"gain_jitter": 1.0},
        {"offset_jitter_celsius": -1.0},
        {"min_celsius": 35.0},
        {"max_celsius": float("inf")},
    ],
    ids=str,
)
def test_what_breaks_a_law_is_refused_by_name_and_value(changes: dict[str, Any]) -> None:
    ((name, value),) = changes.items()
    with pytest.raises(ValueError, match=rf"`data\.{name}` \(={re.escape(repr(value))}\)"):
        DataConfig(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"purge_window": 64.0},
        {"purge_window": 5440.0, "frame_interval_ms": 170.0},
        {"num_folds": 2, "fold": 7},  # how many there are, the dataset says
        {"split_seed": 2**32 - 1},
        {"class_balance": 1.0},
        {"person_margin": 0.0},
        {"flip_prob": 1.0, "erase_prob": 0.0, "max_shift": 0.0, "min_crop": 1.0},
    ],
    ids=str,
)
def test_the_borders_are_within_the_law(changes: dict[str, Any]) -> None:
    DataConfig(**changes)


def test_a_purge_window_is_measured_as_the_clip_is() -> None:
    assert DataConfig(clip_len=16, frame_interval=3).window == 48
    assert DataConfig(clip_len=16, frame_interval=3, frame_interval_ms=100.0).window == 1600
    with pytest.raises(ValueError, match=r"narrower than the clip, 1600 \(clip_len x interval\)"):
        DataConfig(clip_len=16, frame_interval_ms=100.0, purge_window=64)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"fold": 1}, ["fold"]),
        ({"fold": 1, "split": "leave-one-session-out"}, []),
        ({"fold": 1, "split": "purged", "num_folds": 3, "split_seed": 4, "purge_window": 100.0}, []),
        ({"num_folds": 3, "split_seed": 4, "purge_window": 100.0}, ["num_folds", "purge_window", "split_seed"]),
        (
            {"num_folds": 3, "split_seed": 4, "purge_window": 100.0, "split": "leave-one-session-out"},
            ["num_folds", "purge_window", "split_seed"],
        ),
        ({"ties": "drop"}, []),
        ({"ties": "drop", "labels": "person", "person_margin": 0.2}, ["ties"]),
        ({"ties": "rarest", "labels": "multi", "person_margin": 0.2}, ["ties", "person_margin"]),
        ({"person_margin": 0.2}, ["person_margin"]),
        ({"frame_interval": 4}, []),
        ({"frame_interval": 4, "frame_interval_ms": 170.0}, ["frame_interval"]),
        ({"class_balance": 0.5, "labels": "multi"}, []),
    ],
    ids=str,
)
def test_settings_without_effect_are_named_with_their_reason(changes: dict[str, Any], expected: list[str]) -> None:
    found = DataConfig(**changes).without_effect()
    assert [re.findall(r"^`data\.(\w+)` \(=.*\) has no effect, since data\.\w+ is ", each) for each in found] == [
        [name] for name in expected
    ]


def test_every_setting_explains_itself() -> None:
    assert all(each.kw_only for each in fields(DataConfig))
    assert DataConfig() == DataConfig()
    assert len({DataConfig(), DataConfig(fold=1)}) == 2  # a value, by which datasets are remembered
