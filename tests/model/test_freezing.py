"""What learns when: stages from the input up, one more each time, and the three policies of BatchNorm."""

from typing import Any

import pytest
import torch
from torch import nn

from slowfast_ray.model import freezing, slowfast
from slowfast_ray.model.config import ModelConfig


def build(**changes: Any) -> tuple[slowfast.SlowFast, ModelConfig]:
    torch.manual_seed(0)
    config = ModelConfig(width=0.125, num_classes=3, dropout=0.0, **changes)
    return slowfast.build(config), config


def after_a_step(model: slowfast.SlowFast) -> set[str]:
    """The blocks, by number, of which something changed in a step of training; buffers as `5.running`."""
    before = {name: each.clone() for name, each in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(model(torch.randn(2, 1, 8, 32, 32)), torch.tensor([0, 1])).backward()
    optimizer.step()
    changed = {name for name, each in model.state_dict().items() if not torch.equal(each, before[name])}
    return {f"{name.split('.')[1]}{'.running' if 'running' in name else ''}" for name in changed}


@pytest.mark.parametrize("num", range(6))
def test_frozen_stages_change_nothing_at_all_and_the_others_learn(num: int) -> None:
    model, config = build(freeze_stages=num)
    freezing.begin_epoch(model, config, epoch=1)
    learning = {str(block) for block in range(num, 5)}
    assert after_a_step(model) == {*learning, *(f"{block}.running" for block in learning), "6"}


def test_stages_thaw_from_the_output_down() -> None:
    model, config = build(freeze_stages=5, unfreeze_every=2)
    assert [freezing.num_frozen(config, epoch) for epoch in range(1, 13)] == [5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0]
    freezing.begin_epoch(model, config, epoch=3)
    assert after_a_step(model) == {"4", "4.running", "6"}
    freezing.begin_epoch(model, config, epoch=11)
    assert {"0", "0.running"} <= after_a_step(model)
    freezing.begin_epoch(model, config, epoch=1)  # a run that begins again
    assert after_a_step(model) == {"6"}


@pytest.mark.parametrize("policy", ["train", "frozen_statistics", "frozen"])
def test_batch_norm_policies(policy: Any) -> None:
    model, config = build(batch_norm=policy)
    model.train()
    freezing.begin_epoch(model, config, epoch=1)
    before = {name: each.clone() for name, each in model.state_dict().items()}
    after_a_step(model)
    moved = {name for name, each in model.state_dict().items() if not torch.equal(each, before[name])}
    norms = {name for name, each in model.named_modules() if isinstance(each, nn.BatchNorm3d)}
    assert any(f"{name}.running_mean" in moved for name in norms) == (policy == "train")
    assert any(f"{name}.weight" in moved for name in norms) == (policy != "frozen")
    assert "blocks.0.multipathway_blocks.0.conv.weight" in moved


def test_depth_counts_from_the_classifier() -> None:
    model, _ = build()
    depths = [freezing.depth_of(name) for name, _ in model.named_parameters()]
    assert depths == sorted(depths, reverse=True)
    assert set(depths) == set(range(6))
    assert freezing.depth_of("blocks.6.proj.weight") == 0
    assert freezing.depth_of("blocks.0.multipathway_fusion.norm.bias") == 5


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_computing_again_changes_neither_gradients_nor_statistics(dropout: float) -> None:
    results = []
    for recomputes in (False, True):
        torch.manual_seed(0)
        model = slowfast.build(
            ModelConfig(width=0.125, num_classes=3, dropout=dropout, gradient_checkpointing=recomputes)
        ).train()
        torch.manual_seed(1)
        model(torch.randn(2, 1, 8, 32, 32)).square().sum().backward()
        gradients = [each.grad for each in model.parameters()]
        assert all(each is not None for each in gradients)
        results.append((gradients, {name: each for name, each in model.named_buffers() if "running" in name}))
        assert all(each.momentum == 0.1 for each in model.modules() if isinstance(each, nn.BatchNorm3d))
    for plain, again in zip(results[0][0], results[1][0], strict=True):
        assert torch.equal(plain, again)
    for name, plain in results[0][1].items():
        assert torch.equal(plain, results[1][1][name]), name
