"""Checkpoints: a run that stopped goes on as if it had not, and nothing on disk is believed unread."""

import json
import pickle
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from slowfast_ray.learning import checkpoint, loop
from slowfast_ray.learning.checkpoint import Progress
from slowfast_ray.learning.config import LearningConfig
from slowfast_ray.learning.counts import Counts
from slowfast_ray.learning.learner import Learner
from slowfast_ray.learning.loss import Loss
from slowfast_ray.learning.middle import LeftError, Middle
from slowfast_ray.learning.predictions import Predictions
from slowfast_ray.model import slowfast
from slowfast_ray.model.config import ModelConfig

MODEL = ModelConfig(width=0.125, alpha=4, num_classes=3, dropout=0.5)
CONFIG = LearningConfig(lr=0.02, num_epochs=4, batch_size=2)
LOSS = Loss.of(CONFIG, torch.tensor([1, 1, 2]), 4, torch.device("cpu"))
PREDICTIONS = Predictions(torch.arange(6.0).view(2, 3), torch.tensor([2, 0]))


@dataclass
class Batch:
    clip_B1THW: torch.Tensor
    label_B: torch.Tensor
    index_B: torch.Tensor


class InMemory:
    """Two small batches an epoch, other ones each epoch."""

    num_train_steps = 2
    num_val_samples = 2

    def train(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        for step in range(first_step, self.num_train_steps):
            generator = torch.Generator().manual_seed(100 * epoch + step)
            yield Batch(torch.randn(2, 1, 4, 16, 16, generator=generator), torch.tensor([step % 3, 2]), torch.arange(2))

    def val(self) -> Iterator[Batch]:
        yield next(self.train(77))


def new_learner(seed: int = 0, num_steps: int = InMemory.num_train_steps, **changes: Any) -> Learner:
    torch.manual_seed(seed)
    return Learner.start(slowfast.build(MODEL), replace(CONFIG, **changes), num_steps)


def progress(epoch: int, best_epoch: int = 1) -> Progress:
    return Progress(
        classes=["sitting", "standing", "lying"], objective="val/top1", epoch=epoch, best_epoch=best_epoch,
        best_value=1 / 3, history=[{"val/top1": 0.1 + 0.2, "val/loss": 1.5}] * epoch,
    )  # fmt: skip


def small_learner() -> Learner:
    """For what does not depend on the network."""
    return Learner.start(nn.Linear(3, 2), CONFIG, 2)


def names(folder: Path) -> set[str]:
    return {each.name for each in folder.iterdir()}


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_run_that_stopped_goes_on_as_if_it_had_not(tmp_path: Path, optimizer: Any) -> None:
    # Bit for bit: weights, BatchNorm, momentum, schedule, and the dropout of the generator that goes on.
    config, batches = replace(CONFIG, optimizer=optimizer), InMemory()
    whole = new_learner(optimizer=optimizer)
    expected = [result.metrics for result in loop.epochs(whole, batches, config, LOSS)]

    stopped = new_learner(optimizer=optimizer)
    history: list[dict[str, float]] = []
    for result in loop.epochs(stopped, batches, config, LOSS):
        history.append(result.metrics)
        checkpoint.save(tmp_path, stopped, replace(progress(result.epoch), history=history), "{}", result.predictions)
        if result.epoch == 2:
            break

    torch.manual_seed(999)  # another process, which has drawn other numbers and built another network
    resumed = new_learner(seed=5, optimizer=optimizer)
    newest = checkpoint.newest(tmp_path)
    assert newest is not None
    history = checkpoint.load(newest, resumed).history
    history += [result.metrics for result in loop.epochs(resumed, batches, config, LOSS)]

    assert resumed.num_epochs_done == 4
    for name, each in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], each), name
    for mine, theirs in zip(history, expected, strict=True):
        for name in ("train/clips_per_second", "epoch/seconds"):  # the clock is another
            del mine[name], theirs[name]
        assert mine == theirs


