"""What a study suggests, what it is told, and what it still knows after a restart at any moment."""

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from slowfast_ray.running.searching import pruning, study, suggesting
from slowfast_ray.running.searching.study import Study, Suggestion
from slowfast_ray.running.searching.suggesting import SamplerName

DISTRIBUTIONS = {
    "learning.lr": FloatDistribution(1e-3, 1.0, log=True),
    "data.clip_len": CategoricalDistribution([16, 32]),
    "learning.num_epochs": IntDistribution(3, 9),
}
FIRST: dict[str, Any] = {"learning.lr": 0.05, "data.clip_len": 32, "learning.num_epochs": 6}


def opened(
    path: Path | None = None,
    *,
    seed: int = 0,
    higher_is_better: tuple[bool, ...] = (True,),
    sampler: SamplerName = "tpe",
    pruner: pruning.Pruner | None = None,
    suggest: suggesting.Suggest | None = None,
) -> Study:
    return Study(
        suggest or suggesting.suggests(DISTRIBUTIONS, {"learning.momentum": 0.8}),
        higher_is_better=higher_is_better,
        sampler=functools.partial(suggesting.sampler, sampler),
        pruner=pruner,
        seed=seed,
        first=FIRST,
        path=path,
    )


def test_a_trial_whose_space_raised_stays_failed_when_the_space_is_mended(tmp_path: Path) -> None:
    def broken(trial: optuna.Trial) -> dict[str, Any]:
        raise KeyError("lr")

    trials = opened(tmp_path / "study.db", suggest=broken)
    refused = trials.ask()
    assert "KeyError" in refused.error
    trials.tell(refused.number, "failed", reason=refused.error)
    (told,) = opened(tmp_path / "study.db").trials()
    assert (told.ending, told.sample, told.reason) == ("failed", {}, refused.error)


def searched(again: Callable[[], Study], num_trials: int = 16) -> tuple[list[dict[str, Any]], list[str | None]]:
    """Samples and endings of a serial search; `again` gives the study before each thing that is asked or told."""
    samples = []
    for number in range(num_trials):
        trial = again().ask()
        assert trial.number == number
        samples.append(trial.sample)
        for epoch in (1, 2, 3):
            value = -abs(math.log(trial.sample["learning.lr"] / 0.03)) + 0.1 * epoch
            if again().report(number, epoch, value):
                again().tell(number, "pruned")
                break
        else:
            again().tell(number, "finished", (value,))
    return samples, [trial.ending for trial in again().trials()]


@pytest.mark.parametrize("sampler", ["tpe", "gp", "cma-es", "random"])
@pytest.mark.slow
def test_a_serial_search_is_its_seed_however_often_it_is_opened_again(tmp_path: Path, sampler: SamplerName) -> None:
    def opener(folder: Path | None, seed: int) -> Callable[[], Study]:
        one = opened(seed=seed, sampler=sampler, pruner=pruning.Rungs([1], 3))
        path = None if folder is None else folder / "study.db"
        return lambda: one if path is None else opened(path, seed=seed, sampler=sampler, pruner=pruning.Rungs([1], 3))

    num_trials = 12 if sampler == "gp" else 16
    whole = searched(opener(None, 1), num_trials)
    assert searched(opener(tmp_path, 1), num_trials) == whole
    assert searched(opener(None, 2), num_trials) != whole
    assert {"finished", "pruned"} == set(whole[1])


def test_the_experiment_itself_comes_first_with_the_constants() -> None:
    assert opened().ask() == Suggestion(0, {**FIRST, "learning.momentum": 0.8})


def test_what_ran_at_a_kill_is_unfinished_under_its_own_number(tmp_path: Path) -> None:
    before = opened(tmp_path / "study.db")
    trials = [before.ask() for _ in range(3)]
    before.tell(1, "finished", (0.5,))
    after = opened(tmp_path / "study.db")
    assert after.unfinished() == [trials[0], trials[2]]
    assert after.ask().number == 3
    assert [trial.ending for trial in after.trials()] == [None, "finished", None, None]


def test_a_trial_that_was_killed_while_it_was_drawn_is_drawn_as_it_would_have_been(tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def dies_midway(trial: optuna.Trial) -> dict[str, Any]:
        trial.suggest_float("learning.lr", 1e-3, 1.0, log=True)
        if trial.number == 2:
            raise Killed
        return whole(trial)

    whole = suggesting.suggests(DISTRIBUTIONS)
    expected = opened(suggest=whole)
    samples = [expected.ask().sample for _ in range(4)]
    killed = opened(tmp_path / "study.db", suggest=dies_midway)
    assert [killed.ask().sample for _ in range(2)] == samples[:2]
    with pytest.raises(Killed):
        killed.ask()
    resumed = opened(tmp_path / "study.db", suggest=whole)
    assert [each.sample for each in resumed.unfinished()] == samples[:3]
    assert resumed.ask().sample == samples[3]


def test_what_optuna_is_told_of_each_ending() -> None:
    told = opened()
    for _ in range(5):
        told.ask()
    told.report(1, 1, 0.4)
    told.tell(0, "finished", (0.7,))
    told.tell(1, "pruned")
    told.tell(2, "failed", reason="a bug")
    told.tell(3, "infeasible", reason="too long")
    told.tell(4, "finished", (math.nan,))
    states = [trial.state for trial in told.optuna.trials]
    assert states == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.PRUNED, TrialState.FAIL]
    assert told.optuna.trials[1].value == 0.4
    assert told.optuna.trials[3].constraints == {"infeasible": 1.0}
    assert [(trial.ending, trial.reason) for trial in told.trials()][2:4] == [
        ("failed", "a bug"),
        ("infeasible", "too long"),
    ]


