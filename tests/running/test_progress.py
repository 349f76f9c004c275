"""What a single run shows while it trains."""

import pytest

from slowfast_ray.learning.loop import Step
from slowfast_ray.running.progress import TrainView
from slowfast_ray.running.training import worker


class Clock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def view_of(clock: Clock, *, num_epochs_done: int = 0) -> TrainView:
    return TrainView("one", num_epochs=10, num_epochs_done=num_epochs_done, batch_size=8, clock=clock)


def test_steps_show_their_mean_loss_the_rate_the_pace_and_what_is_left_of_the_whole_run() -> None:
    clock = Clock()
    view = view_of(clock)
    clock.seconds += 60  # the start of a run is no training
    losses = [4.0, 2.0, 1.0, 1.0]
    for number, loss in enumerate(losses, start=1):
        clock.seconds += 2
        view.step(Step(epoch=1, step=number, num_steps=4, loss=loss, lr=0.0125))
    # 8 clips in 2 s; a quarter of an epoch in 2 s, and 9 epochs to go.
    assert view.pace() == "loss 2  lr 0.0125  4 clips/s  1:08 so far  about 1:12 left"
    clock.seconds += 30
    assert view.pace() == "loss 2  lr 0.0125  4 clips/s  1:38 so far  about 0:42 left", "evaluation is no training"


def test_an_evaluation_is_in_what_is_left_and_a_new_epoch_has_its_own_mean() -> None:
    clock = Clock()
    view = view_of(clock)
    for epoch in (1, 2):
        for number in (1, 2):
            clock.seconds += 5
            view.step(Step(epoch, number, num_steps=2, loss=float(epoch), lr=0.1))
        clock.seconds += 10
    # From the first step on, 1.5 epochs took 25 s, up to the last; then 10 s went by.
    assert view.pace() == "loss 2  lr 0.1  1.6 clips/s  0:40 so far  about 2:03 left"


def test_without_steps_the_pace_is_that_of_the_epochs(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with view_of(clock, num_epochs_done=4) as view:
        clock.seconds += 30
        view.update({worker.EPOCH: 5, worker.BEST_EPOCH: 3, "val/loss": 1.5})
        assert view.pace() == "0:30 so far  about 2:30 left"
    first, second = capsys.readouterr().out.splitlines()
    assert first == "one: 4 of 10 epochs are done, 6 to go."
    assert second == "epoch 5/10  val/loss 1.5"


def test_a_terminal_sees_the_bar_within_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    clock = Clock()
    with view_of(clock) as view:
        view.step(Step(epoch=1, step=1, num_steps=2, loss=0.5, lr=0.1))
        view.update({worker.EPOCH: 1, worker.BEST_EPOCH: 1, "val/loss": 1.5})
    shown = capsys.readouterr().out
    assert "1/10 epochs" in shown
    assert "loss 0.5  lr 0.1" in shown
    assert "epoch 1/10  val/loss 1.5  (best)" in shown
