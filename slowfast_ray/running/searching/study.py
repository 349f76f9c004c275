"""What a search knows of its trials: an Optuna study, on disk beside the search, that asks, is told, and is resumed.

The study is the one truth about a search: which trials there are, how they began, how they ended, and the value of each
epoch. It is written before anything acts on it, so that a search that was killed goes on from here: its unfinished
trials under their own numbers, its rungs as they stood. What is suggested depends on the seed, the number of the trial
and what was told before, and on nothing in memory.
"""

import json
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
from optuna.samplers import BaseSampler, PartialFixedSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState

from slowfast_ray.running.searching.suggesting import Suggest, plain

optuna.logging.set_verbosity(optuna.logging.WARNING)
# Of parts that Optuna has shipped for years; the version is pinned.
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)

StorageError = optuna.exceptions.StorageInternalError
"""The study cannot be written: a full disk, mostly."""

Ending = Literal["finished", "pruned", "failed", "infeasible"]
STUDY_NAME = "search"
_SAMPLE, _ENDING, _REASON, _FROM = "sample", "ending", "reason", "from"


@dataclass(frozen=True)
class Suggestion:
    """A trial that shall run."""

    number: int
    """In the study, the trial's folder and MLflow."""
    sample: dict[str, Any]
    """Dotted names of fields with their values."""
    error: str = ""
    """Why the space gave no sample; empty where it did."""


@dataclass(frozen=True)
class Told:
    """A trial as the study knows it."""

    number: int
    sample: dict[str, Any]
    ending: Ending | None
    """None where it is not finished."""
    reason: str
    """Why it failed, or is infeasible; empty otherwise."""
    values: tuple[float, ...]
    """Of the objectives, at its end; empty where it has none."""
    curve: dict[int, float]
    """Of a single objective, by epoch."""


