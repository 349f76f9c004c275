"""The statistics of a search's finalists: who is trained again, what each keeps of what the search promised, who wins.

The best of many trials is partly the luckiest (the winner's curse), so finalists are judged by their new runs alone,
over seeds x folds. Their bounds are approximate. Runs of one fold share all validation samples, runs of several folds
share training samples, and no estimate of the variance of k folds is unbiased (Bengio and Grandvalet 2004, JMLR 5).
Over k >= 2 folds the bounds are those of the corrected resampled t, see `intervals.mean_of_runs`. Simulated with 3 to 6
runs of effects of folds and seeds, these held the truth in 91 to 100 % of cases where plain t bounds did in 62 to 95 %;
they are wide for paired differences, whose folds cancel out. On one fold the bounds are plain t: they say what other
seeds would give on these samples, and nothing of other samples.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from slowfast_ray.learning import counts, intervals
from slowfast_ray.learning.intervals import Interval
from slowfast_ray.learning.predictions import Predictions
from slowfast_ray.running.searching import objectives

Run = tuple[int, int]
"""Its seed and its fold."""

COLUMNS = ("trial", "promised", "kept", "same fold", "curse", "against the default")
"""Of a table of `Report.rows`."""


@dataclass(frozen=True)
class Candidate:
    """A trial that the search finished."""

    number: int
    value: float
    """Its objective."""
    predictions: Predictions | None = None
    """Of its last epoch; None where they were not saved."""


@dataclass(frozen=True)
class Chosen:
    """Who is trained again."""

    numbers: tuple[int, ...]
    """Best first."""
    num_tied_left_out: int
    """Trials tied with the k-th beyond the 2k that are trained again at most."""


def choose(candidates: Sequence[Candidate], k: int, metric: str, blocks_S: npt.ArrayLike) -> Chosen:
    """The `k` best by `metric`, then those tied with the k-th, best first, at most 2k in all.

    For val/mean_class and val/top1 a trial is tied where the paired bootstrap over stretches of time (`blocks_S`) of
    the k-th over it, moved to the difference of their objectives, does not lie above 0. Without predictions, or two
    stretches, and for other metrics only equal values are tied. Values that are not finite are never chosen. Of equal
    values the lower number is better. Raises ValueError where `k` finite values are lacking.
    """
    sign = _sign(metric)
    finite = [each for each in candidates if math.isfinite(each.value)]
    if not 1 <= k <= len(finite):
        raise ValueError(
            f"`search.finalists` (={k}) must be 1 to the number of trials with a finite {metric} (={len(finite)} of "
            f"{len(candidates)}); ask for fewer finalists, or run more trials."
        )
    ranked = sorted(finite, key=lambda each: (-sign * each.value, each.number))
    tied = [each for each in ranked[k:] if _are_tied(ranked[k - 1], each, metric, np.asarray(blocks_S))]
    return Chosen(tuple(each.number for each in (ranked[:k] + tied)[: 2 * k]), max(0, len(tied) - k))


def _are_tied(better: Candidate, worse: Candidate, metric: str, blocks_S: np.ndarray) -> bool:
    a, b = better.predictions, worse.predictions
    if better.value == worse.value:
        return True
    if a is None or b is None or metric not in (counts.VAL_MEAN_CLASS, counts.VAL_TOP1):
        return False
    assert torch.equal(a.target, b.target), f"trials {better.number} and {worse.number} validated on other samples"
    if metric == counts.VAL_TOP1:
        lead = intervals.paired_top1(a.right_S().numpy(), b.right_S().numpy(), blocks_S)
    else:
        predicted_a_S, predicted_b_S = a.predicted_S().numpy(), b.predicted_S().numpy()
        lead = intervals.paired_bootstrap(a.target.numpy(), predicted_a_S, predicted_b_S, blocks_S)
    # Values are smoothed over epochs, predictions are of the last one. A bound at 0 is at 0 but for rounding.
    return lead.low + (better.value - worse.value) - lead.value <= 1e-9


@dataclass(frozen=True)
class Finalist:
    """A trial with its new runs."""

    number: int
    promised: float
    """Its objective in the search."""
    values: Mapping[Run, float]
    """Objectives of the new runs; one that failed is absent or not finite."""
    was_chosen: bool = True
    """False for the reference, where it only runs along."""


@dataclass(frozen=True)
class Summary:
    """What a finalist's new runs say; n is the number of runs, or pairs of runs, that each figure is of."""

    number: int
    promised: float
    kept: Interval
    """Mean over all runs."""
    spread: float
    """Standard deviation over all runs; NaN for less than two."""
    same_fold: Interval
    """Mean over the new seeds on the search's own fold: only this compares with the promise like for like."""
    curse: Interval
    """By how much the search flattered: the promise over `same_fold`; positive is worse than promised."""
    gain: Interval | None
    """By how much it is better than the reference, over pairs of one seed and fold; None for the reference itself."""


@dataclass(frozen=True)
class Winner:
    """The best mean; of equal ones that of the lower number."""

    number: int
    tied_with_winner: tuple[int, ...]
    """Finalists whose paired difference to the winner is not told apart from 0."""
    incomplete: tuple[int, ...]
    """Finalists that could not win, since another has more runs."""


