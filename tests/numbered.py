"""Images whose colour encodes their number, so that tests can identify them in splits."""

from __future__ import annotations

import io
from collections import Counter
from typing import Any

from PIL import Image

from frostline.data.findings import Finding
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


def findings(data: Data, words: str) -> list[Finding]:
    """Return the findings whose message contains `words`."""
    return [finding for finding in data.findings if words in finding.about]


def png(number: int, side: int = 8) -> bytes:
    """Return the PNG file of an image."""
    stream = io.BytesIO()
    Image.new("RGB", (side, side), (number % 256, number // 256, 9)).save(stream, "PNG")
    return stream.getvalue()


def in_turn(count: int, first: int = 0, classes: tuple[str, ...] = ("cat", "dog")) -> Counter[tuple[int, str]]:
    """Return the pairs of `count` images from number `first` on, whose classes take turns."""
    return Counter((number, classes[number % len(classes)]) for number in range(first, first + count))


def disjoint(*sets: set[Any]) -> bool:
    """Return whether no element is in two of the sets."""
    return len(set().union(*sets)) == sum(map(len, sets))
