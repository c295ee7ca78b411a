"""Lockstep training of heads: launches and waits on a GPU, and the check for equal bits before it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from emulated_card import EmulatedMachine
from frostline.training.lockstep import Stack
from heads import BATCH, CLASSES, make_heads


def step(heads: int, seeds: int = 1, rates: int | None = None, optimizer: str = "adamw") -> EmulatedMachine:
    """Return an emulated GPU after the second step of heads with different learning rates, or `rates` of them."""
    with EmulatedMachine().running() as gpu:
        members, data = make_heads(heads, seeds, rates, optimizer=optimizer, device="cuda")
        steps = Stack(members, data).steps(torch.arange(4 * BATCH).split(BATCH), 1, 0)
        next(steps)
        gpu.launches.clear()
        gpu.waits.clear()
        gpu.sent.clear()
        next(steps)
    return gpu


def launches(*, of: str, **options: int) -> tuple[int, int]:
    """Return the number of launches of such a step without, and of, its optimizers; `of` is their operation."""
    all_of_them = step(**options).launches
    optimizers = sum(all_of_them[name] for name in (of, "_foreach_add_"))  # which counts its steps
    return all_of_them.total() - optimizers, optimizers


def test_launches_grow_only_with_learning_rates() -> None:
    products, _ = launches(of="_fused_adamw_", heads=1)
    assert products <= 8
    assert launches(of="_fused_adamw_", heads=2) == (products, 1 + 2)
    assert launches(of="_fused_adamw_", heads=16) == (products, 1 + 16)
    assert launches(of="_fused_adamw_", heads=16, rates=4) == (products, 1 + 4)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "rmsprop"])
def test_different_seeds_do_not_add_launches(optimizer: str) -> None:
    one, two, many = (step(heads, heads, 1, optimizer).launches for heads in (1, 2, 16))
    assert two == many and two.total() == one.total()


def test_steps_do_not_wait() -> None:
    assert not +step(4).waits and not +step(4, seeds=2).waits


def test_constant_learning_rates_are_sent_once() -> None:
    assert not step(4).sent


def test_steps_count_as_writes_to_every_head() -> None:
    members, data = make_heads(2)
    parameters = [one for member in members for one in member.head.linear.parameters()]
    before = [0] * len(parameters)
    for _ in Stack(members, data).steps(torch.arange(4 * BATCH).split(BATCH), 1, 0):
        versions = [one._version for one in parameters]
        assert all(now > then for now, then in zip(versions, before, strict=True))
        before = versions


def test_heads_agree_even_if_one_diverged() -> None:
    members, data = make_heads(3)
    with torch.no_grad():
        members[1].head.linear.weight.fill_(torch.nan)
    assert Stack(members, data).agrees(torch.arange(4 * BATCH).split(BATCH), 1, 0)


def test_heads_do_not_agree_if_memory_alignment_changes_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    product = torch.addmm

    def depends_on_alignment(bias: Tensor, weight: Tensor, columns: Tensor) -> Tensor:
        starts = weight.data_ptr() + 4 * weight.shape[1] * (torch.arange(len(weight)) // CLASSES * CLASSES)
        return product(bias, weight, columns) * (1 + 1e-6 * (starts % 16 == 0)[:, None])

    def of_each(*stacked: Tensor) -> Tensor:
        return torch.stack([depends_on_alignment(*one) for one in zip(*stacked, strict=True)])

    monkeypatch.setattr(torch, "addmm", depends_on_alignment)
    monkeypatch.setattr(torch, "baddbmm", of_each)
    members, data = make_heads(2, dim=15)  # the second layer starts after 5 * 15 numbers of 4 bytes
    assert not Stack(members, data).agrees(torch.arange(4 * BATCH).split(BATCH), 1, 0)


def test_heads_with_different_gradients_do_not_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    add, (members, data) = torch.sum, make_heads(2, seeds=2)
    batches = torch.arange(4 * BATCH).split(BATCH)
    assert Stack(members, data).agrees(batches, 1, 0)
    monkeypatch.setattr(torch, "sum", lambda *of, out: add(*of, out=out).mul_(1 + 1e-6))
    assert not Stack(members, data).agrees(batches, 1, 0)


def test_products_are_single_if_batched_ones_round_differently(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = torch.arange(4 * BATCH).split(BATCH)

    def trained() -> list[Tensor]:
        members, data = make_heads(3, seeds=2)
        stack = Stack(members, data)
        assert stack.agrees(batches, 1, 0)
        assert len(list(stack.steps(batches, 1, 0))) == len(batches)
        return [parameter for one in members for parameter in one.head.linear.parameters()]

    product, batched = torch.bmm, trained()
    calls: list[None] = []
    monkeypatch.setattr(torch, "bmm", lambda *of, out: calls.append(None) or product(*of, out=out).mul_(1 + 1e-6))
    assert all(map(torch.equal, trained(), batched))
    assert len(calls) == 1  # the check's alone


@pytest.mark.parametrize("seeds", [1, 2])
def test_agreement_of_a_small_last_batch_is_not_enough(monkeypatch: pytest.MonkeyPatch, seeds: int) -> None:
    def rarely_different(product: Callable[..., Tensor], bias: Tensor, weight: Tensor, columns: Tensor) -> Tensor:
        rare = (columns[..., :1, :] == 7.0) & (columns.shape[-1] == 1) & (len(weight) != CLASSES)  # only of one head
        return product(bias, weight, columns) * (1 + 1e-6 * rare)

    members, data = make_heads(2, seeds)
    data.tensor.round_()
    data.tensor[3, 0] = 7.0
    with torch.no_grad():
        for parameter in (one for member in members for one in member.head.linear.parameters()):
            parameter.mul_(64).round_().div_(64)  # so that products are exact in every order of addition
    batches = torch.arange(3 * BATCH + 1).split(BATCH)
    stack = Stack(members, data)
    assert stack.agrees(batches, 1, 0) and stack._linear.products == "per seed"
    for name in ("addmm", "baddbmm"):
        monkeypatch.setattr(torch, name, partial(rarely_different, getattr(torch, name)))
    assert stack.agrees(batches, 1, 0) and stack._linear.products == "single"
