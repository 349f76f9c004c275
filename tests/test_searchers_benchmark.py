"""The replay of searches on recorded curves, on a made-up table where what must come out is known."""

import csv
import dataclasses
import importlib
import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from search_spaces.thermal import THERMAL
from slowfast_ray.experiment import LAPTOP
from slowfast_ray.running.searching import search_rules, search_space
from slowfast_ray.running.searching.config import SearchConfig

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
searchers: Any = importlib.import_module("searchers")
searchers_replay: Any = importlib.import_module("searchers_replay")

NUM_EPOCHS = 12
Curve = Callable[[float, int, int], float]


def table(path: Path, curve: Curve) -> Path:
    """A grid where `curve` gives the value by learning rate, clip length and epoch, and an epoch takes as many seconds
    as its clips have frames.
    """
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*searchers_replay.GRID, "epoch", "val/mean_class", "epoch/seconds"])
        for values in itertools.product(*searchers_replay.GRID.values()):
            for epoch in range(1, NUM_EPOCHS + 1):
                writer.writerow([*values, epoch, curve(values[0], values[2], epoch), values[2]])
    return path


def recorded(tmp_path: Path, curve: Curve) -> Any:
    return searchers_replay.Curves.read(table(tmp_path / "curves.csv", curve), "val/mean_class", 0.01)


def known_at_once(rate: float, clip: int, epoch: int) -> float:
    """Flat curves: the first epoch tells the last."""
    return -abs(np.log(rate / 0.0646)) - clip / 1000 + epoch / 1e6


def late_bloomer(rate: float, clip: int, epoch: int) -> float:
    """The worst at the beginning are the best at the end."""
    return known_at_once(rate, clip, epoch) * (1 if epoch > 6 else -1)


def random(rungs: tuple[int, float] | None, *, default_first: bool = False) -> Any:
    pruner = None if rungs is None else searchers_replay.rungs_from(*rungs)
    return searchers_replay.Strategy("random", pruner, default_first=default_first)


def test_without_rungs_each_trial_costs_all_its_epochs(tmp_path: Path) -> None:
    curves = recorded(tmp_path, known_at_once)
    search = random(None).replay(curves, 0)
    assert set(search.epochs_T) == {NUM_EPOCHS}
    assert set(np.diff(search.spent_T)) <= {NUM_EPOCHS * clip for clip in (16, 32, 48)}
    assert search.spent_T[-2] < searchers_replay.HORIZON * curves.full_seconds <= search.spent_T[-1]


def test_the_default_is_the_first_trial(tmp_path: Path) -> None:
    curves = recorded(tmp_path, known_at_once)
    found = [random(None, default_first=True).replay(curves, seed).recommended_T[0] for seed in range(5)]
    assert {curves.configurations[each] for each in found} == {(0.0646, 8, 32, 2)}


def test_the_space_is_what_the_grid_spans(tmp_path: Path) -> None:
    curves = recorded(tmp_path, known_at_once)
    shipped = search_space.drawable(THERMAL)
    assert curves.space.distributions == shipped.distributions
    narrow = dataclasses.replace(
        curves, configurations=tuple((rate, 4, 48, interval) for rate in (0.01, 0.1) for interval in (1, 3))
    )
    assert narrow.default == {
        "learning.lr": 0.1, "learning.batch_size": 4, "data.clip_len": 48, "data.frame_interval": 1
    }  # fmt: skip


def test_a_learning_rate_is_answered_by_the_nearest_in_log(tmp_path: Path) -> None:
    curves = recorded(tmp_path, known_at_once)
    others = {"learning.batch_size": 4, "data.clip_len": 16, "data.frame_interval": 3}
    rates = [curves.configurations[curves.find({"learning.lr": rate, **others})][0] for rate in (0.003, 0.13, 0.15)]
    assert rates == [0.003, 0.0646, 0.3]


