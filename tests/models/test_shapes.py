"""Shape walk: a forward pass on shapes alone gives the same shapes and errors."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from families import member
from frostline.models import shapes
from frostline.models.pooling import AveragePool


@pytest.mark.parametrize("name", ["resnet", "swin"])
def test_walk_gives_output_shape_and_changes_nothing(name: str) -> None:
    model = member(name)
    before = {key: tensor.clone() for key, tensor in model.module.state_dict().items()}
    given = shapes.walk(model.module, 2, model.input.size)
    with torch.no_grad():
        assert given.shape == model.module.eval()(torch.zeros(2, 3, model.input.size, model.input.size)).shape
    assert given.is_meta and all(torch.equal(t, before[key]) for key, t in model.module.state_dict().items())


def test_walk_passes_an_average_pool() -> None:
    assert shapes.walk(AveragePool((7, 7)), 2, 8).shape == (2, 3, 7, 7)


def test_batch_norm_of_one_value_per_channel_is_refused() -> None:
    norm = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(3))
    assert shapes.walk(norm, 2, 8).shape == shapes.walk(norm.eval(), 1, 8)[:1].expand(2, -1, -1, -1).shape
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        shapes.walk(norm.train(), 1, 8)


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(3), nn.LayerNorm((3, 8, 8))])
def test_norm_of_another_shape_is_refused(norm: nn.Module) -> None:
    assert shapes.walk(norm, 2, 8).shape == (2, 3, 8, 8)
    with pytest.raises(RuntimeError):
        shapes.walk(nn.Sequential(nn.Conv2d(3, 4, 3), norm), 2, 8)


class _Relative(nn.Module):
    """Multiplies images by their columns' numbers and a weight per distance of two columns, of which it has `count`."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(count))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        columns = torch.arange(images.shape[3], device=images.device)
        return images @ self.weight[columns[:, None] - columns + len(columns) - 1] * columns


def test_check_refuses_positions_out_of_range() -> None:
    shapes.check(_Relative(15), 8)
    with pytest.raises(IndexError, match="index 14 is out of bounds for dimension 0 with size 14"):
        shapes.check(_Relative(14), 8)
    with pytest.raises(RuntimeError):
        shapes.check(nn.Sequential(_Relative(15), nn.Conv2d(4, 4, 1)), 8)
