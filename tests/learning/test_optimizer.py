"""The optimiser: what decays, what does not, what does not learn at all, and how the rate is stepped."""

import itertools
from typing import Any

import pytest
import torch
from torch import nn

from slowfast_ray.learning import optimizer
from slowfast_ray.learning.config import LearningConfig
from slowfast_ray.learning.schedule import factor
from slowfast_ray.model import freezing, slowfast
from slowfast_ray.model.config import ModelConfig


def tiny() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(1, 4, 3), nn.BatchNorm3d(4), nn.Flatten(), nn.Linear(4, 2))


def test_convolutions_and_classifier_decay_norms_and_biases_do_not() -> None:
    model = slowfast.build(ModelConfig(width=0.125, num_classes=3))
    built, _ = optimizer.build(model, LearningConfig(weight_decay=0.01), 10)
    decays = {id(each): group["weight_decay"] for group in built.param_groups for each in group["params"]}
    names = dict(model.named_parameters())
    assert len(decays) == len(names)  # every parameter once
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            is_decaying = isinstance(module, nn.Conv3d | nn.Linear) and name == "weight"
            assert decays[id(parameter)] == (0.01 if is_decaying else 0.0), f"{module_name}.{name}"


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_decay_shrinks_weights_and_nothing_else(kind: Any) -> None:
    model = tiny()
    built, _ = optimizer.build(model, LearningConfig(optimizer=kind, lr=0.1, weight_decay=0.5, warmup_fraction=0), 10)
    before = {name: each.detach().clone() for name, each in model.named_parameters()}
    for each in model.parameters():
        each.grad = torch.zeros_like(each)
    built.step()
    for name, each in model.named_parameters():
        if each.ndim > 1:
            # sgd with Nesterov momentum 0.9 goes 1 + 0.9 times as far in its first step.
            shrunk = 1 - 0.1 * 0.5 * (1.9 if kind == "sgd" else 1)
            torch.testing.assert_close(each.detach(), shrunk * before[name])
        else:
            assert torch.equal(each, before[name]), name


def test_sgd_has_nesterov_momentum_unless_there_is_none() -> None:
    built, _ = optimizer.build(tiny(), LearningConfig(momentum=0.8), 10)
    assert isinstance(built, torch.optim.SGD)
    assert all((group["momentum"], group["nesterov"]) == (0.8, True) for group in built.param_groups)
    built, _ = optimizer.build(tiny(), LearningConfig(momentum=0.0), 10)  # torch refuses Nesterov without momentum
    assert all((group["momentum"], group["nesterov"]) == (0.0, False) for group in built.param_groups)


def test_adamw_is_adamw() -> None:
    # Adam would mix the decay into the gradient and undo it.
    built, _ = optimizer.build(tiny(), LearningConfig(optimizer="adamw", lr=0.003), 10)
    assert isinstance(built, torch.optim.AdamW)
    assert {group["initial_lr"] for group in built.param_groups} == {0.003}


def test_what_is_frozen_is_left_out() -> None:
    model = tiny()
    model[0].requires_grad_(False)
    built, _ = optimizer.build(model, LearningConfig(), 10)
    learning = {id(each) for group in built.param_groups for each in group["params"]}
    assert learning == {id(each) for each in itertools.chain(model[1].parameters(), model[3].parameters())}


@pytest.mark.parametrize(("warmup_fraction", "num_warmup_steps"), [(0.0, 0), (0.1, 2), (0.5, 10)])
def test_every_group_follows_the_schedule_from_the_first_step_on(warmup_fraction: float, num_warmup_steps: int) -> None:
    built, scheduler = optimizer.build(tiny(), LearningConfig(lr=0.4, warmup_fraction=warmup_fraction), 20)
    for step in range(20):
        expected = 0.4 * factor(step, num_steps=20, num_warmup_steps=num_warmup_steps)
        assert [group["lr"] for group in built.param_groups] == pytest.approx([expected] * 2)
        built.step()
        scheduler.step()
    assert [group["lr"] for group in built.param_groups] == pytest.approx([0] * 2)


def test_each_stage_learns_slower_than_the_next_towards_the_classifier() -> None:
    model = slowfast.build(ModelConfig(width=0.125, num_classes=3))
    config = LearningConfig(lr=0.4, backbone_lr=0.5, layer_decay=0.7, warmup_fraction=0)
    built, _ = optimizer.build(model, config, 10, freezing.depth_of)
    rates = {id(each): group["lr"] for group in built.param_groups for each in group["params"]}
    names = dict(model.named_parameters())
    assert len(rates) == len(names)
    for name, each in names.items():
        depth = freezing.depth_of(name)
        assert rates[id(each)] == pytest.approx(0.4 if depth == 0 else 0.4 * 0.5 * 0.7**depth), name
    assert built.param_groups[0]["lr"] == 0.4, "what is reported is the classifier's"


@pytest.mark.parametrize(("batch_size", "expected"), [(8, 0.1), (32, 0.4), (2, 0.025)])
def test_the_rate_grows_with_the_batch_that_it_is_meant_for(batch_size: int, expected: float) -> None:
    config = LearningConfig(lr=0.1, lr_batch=8, batch_size=batch_size, warmup_fraction=0)
    built, _ = optimizer.build(tiny(), config, 10)
    assert [group["lr"] for group in built.param_groups] == pytest.approx([expected] * 2)
