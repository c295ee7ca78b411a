"""Sums of losses and right answers have the same bits for all group sizes and numbers of heads."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from frostline.training import gradient, sums
from frostline.training.steps import Step
from frostline.training.sums import Sums, SumsPerHead

CLASSES = 7


def test_waiting_outputs_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sums, "_WAITING", 3 * 4 * CLASSES)
    computed, losses = list[int](), gradient.losses
    monkeypatch.setattr(gradient, "losses", lambda *each: (computed.append(len(each[0])), losses(*each))[1])
    found = Sums(0.0, 0.0, 0.0)
    for _ in range(7):
        found.add(Step(torch.zeros(4, CLASSES), torch.zeros(4, dtype=torch.long), None))
    assert computed == [3, 3]
    assert found.read() == (pytest.approx(28 * math.log(CLASSES)), 28)


def test_loss_is_equal_alone_and_in_a_group(two_threads: None) -> None:
    """The batches are so large that torch splits the sum of one between two threads."""
    random = torch.Generator().manual_seed(2)
    batches = [torch.randn(40_000, CLASSES, generator=random) for _ in range(4)]
    labels = torch.randint(CLASSES, (40_000,), generator=random)
    together, alone = Sums(0.0, 0.0, 0.0), Sums(0.0, 0.0, 0.0)
    for logits in batches:
        together.add(Step(logits, labels, None))
        alone.add(Step(logits, labels, None))
        alone.read()
    assert together.read() == alone.read()


@pytest.mark.parametrize("multi", [False, True], ids=["one label", "several labels"])
def test_sums_of_steps_with_and_without_a_given_loss(multi: bool) -> None:
    random = torch.Generator().manual_seed(2)
    found, loss, right = Sums(1.5, 2.0, 0.1), 1.5, 2.0
    for number, size in enumerate([4, 4, 4, 3, 4]):
        logits = torch.randn(size, CLASSES, generator=random)
        labels = torch.randint(CLASSES, (size,), generator=random)
        if multi:
            labels = (logits > 0) ^ (labels[:, None] == 0)
            wanted = nn.functional.binary_cross_entropy_with_logits(logits, 0.9 * labels + 0.05)
            right += ((logits > 0) == labels).all(1).sum().item()
        else:
            wanted = nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)
            right += (logits.argmax(1) == labels).sum().item()
        given = torch.tensor(0.25) if number % 2 else None
        found.add(Step(logits, labels, given))
        loss += (wanted if given is None else given).item() * size
    assert found.read() == pytest.approx((loss, right))
    assert found.read() == pytest.approx((loss, right))


@pytest.mark.parametrize("multi", [False, True], ids=["one label", "several labels"])
@pytest.mark.parametrize("waiting", [1, 10**6])
def test_sums_per_head_equal_those_of_single_heads(multi: bool, waiting: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sums, "_WAITING", waiting)
    random = torch.Generator().manual_seed(2)
    smoothings = (0.0, 0.1, 0.0)
    several, alone = SumsPerHead(smoothings), [Sums(0.0, 0.0, smoothing) for smoothing in smoothings]
    for size in (5, 5, 5, 1):
        logits = torch.randn(3, CLASSES, size, generator=random)
        labels = torch.randint(CLASSES, (3, size), generator=random)
        labels = nn.functional.one_hot(labels, CLASSES).bool() if multi else labels
        several.add(logits, labels)
        for one, its, wanted in zip(alone, logits, labels, strict=True):
            one.add(Step(its.t().clone(), wanted, None))
    assert [one.read() for one in several.each()] == [one.read() for one in alone]
