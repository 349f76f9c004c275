"""How a search is run: the settings of this floor that belong to no single experiment, with their laws."""

from dataclasses import dataclass

from slowfast_ray.learning import counts


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """How long to search, and for what."""

    num_trials: int = 8
    """Configurations to try, the experiment's own first [trials]."""

    max_concurrent: int | None = None
    """Trials at once. None: one for each GPU, or for each CPU core up to 4 [trials]."""

    time_budget_min: float | None = None
    """End of the search, whatever runs by then is stopped [minutes]. None: no limit."""

    metric: str = counts.VAL_TOP1
    """What to look for: val/top1, val/top5, val/mean_class (val/mean_ap under data.labels multi) or val/loss."""

    def __post_init__(self) -> None:
        if self.num_trials < 1:
            raise ValueError(f"`search.num_trials` (={self.num_trials}) must be 1 or more.")
        if self.max_concurrent is not None and self.max_concurrent < 1:
            raise ValueError(f"`search.max_concurrent` (={self.max_concurrent}) must be 1 or more, or None.")
        if self.time_budget_min is not None and not 0 < self.time_budget_min < float("inf"):
            raise ValueError(f"`search.time_budget_min` (={self.time_budget_min}) must be above 0, or None.")
        if self.metric not in counts.HIGHER_IS_BETTER:
            raise ValueError(f"`search.metric` (={self.metric!r}) must be one of {', '.join(counts.HIGHER_IS_BETTER)}.")
