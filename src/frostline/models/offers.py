"""List the available networks by library, for people who search by a part of the name."""

from __future__ import annotations

from dataclasses import dataclass

from frostline.core import plugins
from frostline.models import build, lookup, torchvision_models


@dataclass(frozen=True)
class Offer:
    """A network that is available by name."""

    name: str
    library: str
    weights: tuple[str, ...]
    """Names of its pretrained weights, the default first; for timm, the tags that can follow the name after a dot."""


def offered(library: str | None = None) -> tuple[list[Offer], str]:
    """Return the available networks of one library or of all; and why timm's are missing, empty if they are not."""
    found: list[Offer] = []
    missing = ""
    if library != "timm":
        names = [*torchvision_models.NAMES, *plugins.names(plugins.MODELS)]
        own = {name: lookup.architecture_of(name, "torchvision").weights for name in names}
        found += [Offer(name, "torchvision", tuple(one for one in own[name] if one != "default")) for name in names]
    if library != "torchvision":
        try:
            from frostline.models import timm_models
        except ImportError as error:
            missing = f"pip install 'frostline[timm]' ({error})"
        else:
            found += [Offer(name, "timm", tags) for name, tags in timm_models.names().items()]
    return found, missing


def size_of(name: str, library: str, *, counted: bool) -> tuple[int, int | None]:
    """Return the side of a network's input in pixels and, if `counted`, its parameters with 1,000 classes."""
    size = lookup.architecture_of(name, library).input.size
    if not counted:
        return size, None
    module = build.build(name, library=library, weights=None, num_classes=1000, seed=0, meta=True).module
    return size, sum(parameter.numel() for parameter in module.parameters())
