"""How a search is run: the settings of this floor that belong to no single experiment, with their laws."""

from dataclasses import dataclass
from typing import Literal, get_args

from slowfast_ray.learning import counts
from slowfast_ray.running.searching import objectives

Sampler = Literal["random", "tpe", "gp", "cma-es"]
Scheduler = Literal["asha", "median", "none"]


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """How long to search, for what, how, and what is asked of the best."""

    num_trials: int = 8
    """Configurations to try, the experiment's own first [trials]."""

    max_concurrent: int | None = None
    """Trials at once. None: one for each GPU, or for each CPU core up to 4 [trials]."""

    time_budget_min: float | None = None
    """End of this start of the search; what runs by then is stopped, and goes on with --resume [minutes]. None: no
    limit."""

    budget_gpu_hours: float | None = None
    """End of the search once its trials have trained so long in all, earlier starts included; without GPUs, hours of a
    worker [GPU hours]. None: no limit."""

    objectives: str = counts.VAL_MEAN_CLASS
    """What to look for: val/mean_class (val/mean_ap under data.labels multi), val/top1, val/top5, val/loss or
    cost/gpu_seconds; several, with commas between them, are weighed against each other."""

    smooth_epochs: int = 3
    """A trial is worth the mean of the objective over its last epochs, so many of them, not its luckiest [epochs]."""

    sampler: Sampler = "random"
    """Who suggests trials: Optuna's random, tpe (multivariate), gp (Gaussian process) or cma-es."""

    scheduler: Scheduler = "asha"
    """Who stops trials early: asha (successive halving at rungs of epochs), median (of the finished trials) or none."""

    grace_epochs: int | None = None
    """No trial is stopped before so many epochs [epochs]. None: past warm-up, two thirds of all, and
    smooth_epochs."""

    warm_start: str | None = None
    """Name of an earlier search, in the same MLflow store, on the same samples: its trials are known from the start."""

    max_failures: int = 1
    """How often a trial that raised or died is tried again from its newest checkpoint [times]."""

    finalists: int = 0
    """So many of the best trials, and those that are tied with them, are trained again with other seeds and on all
    folds, together with the experiment itself: the choice among them is honest [trials]. 0: none."""

    finalist_seeds: int | None = None
    """Seeds of each finalist on each fold [count]. None: 2, or 3 where the split has a single fold."""

    train_winner: bool = False
    """Train the winner at last on all samples, those for validation included."""

    def __post_init__(self) -> None:
        for name, least in (("num_trials", 1), ("smooth_epochs", 1), ("max_failures", 0), ("finalists", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"`search.{name}` (={getattr(self, name)}) must be {least} or more.")
        for name in ("max_concurrent", "grace_epochs", "finalist_seeds"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"`search.{name}` (={getattr(self, name)}) must be 1 or more, or None.")
        for name in ("time_budget_min", "budget_gpu_hours"):
            if getattr(self, name) is not None and not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"`search.{name}` (={getattr(self, name)}) must be above 0, or None.")
        for name, valid in (("sampler", get_args(Sampler)), ("scheduler", get_args(Scheduler))):
            if getattr(self, name) not in valid:
                raise ValueError(f"`search.{name}` (={getattr(self, name)!r}) must be one of {', '.join(valid)}.")
        objectives.check(self.names)
        if len(self.names) > 1 and self.sampler == "cma-es":
            raise ValueError("`search.sampler` (=cma-es) knows a single objective only; choose tpe, gp or random.")
        if self.finalists > self.num_trials:
            raise ValueError(
                f"`search.finalists` (={self.finalists}) must not exceed `search.num_trials` (={self.num_trials})."
            )

    @property
    def names(self) -> tuple[str, ...]:
        """The objectives, one by one."""
        return tuple(name.strip() for name in self.objectives.split(","))

    @property
    def metric(self) -> str:
        """The first objective: trials are ranked by it."""
        return self.names[0]

    @property
    def best_epoch_by(self) -> str:
        """The metric by which each trial keeps its best epoch, beside its newest."""
        return next((name for name in self.names if name in counts.HIGHER_IS_BETTER), counts.VAL_LOSS)

    def without_effect(self) -> list[str]:
        """Settings that were changed and do nothing beside the others, each with its reason, for a warning."""
        found = []
        if len(self.names) > 1 and self.scheduler != "none":
            found.append(
                f"`search.scheduler` (={self.scheduler}) stops no trial, since there are {len(self.names)} objectives."
            )
        if self.grace_epochs is not None and self.scheduler == "none":
            found.append(f"`search.grace_epochs` (={self.grace_epochs}) has no effect, since search.scheduler is none.")
        if self.warm_start is not None and self.sampler == "random" and self.scheduler == "none":
            found.append("`search.warm_start` teaches nobody: search.sampler is random, and search.scheduler none.")
        if not self.finalists:
            found += [
                f"`search.{name}` (={getattr(self, name)}) has no effect, since search.finalists is 0."
                for name in ("finalist_seeds", "train_winner")
                if getattr(self, name) != getattr(SearchConfig, name)
            ]
        return found