def test_loading_gives_back_what_was_saved(tmp_path: Path) -> None:
    learner = new_learner()
    result = next(loop.epochs(learner, InMemory(), CONFIG, LOSS))
    saved = progress(1)
    folder = checkpoint.save(tmp_path / "deep" / "run", learner, saved, '{"learning.lr": 0.02}\n', result.predictions)
    drawn = torch.rand(3)

    other = new_learner(seed=8)
    assert checkpoint.load(folder, other) == saved == checkpoint.read_progress(folder)
    assert torch.equal(torch.rand(3), drawn)
    assert other.num_epochs_done == 1
    assert other.scheduler.last_epoch == learner.scheduler.last_epoch == 2
    assert other.optimizer.param_groups[0]["lr"] == learner.optimizer.param_groups[0]["lr"]
    for (name, mine), theirs in zip(other.model.named_parameters(), learner.model.parameters(), strict=True):
        assert torch.equal(mine, theirs), name
        assert mine.stride() == theirs.stride(), name  # the memory order that convolutions like
        mine_state, their_state = other.optimizer.state[mine], learner.optimizer.state[theirs]
        assert torch.equal(mine_state["momentum_buffer"], their_state["momentum_buffer"]), name
    assert (folder / "experiment.json").read_text() == '{"learning.lr": 0.02}\n'
    predictions = checkpoint.read_predictions(folder)
    assert torch.equal(predictions.logits_SK, result.predictions.logits_SK)
    assert torch.equal(predictions.target, result.predictions.target)
    assert {name: result.metrics[name] for name in predictions.metrics()} == predictions.metrics()
    assert names(folder) == {
        *("weights.safetensors", "training.pt", "predictions.safetensors"),
        *("experiment.json", "progress.json", "checksums.json"),
    }


def test_loading_a_schedule_keeps_the_experiments_own(tmp_path: Path) -> None:
    # The function of the schedule is built anew from the experiment; only its position is saved.
    learner = small_learner()
    folder = checkpoint.save(tmp_path, learner, progress(1), "{}", PREDICTIONS)
    other = small_learner()
    checkpoint.load(folder, other)
    rates = []
    for _ in range(8):
        rates.append(other.optimizer.param_groups[0]["lr"])
        other.optimizer.step()
        other.scheduler.step()
    assert max(rates) == pytest.approx(CONFIG.lr)
    assert rates[-1] < 0.1 * CONFIG.lr


def test_weights_alone_are_enough_to_predict(tmp_path: Path) -> None:
    learner = new_learner()
    folder = checkpoint.save(tmp_path, learner, progress(1), "{}", PREDICTIONS)
    (folder / "training.pt").unlink()
    model = new_learner(seed=8).model
    checkpoint.load_weights(folder, model)
    clip_B1THW = torch.randn(1, 1, 4, 16, 16)
    assert torch.equal(model.eval()(clip_B1THW), learner.model.eval()(clip_B1THW))


def test_the_newest_two_and_the_best_stay(tmp_path: Path) -> None:
    best_of = {1: 1, 2: 1, 3: 3, 4: 3, 5: 3, 6: 6}
    for epoch, best in best_of.items():
        saved = checkpoint.save(tmp_path, small_learner(), progress(epoch, best), "{}", PREDICTIONS)
        assert saved == checkpoint.path(tmp_path, epoch) == checkpoint.newest(tmp_path)
        assert names(tmp_path) == {f"epoch-{each:03d}" for each in (epoch, epoch - 1, best) if each}
        assert checkpoint.read_progress(saved).best_epoch == best


def test_the_newest_is_that_of_the_highest_number(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path) is None
    assert checkpoint.newest(tmp_path / "nowhere") is None
    for epoch in (9, 10, 999, 1000):  # "epoch-1000" comes before "epoch-999" in the alphabet
        checkpoint.path(tmp_path, epoch).mkdir()
        assert checkpoint.newest(tmp_path) == checkpoint.path(tmp_path, epoch)


