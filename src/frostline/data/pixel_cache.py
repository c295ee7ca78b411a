"""Cache of decoded pixels: decide in which form the images of a source are stored, and find or decode them.

Images that get the centre view are stored as that view, shared by all networks with the same preprocessing; or whole,
if that takes less room. Images from which random crops are cut are stored whole, reduced as far as the crops allow. The
sizes in image headers tell how much room this takes before anything is decoded. Images that do not fit are decoded at
each use, with the same bits: the form depends only on the images, and only the place on the available room.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import PIL
import scipy
import simplejpeg
import torch
from torch import Tensor

from frostline.core import codehash
from frostline.data import image_formats, value_range
from frostline.data.bit_depth import Levels
from frostline.data.decode_all import Differing, ProgressBar, decode_all, header_sizes
from frostline.data.decode_on_demand import Undecoded
from frostline.data.open_image import at_most
from frostline.data.pixel_form import PixelForm, Sizes
from frostline.data.resize import CenterCrop
from frostline.data.source import Source
from frostline.store import hashing
from frostline.store.entries import Entry
from frostline.store.ragged import Ragged
from frostline.store.rows import Rows
from frostline.store.store import Store
from frostline.store.writer import NoRoom, Writer

_CODE = ("data.decode_all", "data.sources", "data.value_range")
"""Modules that read images, decode them, and measure black and white in a set."""


@dataclass(frozen=True)
class ViewSpec:
    """The views of images that a network takes."""

    center: CenterCrop
    """The view without augmentation."""
    side: int | None
    """Shorter side in pixels to which training images may be reduced for random crops; None without random crops."""


@dataclass(frozen=True)
class Decoded:
    """Decoded images of a source."""

    source: Source
    entry: Entry
    ids: Tensor
    form: PixelForm
    """Form of the images, stored or not."""
    kept: bool

    def rows(self, ids: Tensor) -> Tensor:
        """Return the rows of the images `ids` in the entry."""
        return torch.searchsorted(self.ids, ids)

    def facts(self, name: str, ids: Tensor) -> Tensor:
        """Return what the entry says of the images `ids`; `name` is one of the tensors of `decode_all`."""
        return self.entry.tensors[name][self.rows(ids)]

    def pixels(self, ids: Tensor) -> Rows | Ragged | Undecoded:
        """Return the pixels of the images `ids`, or their files to decode if the pixels are not stored."""
        tensors, rows, form = self.entry.tensors, self.rows(ids), self.form
        if not self.kept:
            exact = form.kind == "nothing"
            return Undecoded(self.source.read, self.source.name, ids, form.levels, side=form.side, exact=exact)
        if form.kind == "stored":
            return Ragged(tensors["pixels"], tensors["starts"][rows], tensors["shapes"][rows])
        return Rows(tensors["pixels"], rows)

    @property
    def bad(self) -> dict[int, str]:
        """Ids of unreadable images, with the reason."""
        return dict(self.entry.meta["bad"])

    @property
    def reduced_to(self) -> int | None:
        """Shorter side in pixels to which images were reduced; None if none was."""
        side = self.form.side
        return side if side is not None and bool((self.entry.tensors["sizes"].amin(1) > side).any()) else None


class PixelCache:
    """Decodes images into a store, and decides in which form they are kept there."""

    def __init__(self, store: Store, progress: ProgressBar, *, pixels: str, max_pixels: int, about: str) -> None:
        """Keep pixels in `store`; `about` describes the source; `pixels` and `max_pixels` are keys of `DataConfig`."""
        self._store, self._progress, self._about = store, progress, about
        self._pixels, self._max_pixels = pixels, max_pixels

    def measure_levels(self, source: Source, ids: Tensor, chosen: str) -> Levels:
        """Return black and white from the values of the images `ids`; `chosen` is `minmax` or `percentile`."""

        def make(writer: Writer) -> dict[str, Any]:
            with self._progress("looking for black and white", len(ids)) as advance:
                limit = self._max_pixels
                return value_range.measure(
                    writer, ids.tolist(), source.read, chosen, max_pixels=limit, progress=advance
                )

        about = f"the {chosen} of {len(ids):,} images of {self._about}"
        said = self._store_of(source).get("pixels", self._key(source, ids, chosen), make, about=about).meta
        return Levels(said["low"], said["high"])

    def decode(
        self, source: Source, ids: Mapping[str, Tensor], spec: ViewSpec, levels: Levels, *, apart: bool = False
    ) -> dict[str, Decoded]:
        """Return the decoded images `ids` of each split of a source; only the split `train` is cropped at random.

        Small images are kept whole, which takes less room than their views and serves all networks. With `apart` train
        has entries of its own, so that those of the other splits serve other draws of train, too.
        """
        evaluated = {name: part for name, part in ids.items() if name != "train"}
        groups = [{"train": ids["train"]}, evaluated] if apart and evaluated and "train" in ids else [ids]
        with at_most(self._max_pixels):  # headers are read before anything is decoded
            sizes = self._header_sizes(source, [_union(group.values()) for group in groups])
            chosen = self._choose(ids, sizes, spec, levels)
            found: dict[str, Decoded] = {}
            for group in groups:
                found |= self._decode_group(source, group, chosen, sizes)
            return found

    def _decode_group(
        self, source: Source, ids: Mapping[str, Tensor], chosen: Mapping[str, PixelForm], sizes: Sizes
    ) -> dict[str, Decoded]:
        """Return the decoded images `ids` of splits that share an entry for each form that is `chosen` for them."""
        splits = {chosen[name]: _union(ids[other] for other in ids if chosen[other] == chosen[name]) for name in ids}
        kept = {form: part for form, part in splits.items() if self._is_kept(source, part, form, sizes)}
        others = [part for form, part in splits.items() if form not in kept]
        decoded: dict[PixelForm, Decoded] = {}
        for form, part in kept.items():
            try:
                decoded[form] = self._decode(source, part, form)
            except (NoRoom, Differing):  # the disk has less room than before, or a header was wrong
                others.append(part)
        if others:
            levels = next(iter(splits)).levels
            checked = self._decode(source, _union(others), PixelForm("nothing", levels=levels))
            decoded |= {form: replace(checked, form=form, kept=False) for form in splits if form not in decoded}
        return {name: decoded[chosen[name]] for name in ids}

    def _choose(self, ids: Mapping[str, Tensor], sizes: Sizes, spec: ViewSpec, levels: Levels) -> dict[str, PixelForm]:
        """Return the form of the images of each split, which depends only on the sizes of all."""
        view = PixelForm("view", view=spec.center, levels=levels)
        whole = PixelForm("original" if sizes.alike else "stored", levels=levels)
        no_larger = 0 < sizes.bytes_of(whole) <= sizes.bytes_of(view)
        if no_larger and (spec.side is None or sizes.longest_shorter_side <= spec.side):
            return dict.fromkeys(ids, whole)
        kind, side = ("nothing", None) if self._pixels == "exact" else ("stored", spec.side)
        cut = PixelForm(kind, side=side, levels=levels)
        return {name: cut if name == "train" and spec.side is not None else view for name in ids}

    def _is_kept(self, source: Source, ids: Tensor, form: PixelForm, sizes: Sizes) -> bool:
        """Return whether the images are in the store in this form already, or would fit into it."""
        if form.kind == "nothing":
            return False
        store, key, _ = self._place(source, ids, form)
        return store.has("pixels", key) or sizes.bytes_of(form, ids) <= store.room_per_kind

    def _header_sizes(self, source: Source, parts: Sequence[Tensor]) -> Sizes:
        """Return the sizes of images from their headers; the ids in each of the `parts` have an entry of their own."""
        found = []
        for ids in parts:
            store, key, there = self._place(source, ids, "sizes")
            make = partial(self._read_sizes, source, there)
            entry = store.get("pixels", key, make, about=f"sizes of {len(there):,} images of {self._about}")
            found.append(entry.tensors["sizes"][torch.searchsorted(there, ids)])
        ids, order = torch.cat([*parts]).sort()
        return Sizes(ids, torch.cat(found)[order])

    def _read_sizes(self, source: Source, ids: Tensor, writer: Writer) -> dict[str, Any]:
        with self._progress("reading sizes", len(ids)) as advance:
            found = header_sizes(ids.tolist(), source.header or source.read, advance)
        writer.tensor("sizes", (len(ids), 2), torch.int32).copy_(torch.tensor(found).view(-1, 2))
        return {}

    def _decode(self, source: Source, ids: Tensor, form: PixelForm) -> Decoded:
        """Return images of a source in a form, from the store or decoded into it."""
        store, key, there = self._place(source, ids, form)

        def make(writer: Writer) -> dict[str, Any]:
            limit = self._max_pixels
            with self._progress("decoding", len(there)) as advance:
                return decode_all(writer, there.tolist(), source.read, form=form, max_pixels=limit, progress=advance)

        entry = store.get("pixels", key, make, about=f"{len(there):,} images of {self._about}, {form.about}")
        return Decoded(source, entry, there, form, kept=form.kind != "nothing")

    def _place(self, source: Source, ids: Tensor, form: PixelForm | str) -> tuple[Store, str, Tensor]:
        """Return store and key of the entry for images of a source, and the ids of all images in it.

        Its key has the identity of the source and the way of decoding. If there is an entry of all images of the
        source, it is used. Otherwise an entry of the images `ids` is used or made, whose key also has these ids.
        """
        every, store = torch.arange(len(source.labels)), self._store_of(source)
        whole = self._key(source, None, form)
        if len(ids) == len(every) or store.has("pixels", whole):
            return store, whole, every
        return store, self._key(source, ids, form), ids

    def _store_of(self, source: Source) -> Store:
        """Return the store for a source: one that keeps nothing if decoding takes no time."""
        return Store(None, budget=0, say=print) if source.identity is None else self._store

    def _key(self, source: Source, ids: Tensor | None, form: PixelForm | str) -> str:
        facts = {
            "source": source.identity,
            "keep": form if isinstance(form, str) else asdict(form),
            "max_pixels": self._max_pixels,
            "ids": None if ids is None else hashlib.sha256(ids.numpy().data).hexdigest(),
            "libraries": [
                *(PIL.__version__, simplejpeg.__version__, torch.__version__, scipy.__version__),
                *image_formats.libraries(),
            ],
            "code": codehash.of(*_CODE),
        }
        return hashing.of_facts(facts)


def _union(parts: Iterable[Tensor]) -> Tensor:
    """Return all ids in ascending order."""
    return torch.cat([*parts]).unique()
