"""BatchNorm statistics taken anew: plain means over the batches, of the norms that learn and of no others."""

import torch
from torch import nn

from slowfast_ray.learning import averaging


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.BatchNorm3d(1), nn.Dropout(0.5), nn.Conv3d(1, 2, 1), nn.BatchNorm3d(2))


def some_clips() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(4, 1, 2, 3, 3, generator=generator) * (1 + step) + step for step in range(3)]


def test_statistics_are_the_mean_over_batches_each_counted_alike() -> None:
    model = network().train()
    for clip_B1THW in some_clips():
        model(clip_B1THW + 5)  # running statistics that must leave no trace
    generator = torch.get_rng_state()
    averaging.take_statistics(model, some_clips(), averaging.norms_that_learn(model))
    assert torch.equal(torch.get_rng_state(), generator), "nothing was dropped"
    first = model[0]
    assert isinstance(first, nn.BatchNorm3d)
    means, variances = zip(*((clip.mean(), clip.var()) for clip in some_clips()), strict=True)
    torch.testing.assert_close(first.running_mean, torch.stack(means).mean().view(1))
    torch.testing.assert_close(first.running_var, torch.stack(variances).mean().view(1))
    assert first.momentum == 0.1
    assert not any(each.training for each in model.modules())


def test_a_norm_that_does_not_learn_keeps_its_statistics() -> None:
    model = network().train()
    model[0].eval()
    before = model[0].state_dict()["running_mean"].clone()
    assert averaging.norms_that_learn(model) == ["3"]
    averaging.take_statistics(model, some_clips(), ["3"])
    assert torch.equal(model[0].state_dict()["running_mean"], before)
    assert not torch.equal(model[3].state_dict()["running_mean"], torch.zeros(2))
