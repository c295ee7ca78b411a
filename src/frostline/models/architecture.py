"""Descriptions of networks (constructor, stages, input, weights), from torchvision, timm or another package."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from frostline.core.input_spec import InputSpec
from frostline.models.stages import Family, Structure

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Pretrained:
    """Pretrained weights that a library offers by name."""

    fetch: Callable[[], tuple[Path, str]]
    """Returns the file, downloaded if missing, and its sha256 as hex; UserError if that fails."""
    input: InputSpec
    """The image that the weights expect."""


def new_layer(module: nn.Module, heads: tuple[str, ...], num_classes: int) -> None:
    """Replace each head by a layer with `num_classes` outputs, initialised as torch does."""
    for place in heads:
        module.set_submodule(place, like(module.get_submodule(place), num_classes))


def like(layer: nn.Module, num_classes: int) -> nn.Module:
    """Return a new layer with the inputs of `layer` and `num_classes` outputs, initialised as torch does."""
    if isinstance(layer, nn.Conv2d):
        assert layer.kernel_size == (1, 1)
        return nn.Conv2d(layer.in_channels, num_classes, 1, bias=layer.bias is not None)
    assert isinstance(layer, nn.Linear)
    return nn.Linear(layer.in_features, num_classes, bias=layer.bias is not None)


@dataclass(frozen=True)
class Architecture:
    """A network by name; other packages add theirs as entry points of the group `frostline.models`."""

    network: Callable[[int], nn.Module]
    """Returns the network with new weights, given the side of its square input in pixels; any number of classes."""
    family: Family | Callable[[nn.Module, int], Structure]
    """Its stages and head; or a function that finds them, given the network and the side of its input in pixels."""
    input: InputSpec
    """The expected image without weights, or with weights from a file that does not describe its input."""
    weights: Mapping[str, Path | Pretrained] = field(default_factory=dict)
    """Pretrained weights by lower-case name; the first is also `default`."""
    folder: Callable[[Path], Pretrained] | None = None
    """Returns the weights in a folder laid out as on the library's hub; UserError for weights of another network."""
    smallest: int = 1
    """The side in pixels of the smallest image that the network accepts."""
    new_heads: Callable[[nn.Module, tuple[str, ...], int], None] = new_layer
    """Replaces the heads, given paths and number of classes; by default with a linear layer or a 1x1 convolution."""
    adapt: Callable[[nn.Module, Tensors], Tensors] = lambda module, tensors: tensors
    """Converts the tensors of a file to the network at its input size, e.g. interpolates positions; by default not."""
