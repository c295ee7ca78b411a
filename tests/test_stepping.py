"""Steps have the same bits however many of them share their work."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from frostline import stepping
from frostline.stepping import Part, Recipe, Step, Sums
from frostline.timeline import batches
from small import Samples

CLASSES = 7
INDICES = [torch.arange(part.start, part.stop) for part in batches(150, 16)]


def heads() -> list[nn.Module]:
    torch.manual_seed(0)
    linear = nn.Linear(24, CLASSES)
    deep = nn.Sequential(linear, nn.ReLU(), nn.Linear(CLASSES, CLASSES))
    return [linear, nn.Sequential(nn.Dropout(0.4), linear), deep]


def features(*, known: bool) -> Samples:
    random = torch.Generator().manual_seed(1)
    return Samples(
        torch.randn(150, 24, generator=random), torch.randint(CLASSES, (150,), generator=random), known=known
    )


def learnt(
    network: nn.Module, data: Samples, calls: Sequence[slice], *, read: int = 1000, **options: float
) -> tuple[list[Tensor], tuple[float, float]]:
    """Return the weights and sums after an epoch of steps, in so many `calls`; sums are `read` every so many steps."""
    network = copy.deepcopy(network)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    recipe = Recipe(epochs=1, batch_size=16, eval_batch_size=16, seed=3, **options)
    part = Part(network, data, None, network, data, None)
    sums = Sums(0.0, 0.0, recipe.label_smoothing)
    for call in calls:
        for count, step in enumerate(stepping.steps(part, INDICES[call], optimizer, recipe, epoch=1, first=call.start)):
            sums.add(step)
            if count % read == 0:
                sums.read()
    return list(network.parameters()), sums.read()


@pytest.mark.parametrize("head", range(3))
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1, "clip_norm": 0.05}])
def test_work_that_steps_share_changes_no_bit(
    head: int, options: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    network, whole = heads()[head], [slice(0, len(INDICES))]
    alone, together = features(known=False), features(known=True)
    expected, sums = learnt(network, alone, whole, read=1, **options)
    for data, calls, read in (
        (together, whole, 1000),
        (together, [slice(0, 3), slice(3, 4), slice(4, len(INDICES))], 2),
    ):
        weights, other = learnt(network, data, calls, read=read, **options)
        assert all(torch.equal(a, b) for a, b in zip(weights, expected, strict=True))
        assert other == sums
    monkeypatch.setattr(stepping, "_TOGETHER", 40)  # two batches
    monkeypatch.setattr(stepping, "_WAITING", 3 * 16 * CLASSES)
    weights, other = learnt(network, together, whole, **options)
    assert all(torch.equal(a, b) for a, b in zip(weights, expected, strict=True)) and other == sums
    assert not all(torch.equal(a, b) for a, b in zip(network.parameters(), expected, strict=True))
    assert len(alone.asked) == len(INDICES)


def test_inputs_of_a_head_are_looked_up_for_many_steps_at_once() -> None:
    data = features(known=True)
    learnt(heads()[0], data, [slice(0, len(INDICES))])
    assert [index.tolist() for _, index in data.asked] == [list(range(150))]


def test_a_step_is_made_when_it_is_asked_for() -> None:
    network = heads()[0]
    before = copy.deepcopy(network)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    data = features(known=True)
    recipe = Recipe(epochs=1, batch_size=16, eval_batch_size=16, seed=0)
    made = stepping.steps(Part(network, data, None, network, data, None), INDICES, optimizer, recipe, epoch=1, first=0)
    next(made)
    assert torch.equal(network.weight, before.weight)
    optimizer.param_groups[0]["lr"] = 1.0
    next(made)
    assert not torch.equal(network.weight, before.weight)


def test_sums_are_those_of_steps_of_every_kind() -> None:
    random = torch.Generator().manual_seed(2)
    sums, loss, right = Sums(1.5, 2.0, 0.1), 1.5, 2.0
    for number, size in enumerate([4, 4, 4, 3, 4]):
        logits = torch.randn(size, CLASSES, generator=random)
        labels = torch.randint(CLASSES, (size,), generator=random)
        given = torch.tensor(0.25) if number % 2 else None
        sums.add(Step(logits, labels, given))
        wanted = nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)
        loss += (wanted if given is None else given).item() * size
        right += (logits.argmax(1) == labels).sum().item()
    assert sums.read() == pytest.approx((loss, right))
    assert sums.read() == pytest.approx((loss, right))
