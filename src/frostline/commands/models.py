"""List the networks whose names match a pattern: number of parameters, input size, pretrained weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from frostline.commands import Parser
from frostline.core.errors import user_error

if TYPE_CHECKING:
    from frostline.models.offers import Offer

_COUNTED = 12  # up to so many networks are built to count their parameters: on the meta device, up to a second each


def main(arguments: list[str]) -> int:
    """Print a row for each network that matches the pattern, and return 0."""
    parser = Parser("models", __doc__)
    parser.add_argument("pattern", nargs="?", default="*", help="part of a name, or a pattern such as 'vit*dino*'")
    parser.add_argument("--library", choices=("torchvision", "timm"), help="only networks of this library")
    options = parser.parse_args(arguments)
    from frostline.models.offers import offered  # imports torch

    offers, missing = offered(options.library)
    wanted = options.pattern if set(options.pattern) & set("*?[") else f"*{options.pattern}*"
    found = [shown for offer in offers if (shown := _matching(offer, wanted)) is not None]
    if not found:
        raise user_error("pattern", options.pattern, "part of a name of a network", list(_names(offers)))
    rows = [("model", "parameters", "input", "weights")]
    rows += [_row(offer, counted=len(found) <= _COUNTED) for offer in found]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        print("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]).rstrip())
    if len(found) > _COUNTED:
        print(f"Parameters are counted for up to {_COUNTED} networks, and {len(found):,} match the pattern.")
    if missing:
        print(f"Networks of timm are not listed: {missing}")
    return 0


def _names(offers: list[Offer]) -> Iterator[str]:
    for offer in offers:
        yield offer.name
        yield from (f"{offer.name}.{weights}" for weights in offer.weights if offer.library == "timm")


def _matching(offer: Offer, wanted: str) -> Offer | None:
    """Return a network if the pattern matches its name, or only those of its timm weights that match; else None."""
    if fnmatchcase(offer.name, wanted):
        return offer
    tags = tuple(tag for tag in offer.weights if fnmatchcase(f"{offer.name}.{tag}", wanted))
    return replace(offer, weights=tags) if tags and offer.library == "timm" else None


def _row(offer: Offer, *, counted: bool) -> tuple[str, str, str, str]:
    from frostline.models.offers import size_of
    from frostline.models.torchvision_models import NAMES

    if offer.library == "timm":
        name = f"model=timm model.name={offer.name}"
    elif offer.name in NAMES:
        name = f"model={offer.name}"
    else:  # of a package: `model` stays at its default option, whose weights and image size are another network's
        weights = offer.weights[0] if offer.weights else "null"
        name = f"model.name={offer.name} model.weights={weights} model.image_size=null"
    size, count = size_of(offer.name, offer.library, counted=counted)
    return name, f"{count:,}" if count else "", f"{size} px", ", ".join(offer.weights) or "none"