class Study:
    """The trials of a search. `path` is an SQLite file; None keeps them in memory."""

    def __init__(
        self,
        suggest: Suggest,
        *,
        higher_is_better: tuple[bool, ...],
        sampler: Callable[[int], BaseSampler],
        pruner: optuna.pruners.BasePruner | None,
        seed: int,
        first: Mapping[str, Any],
        path: Path | None,
    ) -> None:
        """Opens the study at `path`, or begins one there; `first` are the parameters of the first trial, as far as they
        are known. `sampler` makes a sampler from a seed; there is one for each trial.
        """
        self._suggest, self._sampler, self._seed = suggest, sampler, seed
        storage = None if path is None else f"sqlite:///{path}"
        self.optuna = optuna.create_study(
            storage=storage,
            study_name=STUDY_NAME,
            directions=["maximize" if higher else "minimize" for higher in higher_is_better],
            pruner=pruner or optuna.pruners.NopPruner(),
            sampler=RandomSampler(seed=seed),  # replaced before each suggestion
            load_if_exists=True,
        )
        self.is_single = len(higher_is_better) == 1
        self._running: dict[int, optuna.Trial] = {}
        self._curves: dict[int, dict[int, float]] = {}
        """Of trials that run, as the storage has them."""
        if not self.optuna.get_trials(deepcopy=False):
            self.optuna.enqueue_trial(dict(first))

    @property
    def has_begun(self) -> bool:
        """Whether the first trial no longer waits."""
        return self.optuna.get_trials(deepcopy=False)[0].state != TrialState.WAITING

    def unfinished(self) -> list[Suggestion]:
        """Trials that began and have not ended: after a restart, those that ran when it stopped."""
        found = self.optuna.get_trials(deepcopy=False, states=[TrialState.RUNNING])
        return [self._suggestion(each) for each in found]

    def ask(self) -> Suggestion:
        """The next trial."""
        every = self.optuna.get_trials(deepcopy=False)
        number = next((each.number for each in every if each.state == TrialState.WAITING), len(every))
        self.optuna.sampler = self._seeded(number)
        trial = self.optuna.ask()
        assert trial.number == number, "one process writes"
        self._running[number] = trial
        return self._suggested(trial)

    def report(self, number: int, epoch: int, value: float) -> bool:
        """Notes the value of an epoch; gives whether the trial shall be stopped. An epoch that is known stays as it is.

        Of several objectives nothing is noted, since Optuna stops none of their trials.
        """
        if not self.is_single or not math.isfinite(value):
            return False
        trial = self._trial(number)
        if number not in self._curves:
            self._curves[number] = dict(self._frozen(number).intermediate_values)
        curve = self._curves[number]
        if epoch not in curve:
            trial.report(value, epoch)
            curve[epoch] = value
        elif epoch < max(curve):
            return False  # decided before
        return trial.should_prune()

    def tell(self, number: int, ending: Ending, values: tuple[float, ...] = (), reason: str = "") -> None:
        """Notes how a trial ended. A trial that has ended stays as it is."""
        if self._frozen(number).state.is_finished():
            return
        trial = self._trial(number)
        trial.set_user_attr(_ENDING, ending)
        trial.set_user_attr(_REASON, reason)
        if ending == "infeasible":
            # TPE then counts it among the bad ones; what merely failed it ignores.
            trial.set_constraint("infeasible", 1.0)
            self.optuna.tell(trial, state=TrialState.PRUNED)
        elif ending == "finished" and values and all(map(math.isfinite, values)):
            self.optuna.tell(trial, list(values))
        elif ending == "pruned" and self.is_single:  # Optuna keeps the last noted value
            self.optuna.tell(trial, state=TrialState.PRUNED)
        else:
            self.optuna.tell(trial, state=TrialState.FAIL)
        self._running.pop(number, None)
        self._curves.pop(number, None)

    def has_drawn(self, number: int, name: str) -> bool:
        """Whether a field of a trial was drawn, and is no constant of the space."""
        return name in self._frozen(number).distributions

    def trials(self) -> list[Told]:
        """All trials that began, by number; those of a warm start are not among them."""
        found = self.optuna.get_trials(deepcopy=False, states=_BEGUN)
        return [self._told(each) for each in found if _FROM not in each.user_attrs]

    def begin_with(self, source: str, trials: list[FrozenTrial]) -> None:
        """Adds what another search has found, before the first trial of this one; `source` is its name. After a kill in
        the middle, it adds the rest.
        """
        if self.has_begun:
            return
        known = [each for each in self.optuna.get_trials(deepcopy=False) if _FROM in each.user_attrs]
        for each in trials[len(known) :]:
            each.set_user_attr(_FROM, source)
            self.optuna.add_trial(each)

    def _seeded(self, number: int) -> BaseSampler:
        return self._sampler(int(np.random.SeedSequence([self._seed, number]).generate_state(1)[0]))

    def _suggestion(self, frozen: FrozenTrial) -> Suggestion:
        if _SAMPLE in frozen.user_attrs:
            return Suggestion(frozen.number, json.loads(frozen.user_attrs[_SAMPLE]))
        # Killed while it was drawn: it is drawn once more beside, since a sampler goes on elsewhere after a part.
        beside = optuna.create_study(directions=self.optuna.directions, sampler=self._seeded(frozen.number))
        beside.add_trials(self.optuna.get_trials(deepcopy=False)[: frozen.number])
        beside.enqueue_trial(frozen.system_attrs.get("fixed_params", {}))
        trial = beside.ask()
        self._suggested(trial)
        self.optuna.sampler = PartialFixedSampler(trial.params, RandomSampler())
        return self._suggested(self._trial(frozen.number))

    def _suggested(self, trial: optuna.Trial) -> Suggestion:
        try:
            sample = plain(self._suggest(trial))
        except StorageError:
            raise
        except Exception as error:  # whatever a user's function raises
            return Suggestion(trial.number, {}, f"the search space raised {type(error).__name__}: {error}")
        trial.set_user_attr(_SAMPLE, json.dumps(sample))
        return Suggestion(trial.number, sample)

    def _trial(self, number: int) -> optuna.Trial:
        if number not in self._running:
            self._running[number] = optuna.Trial(self.optuna, self._frozen(number)._trial_id)
        return self._running[number]

    def _frozen(self, number: int) -> FrozenTrial:
        trial = self._running.get(number)
        if trial is not None:  # to list all, Optuna reads every trial that runs from disk again, with its curve
            return trial.storage.get_trial(trial._trial_id)
        return self.optuna.get_trials(deepcopy=False)[number]

    def _told(self, frozen: FrozenTrial) -> Told:
        values = frozen.values if frozen.state == TrialState.COMPLETE else None
        gave_none = frozen.state.is_finished() and _SAMPLE not in frozen.user_attrs  # the space raised
        return Told(
            number=frozen.number,
            sample={} if gave_none else self._suggestion(frozen).sample,
            ending=_ending_of(frozen),
            reason=frozen.user_attrs.get(_REASON, ""),
            values=tuple(values or ()),
            curve=dict(frozen.intermediate_values),
        )


def endings(path: Path) -> list[Ending | None]:
    """How the trials of the study at `path` that began ended, None for those that have not; empty for a file that is
    not there, or holds no study yet.
    """
    if not path.is_file() or not path.stat().st_size:
        return []
    try:
        study = optuna.load_study(study_name=STUDY_NAME, storage=f"sqlite:///{path}")
    except KeyError:  # killed before it was made
        return []
    found = study.get_trials(deepcopy=False, states=_BEGUN)
    return [_ending_of(each) for each in found if _FROM not in each.user_attrs]


def _ending_of(frozen: FrozenTrial) -> Ending | None:
    # The attribute is written first: of a trial that was killed in between it says nothing.
    return frozen.user_attrs.get(_ENDING) if frozen.state.is_finished() else None


_BEGUN = (TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
