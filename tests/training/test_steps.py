"""Training steps: equal bits with shared work, prefetching, and weights of images."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from emulated_card import EmulatedMachine
from frostline.training import gradient, mixup, optim, steps
from frostline.training.dataset import batches
from frostline.training.steps import PlainStepper, Recipe, TrainedPart
from frostline.training.sums import Sums
from small import Samples

CLASSES = 7
INDICES = [torch.arange(part.start, part.stop) for part in batches(150, 16)]


def heads() -> list[nn.Module]:
    torch.manual_seed(0)
    linear = nn.Linear(24, CLASSES)
    deep = nn.Sequential(linear, nn.ReLU(), nn.Linear(CLASSES, CLASSES))
    return [linear, nn.Sequential(nn.Dropout(0.4), linear), deep]


def features(*, cached: bool) -> Samples:
    random = torch.Generator().manual_seed(1)
    return Samples(
        torch.randn(150, 24, generator=random), torch.randint(CLASSES, (150,), generator=random), cached=cached
    )


def train(
    network: nn.Module, data: Samples, calls: Sequence[slice], *, read: int = 1000, **options: float
) -> tuple[list[Tensor], tuple[float, float]]:
    """Return weights and sums after an epoch of steps in several `calls`; sums are read every `read` steps."""
    network = copy.deepcopy(network)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    recipe = Recipe(epochs=1, batch_size=16, eval_batch_size=16, seed=3, **options)
    part = TrainedPart(network, data, None)
    sums, stepper = Sums(0.0, 0.0, recipe.label_smoothing), PlainStepper(optimizer, recipe)
    for call in calls:
        for count, step in enumerate(stepper.steps(part, INDICES[call], 1, call.start)):
            sums.add(step)
            if count % read == 0:
                sums.read()
    return list(network.parameters()), sums.read()


@pytest.mark.parametrize("head", range(3))
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1, "clip_norm": 0.05}])
def test_shared_work_does_not_change_results(
    head: int, options: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    network, whole = heads()[head], [slice(0, len(INDICES))]
    alone, together = features(cached=False), features(cached=True)
    expected, sums = train(network, alone, whole, read=1, **options)
    for data, calls, read in (
        (together, whole, 1000),
        (together, [slice(0, 3), slice(3, 4), slice(4, len(INDICES))], 2),
    ):
        weights, other = train(network, data, calls, read=read, **options)
        assert all(torch.equal(a, b) for a, b in zip(weights, expected, strict=True))
        assert other == sums
    monkeypatch.setattr(steps, "FETCH_SIZE", 40)  # two batches at a time
    monkeypatch.setattr("frostline.training.sums._WAITING", 3 * 16 * CLASSES)
    weights, other = train(network, together, whole, **options)
    assert all(torch.equal(a, b) for a, b in zip(weights, expected, strict=True)) and other == sums
    assert not all(torch.equal(a, b) for a, b in zip(network.parameters(), expected, strict=True))
    assert len(alone.asked) == len(INDICES)


def test_inputs_of_many_steps_are_fetched_at_once() -> None:
    data = features(cached=True)
    train(heads()[0], data, [slice(0, len(INDICES))])
    assert [index.tolist() for _, index in data.asked] == [list(range(150))]


def test_fetches_are_bounded_and_prefetched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data, coming = features(cached=True), list[list[int]]()
    monkeypatch.setattr(steps, "FETCH_SIZE", 40)
    monkeypatch.setattr(Samples, "prefetch", lambda self, index, epoch: coming.append(index.tolist()))
    train(heads()[0], data, [slice(0, len(INDICES))])
    asked = [index.tolist() for _, index in data.asked]
    assert [len(index) for index in asked] == [32, 32, 32, 32, 22]
    assert coming == asked[1:]


@pytest.mark.parametrize("change", ["mixup", "cutmix", "autocast"])
def test_mixup_and_autocast_use_autograd(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradient, "of_head", pytest.fail)
    network, data = nn.Sequential(nn.Flatten(), nn.Linear(24, CLASSES)), features(cached=True)
    data.tensor = data.tensor.view(150, 1, 4, 6)
    options = {change: 0.5} if change != "autocast" else {}
    recipe = Recipe(epochs=1, batch_size=16, eval_batch_size=16, seed=3, **options)
    part = TrainedPart(network, data, torch.bfloat16 if change == "autocast" else None)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    assert all(step.loss is not None for step in PlainStepper(optimizer, recipe).steps(part, INDICES, 1, 0))


def test_steps_are_lazy() -> None:
    network = heads()[0]
    before = copy.deepcopy(network)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    data = features(cached=True)
    recipe = Recipe(epochs=1, batch_size=16, eval_batch_size=16, seed=0)
    made = PlainStepper(optimizer, recipe).steps(TrainedPart(network, data, None), INDICES, 1, 0)
    next(made)
    assert torch.equal(network.weight, before.weight)
    optimizer.param_groups[0]["lr"] = 1.0
    next(made)
    assert not torch.equal(network.weight, before.weight)


def test_image_weights_are_mixed_by_their_shares() -> None:
    data, linear = features(cached=True), heads()[0]
    weights = torch.rand(150, generator=torch.Generator().manual_seed(2)) + 0.1
    for options in ({}, {"mixup": 1.0}):
        network = copy.deepcopy(linear)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        recipe = Recipe(epochs=1, batch_size=16, eval_batch_size=16, seed=3, **options)
        part = TrainedPart(network, data, None, weights)
        (step,) = PlainStepper(optimizer, recipe).steps(part, INDICES[1:2], 1, 0)
        counts, labels = weights[INDICES[1]], data.labels[INDICES[1]]
        inputs, partners, share = mixup.mix(
            data.tensor[INDICES[1]], labels, mixup=recipe.mixup, cutmix=0.0, seed=3, step=0
        )
        logits = linear(inputs)
        each = [nn.functional.cross_entropy(logits, those, reduction="none") for those in (labels, partners)]
        counts = share * counts + (1 - share) * counts.roll(1)
        expected = ((share * each[0] + (1 - share) * each[1]) * counts).sum() / counts.sum()
        assert step.loss == pytest.approx(expected.item())
        (gradient_of_weight,) = torch.autograd.grad(expected, [linear.weight])
        assert torch.allclose(network.weight, linear.weight - 0.1 * gradient_of_weight, atol=1e-6)


def test_launches_of_an_update_do_not_grow_with_layers() -> None:
    recipe, counts = Recipe(epochs=1, batch_size=16, eval_batch_size=16, seed=3, clip_norm=0.05), set[int]()
    for layers in (2, 20):
        with EmulatedMachine().running() as gpu:
            network = nn.Sequential(*(nn.Linear(2, 2) for _ in range(layers))).to("cuda")
            optimizer = optim.build("adamw", [{"params": [*network.parameters()]}], lr=1e-3, options={})
            for parameter in network.parameters():
                parameter.grad = torch.ones_like(parameter)
            for _ in range(2):  # the first one creates the optimizer's state
                gpu.launches.clear()
                steps.update(network, optimizer, recipe)
            counts.add(gpu.launches.total())
    assert counts == {10}  # 8 clip the gradient
