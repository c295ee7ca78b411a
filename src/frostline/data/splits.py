"""The decoded splits of a run's data: train, validation and test."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from frostline.core.labels import multi_label
from frostline.data.bit_depth import Levels
from frostline.data.decode_on_demand import Undecoded
from frostline.data.findings import Finding
from frostline.store.ragged import Ragged
from frostline.store.rows import Rows


@dataclass(frozen=True)
class Split:
    """The images of a split, one per row."""

    pixels: Rows | Ragged | Undecoded
    """`(N, 3, H, W)` uint8, mapped from the store or in memory; or images of several sizes; or files to decode."""
    centred: bool
    """Whether the pixels are the centre views without augmentation, instead of whole images."""
    sizes: Tensor
    """`(N, 2)` int32: width and height of the original image."""
    labels: Tensor
    """`(N,)` int64, or multi-label `(N, classes)` bool."""
    ids: Tensor
    """`(N,)` int64: index in the source's split; addresses the random draws of the image."""
    digests: Tensor
    """`(N, 32)` uint8: sha256 of all pixels of each original image, decoded and upright."""
    digest: str
    """sha256 (hex) over digests, sizes and ids: everything that a view of an image depends on, without labels."""
    weights: Tensor | None = None
    """`(N,)` float32: weight of each image in the loss; None for equal weights."""
    groups: Tensor | None = None
    """`(N,)` int64: id of the first image of the same group (a patient, a plate); None if no group has two images."""

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Data:
    """The train, validation and test splits of a run, with classes and findings."""

    train: Split
    val: Split
    test: Split
    whole: Split | None
    """All splits together in the order of ids, if they are cross-validation folds with the same views; else None."""
    classes: tuple[str, ...]
    group_names: Mapping[int, str]
    """Name of each group of at least `GROUP_IMAGES` test images, by its number in `test.groups`."""
    fingerprint: str
    """`fingerprint` of all splits."""
    counts: dict[str, int]
    """Number of images of all splits that were converted, by `decode_image.CONVERSIONS`; of broken images that were
    `skipped`; of files left out as `hidden` or, by their names, `other` than images. Zeros are left out."""
    crops: bool
    """Whether training uses random crops."""
    pixels: str
    """Kind of `data.pixels` from which these are cut: `exact`, `stored`, or `auto` if that makes no difference."""
    reduced_to: int | None
    """Shorter side in pixels of the reduced images from which these are cut; None for the originals."""
    levels: Levels
    """Mapping of values of more than 8 bits to pixels."""
    findings: tuple[Finding, ...]
    """Findings to report before anything trains."""
    broken: tuple[tuple[str, str], ...]
    """Name and fault of each image that was `skipped`."""
    suffixes: Mapping[str, int]
    """Number of `other` files, by suffix."""

    @property
    def splits(self) -> dict[str, Split]:
        """The splits, by name."""
        return {"train": self.train, "val": self.val, "test": self.test}

    @property
    def multi_label(self) -> bool:
        """Whether an image may have several classes, or none."""
        return multi_label(self.train.labels)

    @property
    def cut_from(self) -> str:
        """Text for people about what random crops are cut from; empty if there are none."""
        reduced = f"images reduced to a shorter side of {self.reduced_to} pixels"
        return (reduced if self.reduced_to else "the original pixels") if self.crops else ""


def fingerprint(splits: Iterable[Split], classes: tuple[str, ...]) -> str:
    """Return the sha256 (hex) over splits, their labels and groups included, and the class names."""
    digest = hashlib.sha256(json.dumps(classes).encode())
    for split in splits:
        digest.update(split.digest.encode())
        digest.update(split.labels.numpy().data)
        for own in (split.weights, split.groups):
            if own is not None:
                digest.update(own.numpy().data)
    return digest.hexdigest()