def test_saving_an_epoch_again_replaces_it(tmp_path: Path) -> None:
    learner = small_learner()
    checkpoint.save(tmp_path, learner, progress(1), '{"old": 1}', PREDICTIONS)
    with torch.no_grad():
        learner.evaluated.get_parameter("weight").fill_(7)
    folder = checkpoint.save(tmp_path, learner, progress(1), "{}", PREDICTIONS)
    assert (folder / "experiment.json").read_text() == "{}"
    model = nn.Linear(3, 2)
    checkpoint.load_weights(folder, model)
    assert (model.weight == 7).all()


def test_what_a_killed_process_left_is_ignored_and_cleaned(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, small_learner(), progress(1), "{}", PREDICTIONS)
    unfinished = tmp_path / ".epoch-002.12345"
    unfinished.mkdir()
    (unfinished / "weights.safetensors").write_bytes(b"half")
    assert checkpoint.newest(tmp_path) == tmp_path / "epoch-001"
    checkpoint.save(tmp_path, small_learner(), progress(2), "{}", PREDICTIONS)
    assert names(tmp_path) == {"epoch-001", "epoch-002"}


def test_a_save_that_fails_leaves_the_checkpoints_before_it(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, small_learner(), progress(1), "{}", PREDICTIONS)
    broken = replace(progress(2), history=[{"val/top1": object()}])  # pyright: ignore
    with pytest.raises(TypeError):
        checkpoint.save(tmp_path, small_learner(), broken, "{}", PREDICTIONS)
    assert checkpoint.newest(tmp_path) == tmp_path / "epoch-001"
    checkpoint.load(tmp_path / "epoch-001", small_learner())


@pytest.mark.parametrize("foreign", ["notes.txt", "plots", "epoch-notes.txt", "epoch-003.zip", "epoch-best"])
def test_what_others_put_beside_the_checkpoints_is_left_alone(tmp_path: Path, foreign: str) -> None:
    path = tmp_path / foreign
    if "." in foreign:
        path.write_text("mine")
    else:
        path.mkdir()
        (path / "file").write_text("mine")
    for epoch in (1, 2, 3):
        checkpoint.save(tmp_path, small_learner(), progress(epoch, best_epoch=1), "{}", PREDICTIONS)
    assert names(tmp_path) == {foreign, "epoch-001", "epoch-002", "epoch-003"}
    assert ((path / "file") if path.is_dir() else path).read_text() == "mine"
    assert checkpoint.newest(tmp_path) == tmp_path / "epoch-003"


def test_truncated_weights_are_refused_wherever_they_were_cut(tmp_path: Path) -> None:
    folder = checkpoint.save(tmp_path, small_learner(), progress(1), "{}", PREDICTIONS)
    file = folder / "weights.safetensors"
    whole = file.read_bytes()
    for kept in (0, 4, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:kept])
        with pytest.raises(ValueError, match=r"weights of .*epoch-001 cannot be loaded"):
            checkpoint.load_weights(folder, nn.Linear(3, 2))
    file.unlink()
    with pytest.raises(ValueError, match=r"weights of .*epoch-001 cannot be loaded"):
        checkpoint.load_weights(folder, nn.Linear(3, 2))


def test_damaged_predictions_are_refused_and_training_goes_on_without_them(tmp_path: Path) -> None:
    folder = checkpoint.save(tmp_path, small_learner(), progress(1), "{}", PREDICTIONS)
    file = folder / "predictions.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"epoch-001/predictions.* is damaged"):
        checkpoint.read_predictions(folder)
    checkpoint.load(folder, small_learner())


FILES = ("weights.safetensors", "training.pt", "predictions.safetensors", "experiment.json", "progress.json")


