"""Images whose colour is their number, found again in the splits that were made of them."""

from __future__ import annotations

from collections import Counter

from frostline.data.splits import Data, Split


def numbers(split: Split) -> list[int]:
    """Return which images a split has, by their red and green."""
    return [int(pixels[0, 0, 0]) + 256 * int(pixels[1, 0, 0]) for pixels in split.pixels]


def pairs(found: Data) -> Counter[tuple[int, str]]:
    """Return how often an image has a class in any split."""
    said = Counter[tuple[int, str]]()
    for split in (found.train, found.val, found.test):
        said.update(zip(numbers(split), (found.classes[label] for label in split.labels.tolist()), strict=True))
    return said


def messages(found: Data) -> list[str]:
    """Return what is told of the source, beside how many images of each class splits have."""
    return [finding.about for finding in found.findings if " has one image of " not in finding.about]
