"""Images whose colour encodes their number, so that tests can identify them in splits."""

from __future__ import annotations

from collections import Counter

from frostline.data.splits import Data, Split


def numbers(split: Split) -> list[int]:
    """Return the numbers of a split's images, decoded from red and green."""
    return [int(pixels[0, 0, 0]) + 256 * int(pixels[1, 0, 0]) for pixels in split.pixels]


def pairs(found: Data) -> Counter[tuple[int, str]]:
    """Return how often each (image number, class) occurs in all splits together."""
    said = Counter[tuple[int, str]]()
    for split in (found.train, found.val, found.test):
        said.update(zip(numbers(split), (found.classes[label] for label in split.labels.tolist()), strict=True))
    return said


def messages(found: Data) -> list[str]:
    """Return the findings about the source, without those about classes of one image."""
    return [finding.about for finding in found.findings if " has one image of " not in finding.about]
