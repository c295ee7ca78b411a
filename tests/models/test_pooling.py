"""Average pooling with a deterministic gradient on every device agrees with torch's."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import fx, nn

from frostline.models.build import build
from frostline.models.pooling import AveragePool, average_pool, replace_pools

LENGTHS = st.integers(1, 20)


@given(st.tuples(LENGTHS, LENGTHS), st.tuples(LENGTHS, LENGTHS))
def test_values_and_gradient_agree_with_torch(shape: tuple[int, int], size: tuple[int, int]) -> None:
    maps = torch.randn(2, 3, *shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    toward = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    found = [pool(maps, size) for pool in (average_pool, nn.functional.adaptive_avg_pool2d)]
    torch.testing.assert_close(*found)
    torch.testing.assert_close(*(torch.autograd.grad((one * toward).sum(), maps)[0] for one in found))


def test_error_in_bfloat16_is_at_most_torchs() -> None:
    maps = torch.rand(4, 8, 5, 5, generator=torch.Generator().manual_seed(0))
    exact = nn.functional.adaptive_avg_pool2d(maps.bfloat16().double(), 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = average_pool(maps.bfloat16(), (3, 3))
    theirs = nn.functional.adaptive_avg_pool2d(maps.bfloat16(), 3)
    assert ours.dtype == torch.bfloat16
    assert (ours.double() - exact).abs().max() <= (theirs.double() - exact).abs().max()


@pytest.mark.parametrize("name", ["alexnet", "vgg11"])
def test_adaptive_pooling_layers_are_replaced(name: str) -> None:
    module = build(name, weights=None, num_classes=5, seed=0, meta=True).module
    assert isinstance(module.avgpool, AveragePool)
    kinds = {type(layer).__name__ for layer in module.modules()}
    assert "AdaptiveAvgPool2d" not in kinds


def test_pooling_to_one_pixel_or_to_an_open_size_is_not_replaced() -> None:
    sizes = (1, (1, 1), (3, None), (None, 3), 2, (2, 3), (1, 2), (2, 1))
    module = nn.Sequential(*map(nn.AdaptiveAvgPool2d, sizes))
    replace_pools(module)
    kept, replaced = [*module][:4], [*module][4:]
    assert all(type(pool) is nn.AdaptiveAvgPool2d for pool in kept)
    assert [cast(AveragePool, pool).size for pool in replaced] == [(2, 2), (2, 3), (1, 2), (2, 1)]


def test_traced_pooling_works_for_any_size() -> None:
    pool = fx.symbolic_trace(nn.Sequential(AveragePool((2, 3))))
    for side in (4, 7):
        maps = torch.rand(1, 1, side, side)
        torch.testing.assert_close(pool(maps), nn.functional.adaptive_avg_pool2d(maps, (2, 3)))
