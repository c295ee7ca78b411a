"""The `Source` of a split: labelled images that are not decoded yet.

The identity of a source is the store key of its decoded pixels. For files it is the hash of their names, sizes and
times, since reading them all would take as long as decoding them. A change of a file that alters none of these is not
noticed (the system itself sets the time of the last status change).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from frostline.core.files import facts
from frostline.data import duplicates
from frostline.data.findings import Finding
from frostline.data.names import printable
from frostline.data.open_image import is_passing, open_image
from frostline.data.times import Times
from frostline.store import hashing


@dataclass(frozen=True)
class Source:
    """A split, or several in one, of labelled images that are not decoded yet."""

    labels: Tensor
    """`(N,)` int64, or multi-label `(N, classes)` bool."""
    classes: tuple[str, ...]
    read: Callable[[int], Image.Image]
    """Opens the i-th image; may raise any exception if its file is missing or broken."""
    name: Callable[[int], str]
    """Returns a name of the i-th image for people: its file if it has one."""
    files: Sequence[Path] | None = None
    """Absolute path of each image; None if images have no files of their own."""
    header: Callable[[int], Image.Image] | None = None
    """Opens the i-th image without decoding it, for sources whose `read` may decode it."""
    identity: str | None = None
    """sha256 (hex) that identifies all images of the split, None if decoding them takes no time."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Number of files that are not images by their names: `hidden`, `other`."""
    suffixes: Mapping[str, int] = field(default_factory=dict)
    """Number of `other` files, by suffix."""
    groups: Tensor | None = None
    """`(N,)` int64: images with the same number belong to the same split; None if there are no groups."""
    group_names: Sequence[str] = ()
    """Name of each group by its number, empty for an image that is its own; none where groups have no names."""
    splits: Mapping[str, Tensor] | None = None
    """Indices of the images of each split, `(M,)` int64, if the source holds several splits; else None."""
    times: Times | None = None
    """Times of the images, if the latest ones are to be the test split."""
    weights: Tensor | None = None
    """`(N,)` float32, above 0: weight of each image in the loss; None for equal weights."""
    first_alike: Callable[[], Tensor] | None = None
    """Returns `(N,)` int64: for each image the index of the first one with the same bytes; None for no comparison."""
    damage: tuple[str, ...] = ()
    """Unreadable parts that are known before any image is opened, a line each."""
    findings: tuple[Finding, ...] = ()
    """Findings about the source itself."""

    def group_name(self, index: int) -> str:
        """Return the name of the i-th image's group, its number where groups have no names; empty without groups."""
        if self.groups is None:
            return ""
        number = int(self.groups[index])
        return self.group_names[number] if self.group_names else str(number)

    @cached_property
    def copies(self) -> Tensor | None:
        """`(N,)` int64: for each image the first one with the same bytes; None if the source cannot tell.

        Files that are no images join no groups: empty ones occur in many.
        """
        alike = self.first_alike() if self.first_alike is not None else None
        if alike is None or self.groups is None:
            return alike
        joining = alike[self.groups != self.groups[alike]].unique().tolist()
        broken = torch.tensor([first for first in joining if not self._opens(first)], dtype=torch.int64)
        return torch.where(torch.isin(alike, broken), torch.arange(len(alike)), alike)

    def _opens(self, index: int) -> bool:
        try:
            self.read(index).close()
        except Exception as error:  # Pillow may raise anything for a broken file
            return is_passing(error)
        return True


def of_files(files: Sequence[Path], root: Path, labels: Tensor, classes: Sequence[str]) -> Source:
    """Return a source of the images in `files`, named by their paths relative to `root`."""
    return Source(
        labels=labels,
        classes=tuple(classes),
        read=lambda index: open_image(files[index]),
        name=lambda index: printable(str(files[index].relative_to(root))),
        files=files,
        identity=hashing.of_facts(manifest(files, root)),
        first_alike=lambda: duplicates.of_files(files),
    )


def manifest(files: Iterable[Path], root: Path) -> list[tuple[object, ...]]:
    """Return name, size and times of every file; for a link, size and times of its target."""
    found: list[tuple[object, ...]] = []
    above = f"{root}{os.sep}"
    for path in map(str, files):
        inside = path.startswith(above)  # the same result as relpath, in a tenth of its time
        name = os.fsencode(path[len(above) :] if inside else os.path.relpath(path, root)).hex()
        found.append((name, *facts(path)))
    return found
