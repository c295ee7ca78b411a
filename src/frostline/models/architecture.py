"""What is to be known of a network to train it, wherever it comes from: torchvision, timm or another package."""

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
    """Weights that a library has by name."""

    fetch: Callable[[], tuple[Path, str]]
    """Returns their file, downloaded if it is not on this disk, and its sha256 as hex; UserError where it fails."""
    input: InputSpec
    """The picture that they expect."""


def as_they_are(module: nn.Module, tensors: Tensors) -> Tensors:
    """Return the tensors of a file for a network that takes them as they are."""
    return tensors


def new_layer(module: nn.Module, heads: tuple[str, ...], num_classes: int) -> None:
    """Put a layer with `num_classes` outputs in the place of each head, initialised as torch does."""
    for place in heads:
        module.set_submodule(place, like(module.get_submodule(place), num_classes))


def like(layer: nn.Module, num_classes: int) -> nn.Module:
    """Return a new layer with `layer`'s inputs and `num_classes` outputs, initialised as torch does."""
    if isinstance(layer, nn.Conv2d):
        assert layer.kernel_size == (1, 1)
        return nn.Conv2d(layer.in_channels, num_classes, 1, bias=layer.bias is not None)
    assert isinstance(layer, nn.Linear)
    return nn.Linear(layer.in_features, num_classes, bias=layer.bias is not None)


@dataclass(frozen=True)
class Architecture:
    """A network by name; other packages bring theirs as entry points of the group `frostline.models`."""

    network: Callable[[int], nn.Module]
    """Returns it with new weights for squares of so many pixels; how many classes it has does not matter."""
    family: Family | Callable[[nn.Module, int], Structure]
    """Its stages, and its head; or a function that finds them in a network for squares of so many pixels."""
    input: InputSpec
    """The picture that it is made for without weights, or with those of a file that says nothing of its input."""
    weights: Mapping[str, Path | Pretrained] = field(default_factory=dict)
    """Pretrained weights by name in lower case; the first is `default` too."""
    folder: Callable[[Path], Pretrained] | None = None
    """Returns the weights in a folder as the library's hub has them; UserError where they are of another network."""
    smallest: int = 1
    """The side in pixels of the smallest picture that it can see."""
    new_heads: Callable[[nn.Module, tuple[str, ...], int], None] = new_layer
    """Puts heads for so many classes at their places; by default a linear layer or a convolution of 1x1."""
    adapt: Callable[[nn.Module, Tensors], Tensors] = as_they_are
    """Returns the tensors of a file as those of the network at its input size, e.g. with positions interpolated."""
