"""Is one run better than another, or was it luck?

Run       python experiments/compare_thermal.py runs/FIRST runs/SECOND
Laptop    the same; a trial of a search is runs/SEARCH/trial-003
Cost      seconds
Expected  both scores with their intervals, McNemar's test of top-1, the difference of the class means with its interval

Both are taken at their best epoch. Runs on other samples, labels or splits are refused.
"""

from slowfast_ray.running import commands
from slowfast_ray.running.evaluations import comparing
from slowfast_ray.running.evaluations.comparing import Compared
from slowfast_ray.running.flags import CompareFlags


def main() -> None:
    """Compares, and says what may be concluded."""
    flags = commands.parse_plain(CompareFlags, __doc__ or "")
    with commands.exits_cleanly():
        compared = comparing.compare(flags.first, flags.second)
    show(compared)


def show(compared: Compared) -> None:
    """The scores one below the other, and the tests."""
    chosen = " and ".join(dict.fromkeys(compared.objectives))
    print(f"{compared.data.split_name}, {compared.data.config.labels}; best epochs by {chosen}, 95 % intervals")
    for metric in compared.scores[0].intervals:
        for score in compared.scores:
            print(f"  {metric:15} {score.intervals[metric]}  {score.name}")
    test = compared.test
    print(
        f"Right where the other is wrong: {test.num_only_a} and {test.num_only_b} samples; "
        f"McNemar p = {test.p_value:.3g}"
    )
    if compared.mean_class_difference is not None:
        print(f"Difference of val/mean_class, paired: {compared.mean_class_difference}")
    print(
        "Samples close in time are alike, so that the p-value is somewhat too small; the paired interval allows for it."
    )


if __name__ == "__main__":
    main()
