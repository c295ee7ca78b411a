"""Networks of every family train on an emulated GPU with deterministic algorithms."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from emulated_card import CARD, CardTensor, EmulatedMachine, move
from families import MEMBERS, member
from frostline.core import machine
from frostline.models import cut, freezing, fuse
from frostline.models.build import build
from frostline.training import gradient
from frostline.training.criterion import Targets
from small import mode


@pytest.fixture(autouse=True)
def _deterministic() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    machine.prepare_torch(deterministic=True, threads=1)
    yield
    torch.use_deterministic_algorithms(before)


def train_each_mode(name: str, autocast: torch.dtype | None) -> None:
    """Take a training step of the head, of the last stage (both on features) and of the whole network."""
    channels_last = torch.channels_last
    model = member(name)
    side, structure = model.input.size, model.structure
    with EmulatedMachine().running() as there:
        model.module.to(CARD, memory_format=channels_last)
        images = CardTensor(torch.rand(2, 3, side, side).contiguous(memory_format=channels_last))
        labels = CardTensor(torch.arange(2))
        there.waits.clear()
        for chosen in (mode("head"), mode("last_stage"), mode("full")):
            (phase,) = freezing.resolve(model.module, structure, chosen.phases, chosen.name)
            freezing.freeze(model.module, structure, phase, norm_stats=chosen.norm_stats)
            network, inputs = model.module, images
            if chosen.name != "full":
                lower, network = cut.halves(model.module, structure, cut.stages_below(structure, phase))
                fast = fuse.fast_copy(lower, autocast or torch.float32, CARD, channels_last)
                with torch.no_grad():
                    inputs = fast(images.to(autocast or torch.float32)).float()
            model.module.zero_grad(set_to_none=True)
            gradient.by_autograd(network, inputs, Targets(labels, labels, 1.0, 0.0), autocast)
            nn.utils.clip_grad_norm_(model.module.parameters(), 1.0)
            learning = [parameter for parameter in model.module.parameters() if parameter.requires_grad]
            assert all(parameter.grad is not None and parameter.grad.device == CARD for parameter in learning)
        assert len(learning) == len([*model.module.parameters()])
        assert not there.waits


@pytest.mark.slow
@pytest.mark.parametrize("autocast", [torch.bfloat16, pytest.param(None, marks=pytest.mark.slow)], ids=["bf16", "fp32"])
@pytest.mark.parametrize("name", MEMBERS)
def test_every_family_trains_deterministically(name: str, autocast: torch.dtype | None) -> None:
    train_each_mode(name, autocast)


def test_resnet50_step_launches_few_operations() -> None:
    """At most four operations per layer, forward and backward together; 408 are measured."""
    model = build("resnet50", weights=None, num_classes=5, seed=0, meta=True)
    with EmulatedMachine(numbers=False).running() as there:
        move(model.module)
        images, labels = (
            CardTensor(torch.empty(4, 3, 224, 224, device="meta")),
            CardTensor(torch.empty(4, device="meta").long()),
        )
        gradient.by_autograd(model.module, images, Targets(labels, labels, 1.0, 0.0), None)
    layers = sum(isinstance(layer, nn.Conv2d | nn.BatchNorm2d | nn.Linear) for layer in model.module.modules())
    assert layers == 107 and there.launches.total() <= 4 * layers, there.launches
