"""Mean pooling turns activations of any layout into one vector per image."""

from __future__ import annotations

import pytest
import torch

import families
from frostline.models import cut, mean_pooling


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
    model = families.member("resnet")
    activations = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    expected = activations.mean(dims) if dims else activations
    axes = mean_pooling.pooled_axes(activations.shape, model.module, model.structure)
    assert torch.equal(mean_pooling.pooled(activations, axes), expected)
    assert mean_pooling.in_words(axes) == how
    assert mean_pooling.pooled(activations.bfloat16(), axes).dtype == torch.float32


@pytest.mark.parametrize(("name", "axes"), [("swin", (1, 2)), ("swin_v2", (1, 2)), ("convnext", (2, 3))])
def test_axes_are_those_of_positions_where_maps_have_as_many_channels_as_rows(name: str, axes: tuple[int, ...]) -> None:
    model = families.member(name)
    for count in (1, 2):
        lower, _ = cut.halves(model.module, model.structure, model.structure.stages[:count])
        shape = lower(torch.zeros(2, 3, 32, 32)).shape
        assert shape == (2, 8, 8, 8)
        assert mean_pooling.pooled_axes(shape, model.module, model.structure) == axes