def test_tpe_learns_the_border_of_what_is_infeasible() -> None:
    learnt = opened()
    for _ in range(40):
        trial = learnt.ask()
        if trial.sample["data.clip_len"] == 32 and trial.number > 0:
            learnt.tell(trial.number, "infeasible")
        else:
            learnt.tell(trial.number, "finished", (trial.sample["learning.lr"],))
    later = [trial.sample["data.clip_len"] for trial in learnt.trials()[20:]]
    assert later.count(32) < 0.3 * len(later), "half of them were random"


def test_being_told_twice_changes_nothing() -> None:
    told = opened()
    told.ask()
    told.report(0, 1, 0.4)
    told.report(0, 1, 0.9)
    told.tell(0, "finished", (0.7,))
    told.tell(0, "failed")
    (trial,) = told.trials()
    assert (trial.ending, trial.values, trial.curve) == ("finished", (0.7,), {1: 0.4})


def test_an_epoch_that_was_noted_but_not_judged_before_a_kill_is_judged_again(tmp_path: Path) -> None:
    def again() -> Study:
        return opened(tmp_path / "study.db", pruner=pruning.Rungs([2], 2))

    for value in (0.9, 0.1):
        trial = again().ask()
        again().report(trial.number, 1, value)
        again().report(trial.number, 2, value)
    assert again().report(1, 2, 0.1), "its verdict was lost"
    assert not again().report(1, 1, 0.1), "what was judged before is not judged again"


def test_several_objectives_are_told_together_and_stop_nothing() -> None:
    several = opened(higher_is_better=(True, False), pruner=pruning.Rungs([1], 3))
    for values in ((0.5, 10.0), (0.6, 20.0), (0.4, 30.0)):
        number = several.ask().number
        assert not several.report(number, 1, values[0])
        several.tell(number, "finished", values)
    assert {trial.number for trial in several.optuna.best_trials} == {0, 1}


def test_optuna_dashboard_reads_a_study_by_its_name(tmp_path: Path) -> None:
    opened(tmp_path / "study.db").ask()
    (summary,) = optuna.get_all_study_summaries(f"sqlite:///{tmp_path}/study.db")
    assert (summary.study_name, summary.n_trials) == (study.STUDY_NAME, 1)


def test_a_full_disk_is_told_from_other_errors(tmp_path: Path) -> None:
    lost = opened(tmp_path / "study.db")
    lost.ask()
    (tmp_path / "study.db").unlink()
    (tmp_path / "study.db").mkdir()
    lost.optuna._storage.remove_session()
    with pytest.raises(study.StorageError):
        lost.report(0, 1, 0.5)


def test_a_space_that_raises_for_a_trial_fails_that_trial_alone() -> None:
    def odd(trial: optuna.Trial) -> dict[str, Any]:
        sample = {"learning.lr": trial.suggest_float("learning.lr", 1e-3, 1.0)}
        return sample if trial.number != 1 else {"learning.lr": 1 / 0}

    several = opened(suggest=odd)
    asked = [several.ask() for _ in range(3)]
    assert [bool(each.error) for each in asked] == [False, True, False]
    assert "ZeroDivisionError" in asked[1].error
    several.tell(1, "failed", reason=asked[1].error)
    assert [trial.ending for trial in several.trials()] == [None, "failed", None]


def test_numbers_of_numpy_become_plain_and_what_json_cannot_hold_is_an_error() -> None:
    assert opened(suggest=lambda trial: {"data.clip_len": np.int64(16)}).ask().sample == {"data.clip_len": 16}
    assert "TypeError" in opened(suggest=lambda trial: {"data.clip_len": {1, 2}}).ask().error


def test_a_warm_start_that_was_killed_in_the_middle_is_completed(tmp_path: Path) -> None:
    earlier = [
        optuna.trial.create_trial(
            params={"learning.lr": lr, "data.clip_len": 16, "learning.num_epochs": 3},
            distributions=dict(DISTRIBUTIONS),
            value=lr,
        )
        for lr in (0.1, 0.2, 0.3)
    ]
    opened(tmp_path / "study.db").begin_with("earlier", earlier[:2])
    resumed = opened(tmp_path / "study.db")
    resumed.begin_with("earlier", earlier)
    assert [trial.value for trial in resumed.optuna.trials[1:]] == [0.1, 0.2, 0.3]
    assert [resumed.ask().number, resumed.ask().number] == [0, 4]
    resumed.begin_with("earlier", earlier)
    assert len(resumed.optuna.trials) == 5
