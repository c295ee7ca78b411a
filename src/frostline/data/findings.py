"""What is told of data before anything trains: what is left out, and what makes results look truer than they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from frostline.core.labels import class_counts, multi_label
from frostline.data.bit_depth import FULL, TOP, Levels
from frostline.data.names import counted, some

_SHOWN = 3
PAIRS = 6
"""Of how many groups of pictures a finding says where these are, for whoever wants to see them."""


class Place(NamedTuple):
    """Where a picture is."""

    split: str
    id: int
    """Of `Split.ids`."""


@dataclass(frozen=True)
class Finding:
    """Something that a person should know of the data."""

    about: str
    """One line."""
    alarming: bool = False
    """Whether it may make results wrong, rather than being good to know."""
    pictures: tuple[str, ...] = ()
    """All pictures that it is about, by name; the line names the first few."""
    shown: tuple[tuple[Place, ...], ...] = ()
    """The first `PAIRS` groups of pictures that are to be looked at side by side."""


def first_few(pictures: Sequence[str]) -> str:
    """Return the first few pictures for a line."""
    return ", ".join(pictures[:_SHOWN]) + (", ..." if len(pictures) > _SHOWN else "")


def of_classes(labels: Mapping[str, Tensor], classes: Sequence[str]) -> list[Finding]:
    """Return what is to be told of how each split spreads over the classes, by its labels (see `core.labels`)."""
    found = []
    for split, given in labels.items():
        counts = class_counts(given, len(classes)).tolist()
        for number, what in ((0, "no pictures"), (1, "one picture")):
            if names := [name for name, count in zip(classes, counts, strict=True) if count == number]:
                each = " each" if number and len(names) > 1 else ""
                found.append(Finding(f"{split} has {what}{each} of {some(names)}", True, tuple(names)))
    if multi_label(labels["train"]):
        return found
    counts = class_counts(labels["train"], len(classes)).tolist()
    share, largest = max(counts) / sum(counts), classes[counts.index(max(counts))]
    if share > (1 + 1 / len(classes)) / 2:  # nearer to one class alone than to as many of each
        found.append(
            Finding(
                f"{share:.0%} of train is {largest}: to say {largest} of every picture is right about as often", True
            )
        )
    return found


def of_weights(classes: Sequence[str], trained_for: Sequence[str] | None, weights: str | None) -> list[Finding]:
    """Return what is to be told where weights were trained for the same classes in another order, or for more of them.

    Their head is not kept then, as it is where the classes are the same in the same order.
    """
    if trained_for is None or tuple(trained_for) == tuple(classes):
        return []
    mine, theirs = set(classes), set(trained_for)
    if not (mine <= theirs or theirs < mine):
        return []
    how = "the same classes in another order" if mine == theirs else "more classes" if mine < theirs else "some of them"
    return [
        Finding(
            f"model.weights={weights} knows {how} ({some(trained_for)}; the data has {some(classes)}): "
            "the head begins anew",
            mine == theirs,
        )
    ]


def of_values(counts: Mapping[str, int], total: int, span: tuple[float, float] | None, levels: Levels) -> list[Finding]:
    """Return what is to be told of how `total` pictures are shown.

    `counts` says how many were converted, by `decode_image.CONVERSIONS`; `span` are the lowest and the highest of their
    values of more than 8 bits, shown by `levels`.
    """
    found = []
    if counts.get("grayscale") == total:
        every = "the only picture is" if total == 1 else f"all {total:,} pictures are"
        found.append(Finding(f"{every} grey: shown as three equal channels"))
    deep, cut = counts.get("sixteen_bits", 0), counts.get("deep_colours", 0)
    if span is not None and levels == FULL and span[1] - span[0] < TOP / 2:
        own = counted(deep - cut, "picture of more than 8 bits uses", "pictures of more than 8 bits use")
        told = f"{own} {span[0]:.0f}..{span[1]:.0f} of {TOP}"
        found.append(Finding(f"{told}: data.range=minmax shows all levels", True))
    if cut:
        own = counted(cut, "picture", "pictures")
        found.append(Finding(f"{own} of 16 bits per colour: Pillow keeps the upper 8 of each", True))
    if broken := counts.get("bad_profile"):
        own = counted(broken, "picture has a broken ICC profile", "pictures have broken ICC profiles")
        found.append(Finding(f"{own}: taken for sRGB", True))
    return found
