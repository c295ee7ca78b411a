"""Which pixels of a source are kept in the store, and where what is asked for is found.

What is seen of pictures without anything random is kept as it is seen, by all networks of the same preprocessing. What
random crops are cut from is kept whole, reduced as far as the crops allow. What is too much for the store is decoded
whenever it is asked for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import PIL
import scipy
import simplejpeg
import torch
from torch import Tensor

from frostline.core import codehash
from frostline.data import image_formats, value_range
from frostline.data.bit_depth import Levels
from frostline.data.decode_all import Differing, Keep, Progress, decode_all, first_size, header_sizes, reduced
from frostline.data.decode_image import at_most
from frostline.data.decode_on_demand import Undecoded
from frostline.data.resize import CenterCrop
from frostline.data.sources import Source
from frostline.store.entries import Entry
from frostline.store.mapped import Rows
from frostline.store.ragged import Ragged
from frostline.store.store import Store, Writer

_CODE = ("data.decode_all", "data.sources", "data.value_range")
"""What reads pictures, what turns them into pixels, and what finds black and white in a set."""


@dataclass(frozen=True)
class Sight:
    """What a network is shown of pictures."""

    center: CenterCrop
    """Where nothing is random."""
    side: int | None
    """The shorter side in pixels of what random crops of training images may be cut from; None without such crops."""


@dataclass(frozen=True)
class Decoded:
    """Pictures of one source as the store has them."""

    source: Source
    entry: Entry
    ids: Tensor
    keep: Keep

    def rows(self, ids: Tensor) -> Tensor:
        """Return in which rows of the entry the pictures `ids` are."""
        return torch.searchsorted(self.ids, ids)

    def pixels(self, ids: Tensor) -> Rows | Ragged | Undecoded:
        """Return what is kept of the pictures `ids`."""
        tensors, rows = self.entry.tensors, self.rows(ids)
        if self.keep.kind == "nothing":
            return Undecoded(self.source.read, self.source.name, ids, self.keep.levels)
        if self.keep.kind == "stored":
            return Ragged(tensors["pixels"], tensors["starts"][rows], tensors["shapes"][rows])
        return Rows(tensors["pixels"], rows)

    @property
    def bad(self) -> dict[int, str]:
        """The pictures that cannot be read, and why."""
        return dict(self.entry.meta["bad"])

    @property
    def reduced_to(self) -> int | None:
        """The shorter side in pixels of the larger ones, if they are stored and had more."""
        side = self.keep.side
        return side if side is not None and bool((self.entry.tensors["sizes"].amin(1) > side).any()) else None


class PixelCache:
    """Decodes what is asked for into a store, and decides what of each picture is kept there."""

    def __init__(self, store: Store, progress: Progress, *, pixels: str, max_pixels: int, about: str) -> None:
        """Keep pixels in `store`, which calls their source `about`; the others are keys of `DataConfig`."""
        self._store, self._progress, self._about = store, progress, about
        self._pixels, self._max_pixels = pixels, max_pixels

    def measure_levels(self, source: Source, ids: Tensor, chosen: str) -> Levels:
        """Return what is black and white by the values of the pictures `ids`; `chosen` is `minmax` or `percentile`."""

        def make(writer: Writer) -> dict[str, Any]:
            with self._progress("looking for black and white", len(ids)) as advance:
                limit = self._max_pixels
                return value_range.measure(
                    writer, ids.tolist(), source.read, chosen, max_pixels=limit, progress=advance
                )

        about = f"the {chosen} of {len(ids):,} images of {self._about}"
        said = self._store_of(source).get("pixels", self._key(source, ids, chosen), make, about=about).meta
        return Levels(said["low"], said["high"])

    def decode(self, source: Source, ids: Mapping[str, Tensor], sight: Sight, levels: Levels) -> dict[str, Decoded]:
        """Return the pictures `ids` of each split of a source, of which some are called `train`.

        Small pictures of one size are kept as they are, which takes less than their views and serves all networks.
        """
        with at_most(self._max_pixels):  # headers and the first picture are looked at before any is decoded
            return self._decode_each(source, ids, sight, levels)

    def _decode_each(
        self, source: Source, ids: Mapping[str, Tensor], sight: Sight, levels: Levels
    ) -> dict[str, Decoded]:
        if (found := self._small(source, _union(ids.values()), sight.center, levels)) is not None:
            return dict.fromkeys(ids, found)
        centred = {name: part for name, part in ids.items() if name != "train" or sight.side is None}
        decoded: dict[str, Decoded] = {}
        if centred:
            every = _union(centred.values())
            kept = 3 * sight.center.size**2 * len(every) <= self._store.half
            keep = Keep("view", view=sight.center, levels=levels) if kept else Keep("nothing", levels=levels)
            decoded |= dict.fromkeys(centred, self._decode(source, every, keep))
        if "train" in ids and sight.side is not None:
            decoded["train"] = self._for_crops(source, ids["train"].unique(), sight.side, levels)
        return decoded

    def _for_crops(self, source: Source, ids: Tensor, side: int, levels: Levels) -> Decoded:
        """Return pictures of which random boxes are shown."""
        stored, exact = Keep("stored", side=side, levels=levels), Keep("nothing", levels=levels)
        if self._pixels != "auto":
            return self._decode(source, ids, exact if self._pixels == "exact" else stored)
        known = next((keep for keep in (stored, exact) if self._is_there(source, ids, keep)), None)
        sizes = header_sizes(ids.tolist(), source.read) if known is None else self._sizes(source, ids, known)
        size = 3 * sum(width * height for width, height in reduced(sizes, side))
        return self._decode(source, ids, stored if size <= self._store.half else exact)

    def _small(self, source: Source, ids: Tensor, center: CenterCrop, levels: Levels) -> Decoded | None:
        """Return the pictures as they are if all have one size that is no larger than what a network sees of them."""
        keep = Keep("original", levels=levels)
        if self._is_there(source, ids, keep):
            found = self._decode(source, ids, keep)
            return found if found.entry.tensors["pixels"][0, 0].numel() <= center.size**2 else None
        width, height = first_size(ids.tolist(), source.read, levels) or (0, 0)
        if not 0 < width * height <= center.size**2:
            return None
        try:
            return self._decode(source, ids, keep)
        except Differing:
            return None

    def _sizes(self, source: Source, ids: Tensor, keep: Keep) -> list[tuple[int, int]]:
        decoded = self._decode(source, ids, keep)
        sizes = decoded.entry.tensors["sizes"][decoded.rows(ids)]
        return [(width, height) for width, height in sizes.tolist()]

    def _is_there(self, source: Source, ids: Tensor, keep: Keep) -> bool:
        """Return whether the pictures were decoded before."""
        keys = (self._key(source, chosen, keep) for chosen in (None, ids))
        return source.identity is not None and any(self._store.has("pixels", key) for key in keys)

    def _decode(self, source: Source, ids: Tensor, keep: Keep) -> Decoded:
        """Return some pictures of a source.

        They are kept under what stands for the source and the way of decoding. Where all of its pictures were decoded
        before, a part of them is found there; else only those asked for are decoded, and kept under their ids too.
        """
        every = torch.arange(len(source.labels))
        store = self._store_of(source)
        whole, some = (self._key(source, chosen, keep) for chosen in (None, ids))
        if len(ids) == len(every) or (source.identity is not None and store.has("pixels", whole)):
            key, ids = whole, every
        else:
            key = some

        def make(writer: Writer) -> dict[str, Any]:
            with self._progress("decoding", len(ids)) as advance:
                return decode_all(
                    writer,
                    ids.tolist(),
                    source.read,
                    keep=keep,
                    max_pixels=self._max_pixels,
                    progress=advance,
                )

        about = f"{len(ids):,} images of {self._about}, {_about(keep)}"
        return Decoded(source, store.get("pixels", key, make, about=about), ids, keep)

    def _store_of(self, source: Source) -> Store:
        """Return where what is made of a source is kept: nowhere if decoding it takes no time."""
        return Store(None, budget=0, say=print) if source.identity is None else self._store

    def _key(self, source: Source, ids: Tensor | None, keep: Keep | str) -> str:
        facts = {
            "source": source.identity,
            "keep": keep if isinstance(keep, str) else asdict(keep),
            "max_pixels": self._max_pixels,
            "ids": None if ids is None else hashlib.sha256(ids.numpy().data).hexdigest(),
            "libraries": [
                *(PIL.__version__, simplejpeg.__version__, torch.__version__, scipy.__version__),
                *image_formats.libraries(),
            ],
            "code": codehash.of(*_CODE),
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _union(parts: Iterable[Tensor]) -> Tensor:
    """Return all ids, in rising order."""
    return torch.cat([*parts]).unique()


def _about(keep: Keep) -> str:
    """Return for people what is kept of pictures."""
    if keep.view is not None:
        view = keep.view
        side = "both sides" if view.squash else "shorter side"
        return f"seen at {view.size} pixels ({side} {view.resize}, {view.interpolation})"
    return {"original": "whole", "nothing": "checked"}.get(keep.kind, f"shorter side {keep.side} pixels")
