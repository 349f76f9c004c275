"""The loop: it learns, it stops at what is not finite, and what it reports is what happened."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from slowfast_ray.learning import loop
from slowfast_ray.learning.config import LearningConfig
from slowfast_ray.learning.learner import Learner
from slowfast_ray.learning.loop import EpochResult
from slowfast_ray.learning.loss import Loss

# Shapes: B clips, T frames, H and W height and width, K classes.

NUM_CLASSES = 3
CONFIG = LearningConfig(lr=0.05, num_epochs=4, batch_size=6)
PLAIN = LearningConfig(
    lr=0.1,
    num_epochs=1,
    momentum=0,
    weight_decay=0,
    warmup_fraction=0,
    label_smoothing=0,
    max_grad_norm=1e9,
    ema_decay=0,
    mixup=0,
)
"""One step of this moves by lr times the gradient, and by nothing else."""
FROZEN = LearningConfig(**{**vars(PLAIN), "lr": 1e-30})


@dataclass
class Batch:
    clip_B1THW: torch.Tensor
    label_B: torch.Tensor
    index_B: torch.Tensor


def batch(num_clips: int, seed: int, first: int = 0) -> Batch:
    """Noise whose brightest frame tells the class."""
    generator = torch.Generator().manual_seed(seed)
    label_B = torch.randint(NUM_CLASSES, (num_clips,), generator=generator)
    clip_B1THW = 0.5 * torch.randn(num_clips, 1, NUM_CLASSES, 2, 2, generator=generator)
    clip_B1THW += 2 * F.one_hot(label_B, NUM_CLASSES)[:, None, :, None, None]
    return Batch(clip_B1THW, label_B, first + torch.arange(num_clips))


@dataclass
class InMemory:
    """Batches that are made as they are asked for, other ones each epoch."""

    num_train_steps: int = 3
    num_val_samples: int = 11
    spoil: Callable[[int, Batch], None] = lambda epoch, batch: None
    asked: list[int] = field(default_factory=list)

    def train(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        self.asked.append(epoch)
        for step in range(first_step, self.num_train_steps):
            made = batch(6, seed=1000 * epoch + step)
            self.spoil(epoch, made)
            yield made

    def val(self) -> Iterator[Batch]:
        yield batch(5, seed=2, first=6)  # in an order of its own
        yield batch(6, seed=1)


class WithSeveralLabels(InMemory):
    """The same clips; the label is a row of zeros and ones, and class 0 is also there wherever class 1 is."""

    def train(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        yield from map(self.multi_hot, super().train(epoch, first_step))

    def val(self) -> Iterator[Batch]:
        yield from map(self.multi_hot, super().val())

    @staticmethod
    def multi_hot(made: Batch) -> Batch:
        made.label_B = F.one_hot(made.label_B, NUM_CLASSES).float()
        made.label_B[:, 0] += made.label_B[:, 1]
        return made


def network(dropout: float = 0.0) -> nn.Sequential:
    torch.manual_seed(0)
    size = NUM_CLASSES * 4
    return nn.Sequential(
        nn.Flatten(), nn.Linear(size, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, NUM_CLASSES)
    )


def linear() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(NUM_CLASSES * 4, NUM_CLASSES))


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([each.detach().flatten() for each in model.parameters()]).clone()


def start(model: nn.Module, config: LearningConfig, batches: InMemory) -> Learner:
    return Learner.start(model, config, batches.num_train_steps)


def loss_of(config: LearningConfig) -> Loss:
    return Loss.of(config, torch.tensor([7, 8, 3]), 18, torch.device("cpu"))


@pytest.mark.parametrize("made", [InMemory, WithSeveralLabels])
@pytest.mark.parametrize("loss", ["cross_entropy", "focal"])
def test_it_learns(made: type[InMemory], loss: Any) -> None:
    config = LearningConfig(lr=0.1, num_epochs=6, loss=loss, focal_gamma=1.0)
    batches = made(num_train_steps=6)
    results = list(loop.epochs(start(network(), config, batches), batches, config, loss_of(config)))
    for name in ("train/loss", "val/loss"):
        assert results[-1].metrics[name] < 0.5 * results[0].metrics[name]
    assert results[-1].metrics["val/top1"] > 0.9


def test_every_epoch_is_yielded_once_with_its_own_batches_and_the_learner_moves_on() -> None:
    batches = InMemory()
    learner = start(network(), CONFIG, batches)
    for epoch, result in enumerate(loop.epochs(learner, batches, CONFIG, loss_of(CONFIG)), start=1):
        # Whoever saves between two epochs finds the learner as it stood at the end of this one.
        assert result.epoch == learner.num_epochs_done == epoch
        assert batches.asked == list(range(1, epoch + 1))
        assert learner.scheduler.last_epoch == epoch * batches.num_train_steps
    assert learner.num_epochs_done == 4
    assert learner.optimizer.param_groups[0]["lr"] == pytest.approx(0)


def test_it_goes_on_after_the_epochs_that_are_done() -> None:
    batches = InMemory()
    learner = start(network(), CONFIG, batches)
    learner.num_epochs_done = 3
    assert [result.epoch for result in loop.epochs(learner, batches, CONFIG, loss_of(CONFIG))] == [4]
    assert batches.asked == [4]
    before = weights(learner.model)
    assert list(loop.epochs(learner, batches, CONFIG, loss_of(CONFIG))) == []
    assert torch.equal(weights(learner.model), before)


def test_training_is_the_loop_that_everybody_writes() -> None:
    # Reference: torch alone. Gradients that add up, a schedule that is late or an evaluation that leaks would show.
    batches, config = InMemory(), LearningConfig(lr=0.1, num_epochs=3, warmup_fraction=0.3, max_grad_norm=0.5, mixup=0)
    results = list(loop.epochs(start(model := network(), config, batches), batches, config, loss_of(config)))

    reference = network()
    decaying = [each for each in reference.parameters() if each.ndim > 1]
    others = [each for each in reference.parameters() if each.ndim == 1]
    groups = [{"params": decaying, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=config.lr, momentum=0.9, nesterov=True)
    rates = [1 / 3, 2 / 3, 1, *(0.5 + 0.5 * math.cos(math.pi * step / 6) for step in range(6))]  # 30 % of 9 steps
    for epoch in range(3):
        losses, num_right = [], 0
        assert results[epoch].metrics["train/lr"] == pytest.approx(config.lr * rates[3 * epoch])
        for step, made in enumerate(batches.train(epoch + 1)):
            for group in optimizer.param_groups:
                group["lr"] = config.lr * rates[3 * epoch + step]
            logits_BK = reference(made.clip_B1THW)
            mean = F.cross_entropy(logits_BK, made.label_B, label_smoothing=config.label_smoothing)
            losses.append(float(mean.detach()))
            num_right += int((logits_BK.argmax(1) == made.label_B).sum())
            optimizer.zero_grad()
            mean.backward()
            nn.utils.clip_grad_norm_(reference.parameters(), config.max_grad_norm)
            optimizer.step()
        assert results[epoch].metrics["train/loss"] == pytest.approx(sum(losses) / 3, rel=1e-4)
        assert results[epoch].metrics["train/top1"] == pytest.approx(num_right / 18)
    torch.testing.assert_close(weights(model), weights(reference), rtol=1e-4, atol=1e-6)
    for mine, theirs in zip(model.buffers(), reference.buffers(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("max_grad_norm", [0.01, 1e9])
def test_long_gradients_are_shortened_to_their_limit(max_grad_norm: float) -> None:
    batches = InMemory(num_train_steps=1)
    made = next(batches.train(1))
    model = linear()
    F.cross_entropy(model(made.clip_B1THW), made.label_B).backward()
    gradient = torch.cat([each.grad.flatten() for each in model.parameters() if each.grad is not None])
    assert gradient.norm() > 0.1  # so that 0.01 is a limit
    config = LearningConfig(**{**vars(PLAIN), "max_grad_norm": max_grad_norm})
    before = weights(model)
    list(loop.epochs(start(model, config, batches), batches, config, loss_of(config)))
    step = before - weights(model)
    assert float(step.norm()) == pytest.approx(0.1 * min(float(gradient.norm()), max_grad_norm), rel=1e-3)
    assert float(F.cosine_similarity(step, gradient, dim=0)) == pytest.approx(1, abs=1e-4)  # shortened, not bent


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_remedy() -> None:
    def spoil(epoch: int, made: Batch) -> None:
        if epoch == 2:
            made.clip_B1THW[0] = float("nan")

    batches = InMemory(spoil=spoil)
    learner = start(network(), CONFIG, batches)
    results = loop.epochs(learner, batches, CONFIG, loss_of(CONFIG))
    assert next(results).epoch == 1
    with pytest.raises(
        FloatingPointError,
        match=r"nan in step 1 of epoch 2, at a learning rate of 0\.0\d+ .*lower `learning\.lr` \(=0\.05\)",
    ):
        next(results)
    assert learner.num_epochs_done == 1


def test_a_learning_rate_that_is_far_too_high_stops_the_run() -> None:
    config = LearningConfig(lr=1e30, warmup_fraction=0)
    batches = InMemory()
    with pytest.raises(FloatingPointError, match=r"`learning\.lr` \(=1e\+30\)"):
        list(loop.epochs(start(linear(), config, batches), batches, config, loss_of(config)))


def test_a_network_that_broke_in_the_last_step_is_not_yielded() -> None:
    # The training loss is that before the step. Logits that are NaN choose one class for every clip: accuracies of a
    # broken network look like numbers, and would be reported, compared and kept.
    config = LearningConfig(**{**vars(PLAIN), "lr": 3e38, "num_epochs": 2})
    batches = InMemory(num_train_steps=1)
    with pytest.raises(FloatingPointError, match=r"`learning\.lr`"):
        next(loop.epochs(start(network(), config, batches), batches, config, loss_of(config)))


def test_evaluation_changes_nothing() -> None:
    model = network(dropout=0.5)
    model(batch(6, 9).clip_B1THW)  # BatchNorm has seen something
    before = {name: each.clone() for name, each in model.state_dict().items()}
    generator = torch.get_rng_state()
    first, again = (loop.evaluate(model, InMemory().val(), 11, CONFIG) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), generator)
    for name, each in model.state_dict().items():
        assert torch.equal(each, before[name]), name
    assert all(each.grad is None for each in model.parameters())
    assert torch.equal(first.logits_SK, again.logits_SK)  # no dropout


def test_evaluation_scores_every_sample_once_in_the_splits_order_with_the_plain_loss() -> None:
    batches = InMemory()
    config = LearningConfig(
        num_epochs=1, label_smoothing=0.5, class_weights="inverse_frequency", loss="focal", logit_adjustment=1.0,
        ema_decay=0,
    )  # fmt: skip
    model = network()
    (result,) = loop.epochs(start(model, config, batches), batches, config, loss_of(config))
    model.eval()
    made = list(batches.val())[::-1]
    label_B = torch.cat([each.label_B for each in made])
    with torch.no_grad():
        logits_BK = torch.cat([model(each.clip_B1THW) for each in made])
    assert result.metrics["val/num_samples"] == 11
    assert result.metrics["val/loss"] == pytest.approx(float(F.cross_entropy(logits_BK, label_B)), rel=1e-5)
    assert result.metrics["val/top1"] == pytest.approx(float((logits_BK.argmax(1) == label_B).double().mean()))
    torch.testing.assert_close(result.predictions.logits_SK, logits_BK)
    assert torch.equal(result.predictions.target, label_B)


def test_every_epoch_reports_plain_finite_numbers_under_names_of_their_split() -> None:
    batches = InMemory()
    for result in loop.epochs(start(network(), CONFIG, batches), batches, CONFIG, loss_of(CONFIG)):
        assert set(result.metrics) == {
            *("train/loss", "train/top1", "train/lr", "train/clips_per_second", "train/micro_batch", "epoch/seconds"),
            *("val/loss", "val/top1", "val/top5", "val/mean_class", "val/num_samples"),
        }
        for name, value in result.metrics.items():
            assert type(value) in (int, float), name
            assert math.isfinite(value), name


def test_several_labels_are_reported_by_their_own_metrics() -> None:
    batches = WithSeveralLabels()
    model = network()
    before = [model(made.clip_B1THW).detach() for made in batches.train(1)]
    (result,) = loop.epochs(start(model, FROZEN, batches), batches, FROZEN, loss_of(FROZEN))
    assert set(result.metrics) == {
        *("train/loss", "train/top1", "train/lr", "train/clips_per_second", "train/micro_batch", "epoch/seconds"),
        *("val/loss", "val/top1", "val/top5", "val/mean_ap", "val/num_samples"),
    }
    assert all(math.isfinite(value) for value in result.metrics.values())
    # In training, too, a clip is right whose most likely class is one of its labels.
    target_BK = torch.cat([made.label_B for made in batches.train(1)])
    right_B = target_BK[torch.arange(18), torch.cat(before).argmax(dim=1)]
    assert result.metrics["train/top1"] == pytest.approx(float(right_B.mean()))
    assert result.predictions.is_multi


def test_the_loss_it_is_given_is_the_one_that_it_lowers() -> None:
    # A loss that is nought teaches nothing, and leaves validation alone.
    class Nothing(Loss):
        def __call__(self, logits_BK: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            return 0 * super().__call__(logits_BK, target)

    batches, model = InMemory(), linear()
    before = weights(model)
    nothing = Nothing(**vars(loss_of(PLAIN)))
    (result,) = loop.epochs(start(model, PLAIN, batches), batches, PLAIN, nothing)
    assert torch.equal(weights(model), before)
    assert result.metrics["train/loss"] == 0
    assert result.metrics["val/loss"] > 0


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_precision_is_that_of_the_activations_not_of_the_weights(precision: str, dtype: torch.dtype) -> None:
    batches, model = InMemory(), network()
    config = LearningConfig(num_epochs=1, precision=precision)  # pyright: ignore
    seen: list[tuple[bool, torch.dtype]] = []
    model[-1].register_forward_hook(lambda module, _, output: seen.append((module.training, output.dtype)))
    (result,) = loop.epochs(start(model, config, batches), batches, config, loss_of(config))
    assert seen == [(True, dtype)] * 3 + [(False, dtype)] * 2
    assert {each.dtype for each in model.parameters()} == {torch.float32}
    assert isinstance(result, EpochResult)
    assert math.isfinite(result.metrics["train/loss"])
