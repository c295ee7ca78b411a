"""Data-parallel steps equal those of one process up to rounding, and evaluation bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from frostline.training import data_parallel
from frostline.training.criterion import Criterion
from frostline.training.dataset import InMemory, batches, ordered, outputs
from frostline.training.evaluation import NO_EPOCH, evaluate, evaluating, logits_function
from frostline.training.steps import PlainStepper, Recipe, TrainedPart
from frostline.training.sums import Sums
from frostline.training.sync_batch_norm import Share
from processes import run_in_group

IMAGES, BATCH = 23, 7  # the last batch has two, fewer than some groups have processes
Trained = tuple[dict[str, Tensor], tuple[float, float]]


def network(layout: torch.memory_format) -> nn.Module:
    """Return a network with batch norm and all kinds of dropout."""
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Dropout(0.3), nn.Conv2d(6, 6, 1), StochasticDepth(0.4, "row")]
    top = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(6, 5)]
    return nn.Sequential(*body, nn.Dropout2d(0.3), *top).double().to(memory_format=layout)


def train(
    make: Callable[..., Any], recipe: dict[str, Any], *, several: bool = False, weighted: bool = False
) -> Trained:
    """Return the network's state after an epoch, and the epoch's sums."""
    draw = torch.Generator().manual_seed(1)
    layout = torch.channels_last if "mixup" in recipe else torch.contiguous_format
    images = torch.randn(IMAGES, 3, 6, 6, generator=draw).double().to(memory_format=layout)
    labels = torch.rand(IMAGES, 5, generator=draw) < 0.4 if several else torch.arange(IMAGES) % 5
    weights = torch.rand(IMAGES, generator=draw).double() if weighted else None
    learns, data = network(layout), InMemory(images, labels)
    part = TrainedPart(learns, data, None, weights)
    how = Recipe(epochs=1, batch_size=BATCH, eval_batch_size=BATCH, seed=0, **recipe)
    optimizer = torch.optim.SGD(learns.parameters(), lr=0.1, momentum=0.9)
    sums, indices = Sums(0.0, 0.0, how.label_smoothing), [torch.arange(IMAGES)[one] for one in batches(IMAGES, BATCH)]
    for step in make(optimizer, how).steps(part, indices, 1, 0):
        sums.add(step)
    return {name: tensor.clone() for name, tensor in learns.state_dict().items()}, sums.read()


CASES: dict[str, dict[str, Any]] = {
    "plain": {"recipe": {}},
    "mixed and smoothed": {"recipe": {"mixup": 0.4, "label_smoothing": 0.1}},
    "weighted, mixed and clipped": {"recipe": {"cutmix": 1.0, "clip_norm": 0.1}, "weighted": True},
    "classes weighted": {"recipe": {"criterion": Criterion("focal", class_weights=(1.0, 2.0, 3.0, 4.0, 5.0))}},
    "several labels": {"recipe": {}, "several": True, "weighted": True},
}


def trained(make: Callable[..., Any]) -> dict[str, Trained]:
    return {case: train(make, **options) for case, options in CASES.items()}


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_weights_statistics_and_sums_equal_one_process(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    first, *others = run_in_group(count, lambda: trained(data_parallel.DataParallelStepper))
    if count == 2:  # a sum of two numbers has the same bits wherever tensors are divided
        monkeypatch.setattr(data_parallel, "_AT_ONCE", 40)
    again, *_ = run_in_group(count, lambda: trained(data_parallel.DataParallelStepper))
    for case, (state, sums) in trained(PlainStepper).items():
        for name, tensor in state.items():
            torch.testing.assert_close(first[case][0][name], tensor, rtol=1e-6, atol=1e-7)
            same = [torch.equal(other[case][0][name], first[case][0][name]) for other in (again, *others)]
            assert all(same), (case, name)
        assert first[case][1] == pytest.approx(sums, rel=1e-6), case


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_shares_partition_batches_and_repeat_small_ones(ranks: int) -> None:
    for size in range(1, 12):
        shares = [Share.of(size, rank, ranks) for rank in range(ranks)]
        rows = [row for share in shares for row in range(share.start, share.stop)]
        if size < ranks:
            assert rows == [*range(size)] * ranks and all(share.whole for share in shares)
        else:
            assert rows == [*range(size)]
            assert max(s.stop - s.start for s in shares) - min(s.stop - s.start for s in shares) <= 1


SIZES = (7, 11, 22, 23)  # 4, 3, 2 and 1 batches, with last batches of different sizes


def evaluation_data() -> tuple[nn.Module, InMemory]:
    """Return a network and images for it."""
    images = torch.randn(IMAGES, 3, 6, 6, generator=torch.Generator().manual_seed(1)).double()
    return network(torch.contiguous_format), InMemory(images, torch.arange(IMAGES) % 5)


def feature_maps(images: Tensor) -> Tensor:
    return images.roll(1, 1).contiguous(memory_format=torch.channels_last)


def class_tokens(images: Tensor) -> Tensor:
    return images.flatten(2)[:, 0]


def transposed(images: Tensor) -> Tensor:
    return images.flatten(2).transpose(1, 2)


FUNCTIONS = (feature_maps, class_tokens, transposed)
UNEVEN = torch.arange(IMAGES).split(6)


def outputs_of_all_kinds(by: Callable[..., Any]) -> list[Tensor]:
    """Return the logits of all images for each batch size, and outputs of each order in memory."""
    module, data = evaluation_data()
    logits = [evaluate(module, data, batch_size=size, autocast=None, outputs=by).logits for size in SIZES]
    return [*logits, *(one for function in FUNCTIONS for one in by(data, function, UNEVEN, NO_EPOCH))]


def outputs_in_group() -> list[Tensor]:
    if dist.get_rank() == 0:
        return outputs_of_all_kinds(data_parallel.gathered)
    module, data = evaluation_data()
    with torch.inference_mode(), evaluating(module):
        for size in SIZES:
            data_parallel.send(data, logits_function(module, None), ordered(data, size), NO_EPOCH)
        for function in FUNCTIONS:
            data_parallel.send(data, function, UNEVEN, NO_EPOCH)
    return []


def test_parallel_evaluation_equals_one_process_bit_for_bit() -> None:
    first, *others = run_in_group(2, outputs_in_group)
    assert others == [[]]
    assert all(torch.equal(mine, one) for mine, one in zip(first, outputs_of_all_kinds(outputs), strict=True))