@pytest.mark.parametrize("name", [*FILES, "checksums.json"])
@pytest.mark.parametrize("harm", ["truncated", "one bit", "missing", "empty"])
def test_the_newest_that_is_whole_is_taken_and_the_torn_one_named(
    tmp_path: Path, name: str, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    for epoch in (1, 2):
        checkpoint.save(tmp_path, small_learner(), progress(epoch), "{}", PREDICTIONS)
    assert checkpoint.newest_whole(tmp_path) == tmp_path / "epoch-002"
    assert caplog.text == ""

    file = tmp_path / "epoch-002" / name
    content = file.read_bytes()
    if harm == "missing":
        file.unlink()
    else:
        flipped = bytes([content[0] ^ 1]) + content[1:]
        file.write_bytes({"truncated": content[:-1], "one bit": flipped, "empty": b""}[harm])
    if (name, harm) == ("checksums.json", "truncated"):  # the last byte is the end of a line
        assert checkpoint.newest_whole(tmp_path) == tmp_path / "epoch-002"
        return
    assert checkpoint.newest_whole(tmp_path) == tmp_path / "epoch-001"
    assert "epoch-002 is torn, and epoch-001 is tried" in caplog.text
    shutil.rmtree(tmp_path / "epoch-001")
    assert checkpoint.newest_whole(tmp_path) is None
    assert "training begins anew" in caplog.text


def test_checkpoints_of_the_format_without_checksums_are_read(tmp_path: Path) -> None:
    folder = checkpoint.save(tmp_path, small_learner(), progress(1), "{}", PREDICTIONS)
    content = json.loads((folder / "progress.json").read_text())
    (folder / "progress.json").write_text(json.dumps({**content, "format_version": 3}))
    (folder / "checksums.json").unlink()
    assert checkpoint.newest_whole(tmp_path) == folder
    assert checkpoint.load(folder, small_learner()).epoch == 1


def test_stripped_weights_are_not_taken_for_torn_ones(tmp_path: Path) -> None:
    folder = checkpoint.save(tmp_path, small_learner(), progress(1), "{}", PREDICTIONS)
    checkpoint.strip(tmp_path)
    assert checkpoint.newest_whole(tmp_path) == folder
    with pytest.raises(ValueError, match=r"weights of .*epoch-001 cannot be loaded"):
        checkpoint.load(folder, small_learner())
    assert torch.equal(checkpoint.read_predictions(folder).target, PREDICTIONS.target)


@pytest.mark.parametrize("other", [nn.Linear(3, 4), nn.Linear(3, 2, bias=False), nn.Sequential(nn.Linear(3, 2))])
def test_weights_of_another_network_are_refused(tmp_path: Path, other: nn.Module) -> None:
    folder = checkpoint.save(tmp_path, small_learner(), progress(1), "{}", PREDICTIONS)
    with pytest.raises(ValueError, match=r"cannot be loaded"):
        checkpoint.load_weights(folder, other)


@pytest.mark.parametrize("version", [0, 2, 5, None, "3"])
def test_another_format_version_is_refused_before_anything_is_loaded(tmp_path: Path, version: Any) -> None:
    folder = checkpoint.save(tmp_path, small_learner(), progress(1), "{}", PREDICTIONS)
    content = json.loads((folder / "progress.json").read_text())
    (folder / "progress.json").write_text(json.dumps({**content, "format_version": version}))
    learner = small_learner()
    before = learner.model.get_parameter("weight").clone()
    with pytest.raises(ValueError, match=rf"format version {version}, but .* reads 3 and 4"):
        checkpoint.load(folder, learner)
    with pytest.raises(ValueError, match=rf"format version {version}"):
        checkpoint.read_predictions(folder)
    assert torch.equal(learner.model.get_parameter("weight"), before)


@pytest.mark.parametrize("written", ["", "{", "{}", "[]", "null", '{"format_version": 2}', "\udcff"])
def test_damaged_progress_is_refused_with_its_folder(tmp_path: Path, written: str) -> None:
    folder = checkpoint.save(tmp_path, small_learner(), progress(1), "{}", PREDICTIONS)
    (folder / "progress.json").write_bytes(written.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match="epoch-001"):
        checkpoint.read_progress(folder)


def test_a_folder_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no checkpoint folder"):
        checkpoint.load(tmp_path, small_learner())


@pytest.mark.parametrize("kept", [0, 4, 300, -1])
def test_a_damaged_training_state_is_refused_with_its_folder(tmp_path: Path, kept: int) -> None:
    folder = checkpoint.save(tmp_path, small_learner(), progress(1), "{}", PREDICTIONS)
    file = folder / "training.pt"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(ValueError, match="epoch-001"):
        checkpoint.load(folder, small_learner())


class Malicious:
    """What runs when it is unpickled makes a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("is_zipped", [True, False])
def test_a_checkpoint_from_a_stranger_runs_nothing(tmp_path: Path, is_zipped: bool) -> None:
    folder = checkpoint.save(tmp_path, small_learner(), progress(1), "{}", PREDICTIONS)
    trace = tmp_path / "trace"
    bomb = Malicious(trace)
    if is_zipped:
        torch.save({"optimizer": bomb}, folder / "training.pt")
    else:
        (folder / "training.pt").write_bytes(pickle.dumps(bomb, protocol=2))
    with pytest.raises((ValueError, pickle.UnpicklingError)):
        checkpoint.load(folder, small_learner())
    assert not trace.exists()
    pickle.loads(pickle.dumps(bomb))  # the bomb is a real one
    assert trace.exists()


@pytest.mark.parametrize("left_after", [1, 3])
@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
@pytest.mark.slow
def test_a_run_left_within_an_epoch_goes_on_as_if_it_had_not(tmp_path: Path, left_after: int, ema_decay: float) -> None:
    config, batches = replace(CONFIG, num_epochs=3, ema_decay=ema_decay), InMemory()
    batches.num_train_steps = 4
    whole = new_learner(num_steps=4, num_epochs=3, ema_decay=ema_decay)
    expected = [result.metrics for result in loop.epochs(whole, batches, config, LOSS)]

    learner, asked = new_learner(num_steps=4, num_epochs=3, ema_decay=ema_decay), 0

    def must_leave() -> bool:
        nonlocal asked
        asked += 1
        return asked >= 4 + left_after  # in the second epoch

    history: list[dict[str, float]] = []
    results = loop.epochs(learner, batches, config, LOSS, must_leave=must_leave)
    first = next(results)
    history.append(first.metrics)
    checkpoint.save(tmp_path, learner, replace(progress(1), history=history), "{}", first.predictions)
    with pytest.raises(LeftError) as left:
        next(results)
    checkpoint.save_middle(tmp_path, learner, replace(progress(1), history=history), "{}", left.value.middle)
    assert names(tmp_path) == {"epoch-001", f"epoch-001-step-{left_after:05d}"}
    assert checkpoint.newest(tmp_path) == tmp_path / "epoch-001"  # of which the figures are

    torch.manual_seed(999)
    resumed = new_learner(seed=5, num_steps=4, num_epochs=3, ema_decay=ema_decay)
    newest = checkpoint.newest_whole(tmp_path)
    assert newest == tmp_path / f"epoch-001-step-{left_after:05d}"
    history = list(checkpoint.load(newest, resumed).history)
    middle = checkpoint.read_middle(newest)
    for result in loop.epochs(resumed, batches, config, LOSS, middle=middle):
        history.append(result.metrics)
        checkpoint.save(tmp_path, resumed, replace(progress(result.epoch), history=history), "{}", result.predictions)
    assert names(tmp_path) == {"epoch-001", "epoch-002", "epoch-003"}
    for name, each in whole.evaluated.state_dict().items():
        assert torch.equal(resumed.evaluated.state_dict()[name], each), name
    for mine, theirs in zip(history, expected, strict=True):
        for name in ("train/clips_per_second", "epoch/seconds"):  # the clock is another
            del mine[name], theirs[name]
        assert mine == theirs


def test_a_torn_middle_gives_way_to_the_epoch_before_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoint.save(tmp_path, small_learner(), progress(1), "{}", PREDICTIONS)
    middle = Middle(2, Counts.zero(torch.device("cpu")), 1.5, 0.25)
    left = checkpoint.save_middle(tmp_path, small_learner(), progress(1), "{}", middle)
    assert checkpoint.newest_whole(tmp_path) == left
    assert checkpoint.read_middle(left) == middle
    (left / "training.pt").write_bytes(b"torn")
    assert checkpoint.newest_whole(tmp_path) == tmp_path / "epoch-001"
    assert "epoch-001-step-00002 is torn, and epoch-001 is tried" in caplog.text
