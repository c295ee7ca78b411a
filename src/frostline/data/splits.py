"""The splits of a run's data, decoded: what it learns from, is selected on, and is tested on."""

from __future__ import annotations

from collections.abc import Mapping
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
    """Images of one purpose, row by row."""

    pixels: Rows | Ragged | Undecoded
    """`(N, 3, H, W)` uint8, mapped from the store or in memory; or pictures of several sizes; or files."""
    centred: bool
    """Whether the pixels are what is seen of the pictures where nothing is random, not whole pictures."""
    sizes: Tensor
    """`(N, 2)` int32: width and height of the original picture."""
    labels: Tensor
    """`(N,)` int64, or multi-label `(N, classes)` bool."""
    ids: Tensor
    """`(N,)` int64: index within the split of the source; addresses the image's randomness."""
    digests: Tensor
    """`(N, 32)` uint8: sha256 of the pixels of each picture, all of them, decoded and upright."""
    digest: str
    """sha256 (hex) over digests, sizes and ids: all that a view of an image depends on, and no label."""
    weights: Tensor | None = None
    """`(N,)` float32: what each image counts in the loss; None for all alike."""
    groups: Tensor | None = None
    """`(N,)` int64: of each image the id of the first one of its group (a patient, a plate); None where no two are."""

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Data:
    """What a run learns from, is selected on, and is tested on."""

    train: Split
    val: Split
    test: Split
    whole: Split | None
    """All of them together, in the order of their ids, where they are folds of each other and seen alike."""
    classes: tuple[str, ...]
    fingerprint: str
    """sha256 (hex) over all splits, their labels and groups included, and the class names."""
    counts: dict[str, int]
    """Pictures of all splits that were converted, by `decode_image.CONVERSIONS`; `skipped` as broken; and files left
    out since they are `hidden` or, by their names, `other` than pictures. What is not there is not counted."""
    crops: bool
    """Whether random crops of the training images are shown."""
    pixels: str
    """What of `data.pixels` these are cut from: `exact`, `stored`, or `auto` where that is the same."""
    reduced_to: int | None
    """The shorter side in pixels of what these are cut from, where the originals have more."""
    levels: Levels
    """How values of more than 8 bits were shown."""
    findings: tuple[Finding, ...]
    """What a person should know before anything trains."""
    broken: tuple[tuple[str, str], ...]
    """The pictures that are `skipped`, by name, and what is wrong with each."""
    suffixes: Mapping[str, int]
    """The `other` files, by suffix."""

    @property
    def splits(self) -> dict[str, Split]:
        """The splits by name."""
        return {"train": self.train, "val": self.val, "test": self.test}

    @property
    def multi_label(self) -> bool:
        """Whether a picture may be of several classes, or of none."""
        return multi_label(self.train.labels)

    @property
    def cut_from(self) -> str:
        """What random crops are cut from, for people; empty where there are none."""
        reduced = f"pictures reduced to a shorter side of {self.reduced_to} pixels"
        return (reduced if self.reduced_to else "the original pixels") if self.crops else ""
