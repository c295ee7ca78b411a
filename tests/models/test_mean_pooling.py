"""Mean pooling turns activations of any layout into one vector per image."""

from __future__ import annotations

import pytest
import torch

from frostline.models import mean_pooling


@pytest.mark.parametrize(
    ("shape", "dims", "how"),
    [
        ((2, 7, 5, 5), (2, 3), "mean over space"),
        ((2, 5, 5, 7), (1, 2), "mean over space"),
        ((2, 4, 4, 4), (2, 3), "mean over space"),
        ((2, 5, 7), (1,), "mean over tokens"),
        ((2, 7), (), "as it is"),
    ],
)
def test_pooling_averages_positions_and_keeps_channels(shape: tuple[int, ...], dims: tuple[int, ...], how: str) -> None:
    activations = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    expected = activations.mean(dims) if dims else activations
    assert torch.equal(mean_pooling.pooled(activations), expected)
    assert mean_pooling.pooling(activations) == how
    assert mean_pooling.pooled(activations.bfloat16()).dtype == torch.float32
