"""Findings about data that are reported before training: what is left out, and what would flatter or spoil a result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from frostline.core.errors import first_few
from frostline.core.labels import class_counts, multi_label
from frostline.data.bit_depth import FULL, TOP, Levels
from frostline.data.names import counted, some

PAIRS = 6
"""Number of groups of images whose places a finding has, to show them in a page."""


class Place(NamedTuple):
    """Split and id of an image."""

    split: str
    id: int
    """Id as in `Split.ids`."""


@dataclass(frozen=True)
class Finding:
    """A fact about the data that the user should know."""

    about: str
    """The finding in one line."""
    alarming: bool = False
    """Whether it may make results wrong, rather than being only informative."""
    images: tuple[str, ...] = ()
    """Names of all affected images; the line names the first few."""
    shown: tuple[tuple[Place, ...], ...] = ()
    """The first `PAIRS` groups of images to be shown side by side."""


def of_names(names: Sequence[str], one: str, many: str) -> Finding:
    """Return an alarming finding about the images `names`: their number, with `one` or `many`, and the first few."""
    return Finding(f"{counted(len(names), one, many)}: {first_few(names)}", True, tuple(names))


def of_classes(labels: Mapping[str, Tensor], classes: Sequence[str]) -> list[Finding]:
    """Return findings about the class distribution of each split, from its labels (see `core.labels`)."""
    found = []
    for split, given in labels.items():
        counts = class_counts(given, len(classes)).tolist()
        for number, what in ((0, "no images"), (1, "one image")):
            if names := [name for name, count in zip(classes, counts, strict=True) if count == number]:
                each = " each" if number and len(names) > 1 else ""
                found.append(Finding(f"{split} has {what}{each} of {some(names)}", True, tuple(names)))
    if multi_label(labels["train"]):
        return found
    counts = class_counts(labels["train"], len(classes)).tolist()
    share, largest = max(counts) / sum(counts), classes[counts.index(max(counts))]
    if share > (1 + 1 / len(classes)) / 2:  # nearer to a single class than to balanced classes
        told = f"{share:.0%} of train is {largest}: predicting {largest} for every image is right about as often"
        found.append(Finding(told, True))
    return found


def of_weights(classes: Sequence[str], trained_for: Sequence[str] | None, weights: str | None) -> list[Finding]:
    """Return a finding if the weights were trained for the same classes in another order, or for more or fewer of them.

    Then their head is not kept; it is kept only for the same classes in the same order.
    """
    if trained_for is None or tuple(trained_for) == tuple(classes):
        return []
    mine, theirs = set(classes), set(trained_for)
    if not (mine <= theirs or theirs < mine):
        return []
    fewer = "only some of the classes" if theirs < mine else "more classes"
    how = "the same classes in another order" if mine == theirs else fewer
    told = f"model.weights={weights} was trained for {how} ({some(trained_for)}; the data has {some(classes)})"
    return [Finding(f"{told}: the head starts from random weights", mine == theirs)]


def of_values(counts: Mapping[str, int], total: int, span: tuple[float, float] | None, levels: Levels) -> list[Finding]:
    """Return findings about the pixel values and conversions of `total` images.

    `counts` has the number of converted images, by `decode_image.CONVERSIONS`; `span` the lowest and the highest value
    of images of more than 8 bits, which `levels` maps to pixels.
    """
    found = []
    if counts.get("grayscale") == total:
        every = "the only image is" if total == 1 else f"all {total:,} images are"
        found.append(Finding(f"{every} grey: converted to three equal channels"))
    deep, cut = counts.get("sixteen_bits", 0), counts.get("deep_colours", 0)
    if span is not None and levels == FULL and span[1] - span[0] < TOP / 2:
        own = counted(deep - cut, "image of more than 8 bits uses", "images of more than 8 bits use")
        told = f"{own} {span[0]:.0f}..{span[1]:.0f} of {TOP}"
        found.append(Finding(f"{told}: data.range=minmax shows all levels", True))
    if cut:
        own = counted(cut, "image", "images")
        found.append(Finding(f"{own} of 16 bits per colour: Pillow keeps the upper 8 of each", True))
    if several := counts.get("first_frame"):
        own = counted(several, "image has", "images have")
        found.append(Finding(f"{own} several pages or frames: only the first of each is used", True))
    if broken := counts.get("bad_profile"):
        own = counted(broken, "image has a broken ICC profile", "images have broken ICC profiles")
        found.append(Finding(f"{own}: treated as sRGB", True))
    return found