def test_rungs_save_where_the_first_epochs_tell_the_last(tmp_path: Path) -> None:
    curves = recorded(tmp_path, known_at_once)
    end_C = curves.worth_CE[:, -1]
    judge = searchers_replay.Judge("", end_C, 0.001, curves.full_seconds)
    costs = [[judge.cost(random(rungs).replay(curves, seed)) for seed in range(10)] for rungs in (None, (2, 3))]
    assert np.mean(costs[1]) < 0.6 * np.mean(costs[0])


def test_what_ships_compares_trials_where_a_search_would(tmp_path: Path) -> None:
    search = searchers.STRATEGIES[searchers.SHIPPED](recorded(tmp_path, known_at_once), 0)
    experiment = LAPTOP.override({"learning.num_epochs": NUM_EPOCHS})
    space = search_space.drawable(THERMAL)
    rungs = search_rules.rungs_of(experiment, space, SearchConfig())
    assert rungs[0] == search_rules.grace_of(experiment, space, SearchConfig())
    assert set(search.epochs_T) == {*rungs, NUM_EPOCHS}


def test_a_stopped_trial_is_not_recommended(tmp_path: Path) -> None:
    # The rungs stop what would be the best: only what finished counts, whatever it promised.
    curves = recorded(tmp_path, late_bloomer)
    search = random((2, 3)).replay(curves, 1)
    stopped = search.epochs_T < NUM_EPOCHS
    assert stopped.any()
    assert (np.diff(search.recommended_T)[stopped[1:]] == 0).all()


def test_rays_parts_stop_trials_and_recommend_the_best_last_report(tmp_path: Path) -> None:
    curves = recorded(tmp_path, known_at_once)
    search = searchers_replay.replay_ray(curves, 0)
    assert {1, 4, NUM_EPOCHS} >= set(search.epochs_T) > {NUM_EPOCHS}
    regret_T = searchers_replay.Judge("", curves.worth_CE[:, -1], 0.001, curves.full_seconds).regret_T(search)
    assert regret_T[-1] == 0
    assert (np.diff(regret_T) <= 1e-5).all()


def test_neighbours_in_learning_rate_count_half(tmp_path: Path) -> None:
    curves = recorded(tmp_path, lambda rate, clip, epoch: {0.003: 1.0, 0.0139: 3.0, 0.0646: 7.0, 0.3: 1.0}[rate])
    smoothed = dict(zip(curves.configurations, curves.smoothed(curves.worth_CE[:, -1]), strict=True))
    assert smoothed[0.003, 4, 16, 1] == pytest.approx((1.0 + 1.5) / 1.5)
    assert smoothed[0.0139, 4, 16, 1] == pytest.approx((0.5 + 3.0 + 3.5) / 2)


def test_cost_and_regret_are_read_off_when_trials_end() -> None:
    search = searchers_replay.Replayed(np.array([10.0, 14.0, 24.0]), np.array([0, 1, 2]), np.array([12, 4, 12]))
    judge = searchers_replay.Judge("", np.array([0.2, 0.4, 0.5]), 0.12, 10.0)
    assert judge.cost(search) == pytest.approx(1.4)
    assert [judge.regret_at_cost(search, cost) for cost in (0.5, 1.0, 2.3, 2.4)] == pytest.approx([0.3, 0.3, 0.1, 0.0])
    assert (
        searchers_replay.Judge("", np.array([0.2, 0.4, 0.5, 0.9]), 0.12, 10.0).cost(search) == searchers_replay.HORIZON
    )


def test_a_table_with_holes_is_refused(tmp_path: Path) -> None:
    path = table(tmp_path / "curves.csv", known_at_once)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(ValueError, match="lacks epochs"):
        searchers_replay.Curves.read(path, "val/mean_class", 0.01)


@pytest.mark.slow
def test_the_script_prints_its_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = table(tmp_path / "curves.csv", known_at_once)
    monkeypatch.setattr(sys, "argv", ["searchers.py", "--table", str(path), "--seeds", "2", "--processes", "1"])
    with pytest.raises(SystemExit, match="No standard error is known of"):
        searchers.main()
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--standard-error", "0.5"])
    searchers.main()
    printed = capsys.readouterr().out
    assert printed.count(searchers.SHIPPED) == 2, "judged twice"
    assert "What ships compares trials after epochs 8." in printed
