"""Flags of a single run that ask for something else than a run, its presets, and the signal that ends it."""

import signal

import pytest

from slowfast_ray.experiment import EARLIER
from slowfast_ray.running import commands
from slowfast_ray.running.flags import TrainFlags
from slowfast_ray.running.nodes import cluster


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("--dry-run", "--resume"), "--resume and --dry-run exclude each other"),
        (("--dry-run", "--overfit-batches", "1"), "--dry-run and --overfit-batches exclude each other"),
        (("--resume", "--overfit-batches", "1"), "--resume and --overfit-batches exclude each other"),
        (("--overfit-batches", "0"), "`overfit_batches` (=0) must be 1 or more"),
    ],
)
def test_flags_that_exclude_each_other_or_mean_nothing_are_refused(
    flags: tuple[str, ...], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        commands.parse(TrainFlags, "?", flags)
    assert ended.value.code == commands.EXIT_BAD_INPUT
    shown = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert named in shown


def test_a_run_is_neither_dry_nor_a_check_unless_told_so() -> None:
    flags = commands.parse(TrainFlags, "?", [])
    assert (flags.dry_run, flags.overfit_batches) == (False, None)
    flags = commands.parse(TrainFlags, "?", ["--overfit-batches", "3"])
    assert (flags.dry_run, flags.overfit_batches) == (False, 3)


def test_the_earlier_preset_is_the_earlier_systems_recipe_and_can_be_changed() -> None:
    flags = commands.parse(TrainFlags, "?", ["--preset", "earlier", "--learning.batch-size", "4"])
    assert flags.experiment == EARLIER.override({"learning.batch_size": 4})
    # The window that the dataset's notes give, clipped to 5..45 degrees; MMAction2's 4x16 network.
    data, model = flags.experiment.data, flags.experiment.model
    assert (data.window, data.height, data.width, data.min_celsius, data.max_celsius) == (64, 256, 384, 5.0, 45.0)
    assert (model.width, model.alpha, model.lateral_kernel, model.lateral_norm) == (1.0, 8, 5, False)


def test_sigterm_interrupts_once_where_it_comes_twice_and_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        cluster.end_by_sigterm_as_by_ctrl_c()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        monkeypatch.setattr(cluster, "SECONDS_OF_ONE_SIGNAL", 600.0)
        signal.raise_signal(signal.SIGTERM)  # what has begun to end goes on
        monkeypatch.setattr(cluster, "SECONDS_OF_ONE_SIGNAL", 0.0)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
