"""What is to be known of a network to train it, wherever it comes from: torchvision, timm or another package."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from frostline.models.input_spec import InputSpec
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


@dataclass(frozen=True)
class Architecture:
    """A network by name; other packages bring theirs as entry points of the group `frostline.models`."""

    network: Callable[[int], nn.Module]
    """Returns it with new weights for squares of so many pixels; how many classes it has does not matter."""
    family: Family | Callable[[nn.Module], Structure]
    """Its stages, and its head: a linear layer or a convolution of 1x1; or a function that finds them."""
    input: InputSpec
    """The picture that it is made for without weights, or with those of a file that says nothing of its input."""
    weights: Mapping[str, Path | Pretrained] = field(default_factory=dict)
    """Pretrained weights by name in lower case; the first is `default` too."""
    smallest: int = 1
    """The side in pixels of the smallest picture that it can see."""
    adapt: Callable[[nn.Module, Tensors], Tensors] = as_they_are
    """Returns the tensors of a file as those of the network at its input size, e.g. with positions interpolated."""
