"""What a search says of itself before it starts: rungs, epochs, and, of one that goes on, what is left."""

import functools
from typing import Any

import optuna
import pytest
from ray import tune

from search_spaces.thermal import THERMAL
from slowfast_ray.data import memory
from slowfast_ray.experiment import Experiment
from slowfast_ray.running import preflight
from slowfast_ray.running.folders import begun
from slowfast_ray.running.nodes.slots import Slots
from slowfast_ray.running.preflight import Ready, RefusedError
from slowfast_ray.running.searching import search_plan, search_rules, search_space, suggesting
from slowfast_ray.running.searching.config import SearchConfig
from slowfast_ray.running.searching.study import Study, endings
from slowfast_ray.running.training import plan

SPACE = search_space.drawable({"learning.lr": THERMAL["learning.lr"]})


def ready_for(experiment: Experiment, num_epochs: int) -> Ready:
    experiment = experiment.override({"learning.num_epochs": num_epochs})
    return preflight.check_search(
        experiment,
        name="search",
        objectives=("val/mean_class",),
        resume=False,
        anyway=False,
        widest_window=search_space.widest_window(SPACE, experiment),
    )


def rows(ready: Ready, **settings: Any) -> dict[str, str]:
    return dict(search_plan.rows(ready, SPACE, SearchConfig(**settings), measured=False))


@pytest.mark.parametrize(
    ("num_epochs", "grace", "expected"),
    [(30, None, [20]), (12, None, [8]), (30, 5, [5, 15]), (4, None, [3]), (3, None, []), (1, None, []), (6, 9, [])],
)
def test_the_first_rung_lies_at_two_thirds_unless_it_is_set(
    tiny: Experiment, num_epochs: int, grace: int | None, expected: list[int]
) -> None:
    experiment = tiny.override({"learning.num_epochs": num_epochs})
    assert search_rules.rungs_of(experiment, SPACE, SearchConfig(grace_epochs=grace)) == expected


def test_where_trainings_differ_in_length_no_rung_comes_early_in_the_longest(tiny: Experiment) -> None:
    space = search_space.drawable({"learning.num_epochs": tune.choice([12, 60])})
    assert search_rules.rungs_of(tiny.override({"learning.num_epochs": 12}), space, SearchConfig()) == [40]
    found = dict(search_plan.rows(ready_for(tiny, 12), space, SearchConfig(), measured=False))
    assert found["stopping"] == "none: no trial of 12 epochs is stopped before epoch 40"
    assert found["epochs"] == "about 96, of 96 if no trial were stopped early"


def test_nothing_is_measured_where_the_workers_have_other_devices_or_no_clip_fits(
    tiny: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = ready_for(tiny, 12).experiment
    slots = functools.partial(Slots, num_workers=1, cpus_per_worker=1, max_concurrent=None)
    assert search_plan.time_row(experiment, 10, slots(gpus_per_worker=1)) == ("not measured", plan.ELSEWHERE)
    assert search_plan.time_row(experiment, 10, slots(gpus_per_worker=0))[0] == "time"
    mixed = experiment.override({"learning.precision": "fp16"})
    assert "this machine is none of those" in search_plan.time_row(mixed, 10, slots(gpus_per_worker=0))[1]
    monkeypatch.setattr(memory, "of_device", lambda device: 1000)
    assert search_plan.time_row(experiment, 10, slots(gpus_per_worker=0))[0] == "does not fit"


def test_a_study_that_was_never_made_or_is_damaged_is_told_so(tiny: Experiment) -> None:
    ready = ready_for(tiny, 12)
    path = ready.folder / begun.STUDY
    path.parent.mkdir(parents=True)
    path.touch()
    assert endings(path) == []
    assert path.stat().st_size == 0, "nothing is written"
    optuna.storages.RDBStorage(f"sqlite:///{path}")
    assert endings(path) == [], "tables, and no study yet"
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(RefusedError, match="is no study, or a damaged one"):
        rows(ready)


def test_the_epochs_of_a_plan_are_those_that_its_rungs_leave(tiny: Experiment) -> None:
    found = rows(ready_for(tiny, 12), num_trials=12)
    assert found["trials"] == "12 by random, the experiment itself first, for val/mean_class"
    assert found["stopping"] == "at epoch 8 of 12, the best 1 in 3 of those so far go on"
    assert found["epochs"] == "about 112, of 144 if no trial were stopped early"  # 12 x (8 + 4 / 3)


def test_the_plan_of_a_search_that_goes_on_counts_what_is_left(tiny: Experiment) -> None:
    ready = ready_for(tiny, 12)
    path = ready.folder / begun.STUDY
    assert endings(path) == []
    assert not path.exists(), "nothing is written"
    path.parent.mkdir(parents=True)
    trials = Study(
        SPACE.suggest,
        higher_is_better=(True,),
        sampler=functools.partial(suggesting.sampler, "random"),
        pruner=None,
        seed=0,
        first=search_space.first_of(SPACE, ready.experiment),
        path=path,
    )
    assert endings(path) == [], "the default waits, and has not begun"
    for ending in ("finished", "pruned", "failed"):
        number = trials.ask().number
        trials.report(number, 1, 0.5)
        trials.tell(number, ending, (0.5,) if ending == "finished" else ())
    trials.ask()
    assert endings(path) == ["finished", "pruned", "failed", None]
    found = rows(ready, num_trials=12)
    assert found["trials"].endswith("for val/mean_class, of which 4 have begun and 3 have ended")
    assert found["epochs"] == "about 84, of 108 if no trial were stopped early"  # 9 trials
    assert rows(ready, num_trials=2)["epochs"].startswith("about 9, of 12 if"), "what has begun goes on all the same"
