"""Exponential moving averages of weights."""

from __future__ import annotations

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from emulated_card import EmulatedMachine
from frostline.training.averaging import MovingAverage
from small import network


def test_average_equals_torch_bit_for_bit() -> None:
    module = network().module.train()
    ours, theirs = MovingAverage(module, 0.9), AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
            module(torch.randn(4, 3, 32, 32, generator=generator))  # changes running statistics
        ours.update(module)
        theirs.update_parameters(module)
    mine, expected = ours.state_dict(), theirs.state_dict()
    assert mine.keys() == expected.keys() and all(torch.equal(mine[name], expected[name]) for name in mine)


def test_update_has_a_launch_per_type_and_no_wait() -> None:
    with EmulatedMachine().running() as gpu:
        module = network().module.to("cuda")
        average = MovingAverage(module, 0.9)
        for _ in range(2):
            gpu.launches.clear()
            gpu.waits.clear()
            average.update(module)
    assert gpu.launches == {"_foreach_lerp_": 1, "_foreach_copy_": 2} and not gpu.waits  # float32 and int64 buffers
