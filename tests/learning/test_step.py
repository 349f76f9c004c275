"""One step of the optimiser: a batch is the same batch in whatever parts it passes, and however memory runs out."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from slowfast_ray.learning import step
from slowfast_ray.learning.config import LearningConfig
from slowfast_ray.learning.counts import Counts
from slowfast_ray.learning.learner import Learner
from slowfast_ray.learning.loss import Loss
from slowfast_ray.model import freezing, slowfast
from slowfast_ray.model.config import ModelConfig

# Shapes: B clips, T frames, H and W height and width, K classes.

NUM_CLASSES = 3
PLAIN = LearningConfig(
    lr=0.1, momentum=0, weight_decay=0, warmup_fraction=0, num_epochs=1, max_grad_norm=1e9, ema_decay=0, mixup=0
)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, NUM_CLASSES))


class SmallMemory(nn.Module):
    """A network on a device that holds so many clips at once."""

    def __init__(self, num_clips: int, error: RuntimeError | None = None) -> None:
        super().__init__()
        self.inner, self.num_clips, self.seen = network(), num_clips, []
        self.error = error or torch.OutOfMemoryError("CUDA out of memory")

    def forward(self, clip_B1THW: torch.Tensor) -> torch.Tensor:
        self.seen.append(len(clip_B1THW))
        if len(clip_B1THW) > self.num_clips:
            raise self.error
        return self.inner(clip_B1THW)


def some_batch(num_clips: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(num_clips, 1, 4, 2, 2, generator=generator), torch.arange(num_clips) % NUM_CLASSES


def loss_of(config: LearningConfig) -> Loss:
    return Loss.of(config, torch.tensor([7, 8, 3]), 18, torch.device("cpu"))


def take(model: nn.Module, config: LearningConfig, seed: int = 5) -> tuple[Learner, float, Counts]:
    learner = Learner.start(model, config, 4)
    total = Counts.zero(torch.device("cpu"))
    torch.manual_seed(seed)
    mean_loss = step.take(learner, *some_batch(config.batch_size), config, loss_of(config), total)
    return learner, float(mean_loss), total


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([each.detach().flatten() for each in model.parameters()])


@pytest.mark.parametrize(
    "recipe", [{"mixup": 0.4}, {"cutmix": 1.0}, {"loss": "focal", "class_weights": "inverse_frequency"}]
)
def test_a_batch_in_four_parts_gives_the_gradients_of_the_whole(recipe: dict[str, Any]) -> None:
    # The real network; BatchNorm frozen, since it would see other batches.
    gradients = []
    for micro_batch in (8, 2):
        config = LearningConfig(batch_size=8, micro_batch=micro_batch, lr=1e-30, max_grad_norm=1e9, **recipe)
        torch.manual_seed(0)
        model_config = ModelConfig(width=0.125, num_classes=NUM_CLASSES, dropout=0.0, batch_norm="frozen")
        model = slowfast.build(model_config)
        learner = Learner.start(model, config, 4)
        freezing.begin_epoch(model, model_config, epoch=1)
        clip_B1THW = torch.randn(8, 1, 8, 32, 32, generator=torch.Generator().manual_seed(1))
        torch.manual_seed(3)
        step.take(learner, clip_B1THW, torch.arange(8) % 3, config, loss_of(config), Counts.zero(torch.device("cpu")))
        gradients.append(torch.cat([each.grad.flatten() for each in model.parameters() if each.grad is not None]))
    whole, parts = gradients
    assert len(whole) > 100_000
    assert float((parts - whole).norm() / whole.norm()) < 1e-6


def test_cudnn_that_finds_no_way_lacks_memory_until_there_is_one_clip() -> None:
    # Its words, from ATen's Conv_v8.cpp.
    error = RuntimeError("GET was unable to find an engine to execute this computation")
    learner, *_ = take(SmallMemory(2, error), PLAIN)
    assert learner.micro_batch == 2
    with pytest.raises(RuntimeError, match="unable to find an engine"):
        take(SmallMemory(0, error), PLAIN)
    with pytest.raises(RuntimeError, match="another fault"):
        take(SmallMemory(2, RuntimeError("another fault")), PLAIN)


def test_what_does_not_fit_is_halved_and_the_step_is_that_of_the_whole_batch(caplog: pytest.LogCaptureFixture) -> None:
    config = LearningConfig(**{**vars(PLAIN), "batch_size": 8, "mixup": 0.5})
    roomy, expected_loss, expected = take(SmallMemory(8), config)
    small = SmallMemory(3)
    with caplog.at_level(logging.WARNING):
        learner, found_loss, found = take(small, config)
    assert small.seen == [8, 4, 2, 2, 2, 2]
    assert learner.micro_batch == 2
    assert "2 clip(s) at a time" in caplog.text
    torch.testing.assert_close(weights(learner.model), weights(roomy.model))
    assert found_loss == pytest.approx(expected_loss)
    assert (float(found.num_clips), float(found.num_top1)) == (8, float(expected.num_top1)), "each clip counted once"
    # The size is remembered: the next step does not try again what has failed.
    small.seen.clear()
    step.take(learner, *some_batch(), config, loss_of(config), found)
    assert small.seen == [2, 2, 2, 2]


def test_memory_that_ends_in_mid_batch_leaves_no_part_of_a_gradient() -> None:
    class Shrinking(SmallMemory):
        def forward(self, clip_B1THW: torch.Tensor) -> torch.Tensor:
            if len(self.seen) == 2:  # two of four parts had passed, with their gradients
                self.num_clips = 1
            return super().forward(clip_B1THW)

    config = LearningConfig(**{**vars(PLAIN), "batch_size": 8, "micro_batch": 2})
    expected, *_ = take(SmallMemory(8), config)
    found, *_ = take(Shrinking(2), config)
    assert found.micro_batch == 1
    torch.testing.assert_close(weights(found.model), weights(expected.model))


def test_parts_stay_equal_when_they_are_halved() -> None:
    # 2 + 2 + 1 of five would leave one clip alone, which BatchNorm may refuse.
    model = SmallMemory(2)
    learner, *_ = take(model, LearningConfig(**{**vars(PLAIN), "batch_size": 6}))
    assert model.seen == [6, 3, 1, 1, 1, 1, 1, 1]
    assert learner.micro_batch == 1
    model = SmallMemory(4)
    take(model, LearningConfig(**{**vars(PLAIN), "batch_size": 10}))
    assert model.seen == [10, 5, 2, 2, 2, 2, 2]


def test_a_clip_that_does_not_fit_alone_ends_the_run_with_its_weights_untouched() -> None:
    model = SmallMemory(0)
    before = weights(model).clone()
    with pytest.raises(step.DoesNotFitError, match="Not even one clip"):
        take(model, LearningConfig(**{**vars(PLAIN), "batch_size": 8}))
    assert model.seen == [8, 4, 2, 1]
    assert torch.equal(weights(model), before)


def step_of_a_worker(rank: int, folder: str) -> None:
    """One of two workers with half of the batch each; the second has less memory."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    config = LearningConfig(**{**vars(PLAIN), "batch_size": 8})
    model = SmallMemory(4 if rank == 0 else 1)
    learner = Learner.start(model, config, 4, num_workers=2)
    clip_B1THW, label_B = some_batch()
    mine = slice(4 * rank, 4 * rank + 4)
    mean_loss = step.take(
        learner, clip_B1THW[mine], label_B[mine], config, loss_of(config), Counts.zero(torch.device("cpu"))
    )
    torch.save({"weights": weights(model), "loss": mean_loss, "seen": model.seen}, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def test_workers_halve_together_and_step_as_one(tmp_path: Path) -> None:
    torch.multiprocessing.start_processes(step_of_a_worker, (str(tmp_path),), nprocs=2, start_method="fork")
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert first["seen"] == [4, 2, 2, 1, 1, 1, 1], "the one with memory enough follows"
    assert second["seen"] == [4, 2, 1, 1, 1, 1]
    assert torch.equal(first["weights"], second["weights"])
    whole, mean_loss, _ = take(SmallMemory(8), LearningConfig(**{**vars(PLAIN), "batch_size": 8}))
    torch.testing.assert_close(first["weights"], weights(whole.model))
    assert float(first["loss"]) == pytest.approx(mean_loss)


def test_fp16_needs_a_gpu() -> None:
    with pytest.raises(ValueError, match=r"`learning.precision` \(=fp16\) needs a GPU, but this trains on cpu"):
        Learner.start(network(), LearningConfig(precision="fp16"), 4)


def test_the_average_follows_the_weights_and_is_what_is_evaluated() -> None:
    config = LearningConfig(**{**vars(PLAIN), "ema_decay": 0.9, "batch_size": 8})
    learner = Learner.start(network(), config, 4)
    total = Counts.zero(torch.device("cpu"))
    expected, shares = None, []
    for number in range(30):
        step.take(learner, *some_batch(), config, loss_of(config), total)
        now = weights(learner.model).clone()
        share = 1 - min(0.9, (1 + number) / (10 + number))
        shares.append(share)
        expected = now if number == 0 else expected + share * (now - expected)
        torch.testing.assert_close(weights(learner.evaluated), expected)
    assert learner.evaluated is not learner.model
    assert not torch.equal(weights(learner.evaluated), weights(learner.model))