@dataclass(frozen=True)
class Report:
    """What the finalists keep. The reference, the experiment's own default, is one of them and may win."""

    finalists: tuple[Finalist, ...]
    metric: str
    search_fold: int
    """The fold that the search validated on."""
    reference: int | None = 0
    """The number of its trial; None where it cannot be trained."""

    def __post_init__(self) -> None:
        numbers = [each.number for each in self.finalists]
        assert len(set(numbers)) == len(numbers), f"a finalist is there twice: {numbers}"
        assert self.reference is None or self.reference in numbers, (
            f"the reference {self.reference} is not among the finalists {numbers}"
        )

    def summaries(self) -> list[Summary]:
        """Of each finalist, by most runs (means over fewer do not compare), then best mean, then lower number."""
        found = [self._summary(each) for each in self.finalists]
        return sorted(found, key=lambda each: (-each.kept.num_samples, *self._rank(each)))

    def winner(self) -> Winner:
        """The choice. Raises ValueError where no run finished."""
        found = self.summaries()
        best, others = found[0], found[1:]
        if not best.kept.num_samples:
            raise ValueError(
                f"A winner needs one finished run at least, but none of the {len(found)} finalists has one; see why "
                "their runs failed, and resume the search."
            )
        leads = {each.number: self._lead(best.number, each.number) for each in others}
        return Winner(
            best.number,
            tuple(number for number, lead in leads.items() if lead.num_samples and not (lead.low > 0 or lead.high < 0)),
            tuple(each.number for each in others if each.kept.num_samples < best.kept.num_samples),
        )

    def mean_curse(self) -> Interval:
        """The curse averaged over the chosen finalists; its bounds are over finalists, on these samples."""
        curses = [self._summary(each).curse.value for each in self.finalists if each.was_chosen]
        return intervals.mean_of_runs([each for each in curses if math.isfinite(each)])

    def best_curse(self) -> Interval:
        """The curse of the trial that the search would have named: that with the best promise."""
        chosen = [each for each in self.finalists if each.was_chosen]
        return self._summary(min(chosen, key=lambda each: (-_sign(self.metric) * each.promised, each.number))).curse

    def rows(self) -> list[tuple[str, ...]]:
        """A row a finalist under COLUMNS, in the order of `summaries`."""
        return [
            (
                str(each.number),
                f"{each.promised:.2f}",
                str(each.kept),
                str(each.same_fold),
                str(each.curse),
                "-" if each.gain is None else str(each.gain),
            )
            for each in self.summaries()
        ]

    def lines(self) -> list[str]:
        """What a table cannot say, a sentence each."""
        winner = self.winner()
        num_runs = {each.number: each.kept.num_samples for each in self.summaries()}
        said = [f"The winner by mean {self.metric} over {num_runs[winner.number]} run(s) is trial {winner.number}."]
        if winner.tied_with_winner:
            said.append(f"Not told apart from it at 95 %: trial {', '.join(map(str, winner.tied_with_winner))}.")
        said += [
            f"Trial {number} cannot win: it has {num_runs[number]} run(s), and others {num_runs[winner.number]}."
            for number in winner.incomplete
        ]
        said.append(f"The search flattered its best trial by {self.best_curse()}, finalists by {self.mean_curse()}.")
        return said

    def to_markdown(self) -> str:
        """The table and the sentences."""
        table = [COLUMNS, ("---",) * len(COLUMNS), *self.rows()]
        return "\n".join(
            [*(f"| {' | '.join(row)} |" for row in table), "", *(f"- {each}" for each in self.lines()), ""]
        )

    def _summary(self, finalist: Finalist) -> Summary:
        value_N = list(_finished(finalist).values())
        on_fold = [value for (_, fold), value in _finished(finalist).items() if fold == self.search_fold]
        return Summary(
            finalist.number,
            finalist.promised,
            self._mean(value_N),
            float(np.std(value_N, ddof=1)) if len(value_N) > 1 else math.nan,
            intervals.mean_of_runs(on_fold),
            intervals.mean_of_runs([_sign(self.metric) * (finalist.promised - value) for value in on_fold]),
            None if self.reference in (None, finalist.number) else self._lead(finalist.number, self.reference),
        )

    def _lead(self, a: int, b: int) -> Interval:
        """By how much finalist a is better than b, over the runs that both have finished."""
        of_a, of_b = (_finished(each) for number in (a, b) for each in self.finalists if each.number == number)
        return self._mean([_sign(self.metric) * (of_a[run] - of_b[run]) for run in of_a if run in of_b])

    def _mean(self, value_N: list[float]) -> Interval:
        num_folds = len({fold for each in self.finalists for _, fold in _finished(each)})
        return intervals.mean_of_runs(value_N, 1 / (num_folds - 1) if num_folds > 1 else 0.0)

    def _rank(self, summary: Summary) -> tuple[float, int]:
        # Sums in another order differ in the last digits.
        return -_sign(self.metric) * round(summary.kept.value, 12), summary.number


def _sign(metric: str) -> int:
    return 1 if objectives.HIGHER_IS_BETTER[metric] else -1


def _finished(finalist: Finalist) -> dict[Run, float]:
    return {run: value for run, value in sorted(finalist.values.items()) if math.isfinite(value)}
