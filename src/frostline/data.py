"""Labelled images: any source, decoded once into the store, split into train, validation and test."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict, Unpack

import PIL
import simplejpeg
import torch
from torch import Tensor

from frostline import environment
from frostline.config import UserError, user_error
from frostline.decoding import Progress, decode_all
from frostline.entries import Entry
from frostline.mapped import Rows
from frostline.pixels import CONVERSIONS
from frostline.sources import Source, open_splits
from frostline.splitting import Part, divide
from frostline.store import Store, Writer


class Request(TypedDict):
    """Which images, and how they are split: the fields of `DataConfig` of the same names."""

    source: str
    root: str
    download: bool
    splits: Mapping[str, Mapping[str, Any]]
    val_fraction: float
    test_fraction: float
    split_seed: int
    fraction: float
    limit: int | None
    decode_size: int | None
    skip_bad: bool
    max_pixels: int
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Split:
    """Images of one purpose, row by row."""

    pixels: Rows
    """`(N, 3, H, W)` uint8, mapped from the store or in memory."""
    sizes: Tensor
    """`(N, 2)` int32: width and height of the original picture."""
    labels: Tensor
    """`(N,)` int64."""
    ids: Tensor
    """`(N,)` int64: index within the split of the source; addresses the image's randomness."""
    digest: str
    """sha256 (hex) over pixels, sizes and ids: all that a view of an image depends on, and no label."""

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Data:
    """What a run learns from, is selected on, and is tested on."""

    train: Split
    val: Split
    test: Split
    classes: tuple[str, ...]
    fingerprint: str
    """sha256 (hex) over all splits, their labels included, and the class names."""
    counts: dict[str, int]
    """Pictures of all splits that were converted, by `pixels.CONVERSIONS`; `skipped` as broken; and files left out
    since they are `hidden` or, by their names, `other` than pictures. What is not there is not counted."""


class BadPictures(UserError):
    """Some pictures cannot be read."""

    reasons: tuple[tuple[str, str], ...] = ()
    """Every one of them by name, and what is wrong with it."""


_last: dict[str, Data] = {}


def load(*, store: Store, progress: Progress, **request: Unpack[Request]) -> Data:
    """Return the splits, decoded into `store` by whoever asks first.

    A split that the source lacks is taken from its training split, stratified: first test, then val. `fraction` and
    `limit` then shrink train, and what is left out is neither decoded nor checked. The last result is kept, since the
    runs of a sweep ask for the same images again and again. Raises `UserError` where images are missing or cannot be
    split so, `BadPictures` where some are broken and `skip_bad` is not set.
    """
    key = json.dumps({**request, "root": str(_root(request)), "store": str(store.folder)}, sort_keys=True)
    if key not in _last:
        _last.clear()  # before loading: two data sets may not fit into memory at once
        _last[key] = _assemble(_divide(request), request, store, progress)
    return _last[key]


def _root(request: Request) -> Path:
    return Path(request["root"]).expanduser().absolute()


def _divide(request: Request) -> dict[str, Part]:
    found = open_splits(
        source=request["source"],
        root=_root(request),
        download=request["download"],
        splits=request["splits"],
        options=request["options"],
    )
    return divide(
        found,
        val_fraction=request["val_fraction"],
        test_fraction=request["test_fraction"],
        seed=request["split_seed"],
        fraction=request["fraction"],
        limit=request["limit"],
    )


@dataclass(frozen=True)
class _Decoded:
    """Pictures of one source as the store has them."""

    entry: Entry
    ids: Tensor

    def rows(self, part: Part) -> Tensor:
        return torch.searchsorted(self.ids, part.ids)

    @property
    def bad(self) -> dict[int, str]:
        return dict(self.entry.meta["bad"])


def _assemble(parts: Mapping[str, Part], request: Request, store: Store, progress: Progress) -> Data:
    sources = {id(part.source): part.source for part in parts.values()}
    decoded = {
        key: _decode(source, [part for part in parts.values() if part.source is source], request, store, progress)
        for key, source in sources.items()
    }
    good = {name: _without(part, decoded[id(part.source)].bad) for name, part in parts.items()}
    _check_bad(parts, good, decoded, request)
    names = ("train", "val", "test")
    train, val, test = (_split(good[name], decoded[id(good[name].source)]) for name in names)
    if len({split.pixels.shape[1:] for split in (train, val, test)}) > 1:
        raise user_error("data.decode_size", "null", "a side in pixels, since the splits differ in the size of images")
    classes = parts["train"].source.classes
    pairs = [(part, decoded[id(part.source)]) for part in (good[name] for name in names)]
    counts = _conversions(pairs) | _left_out(sources.values())
    if skipped := sum(len(parts[name].ids) - len(good[name].ids) for name in names):
        counts["skipped"] = skipped
    return Data(train, val, test, classes, _fingerprint((train, val, test), classes), counts)


def _decode(source: Source, parts: Sequence[Part], request: Request, store: Store, progress: Progress) -> _Decoded:
    """Return the pictures of a source that some of its splits ask for.

    They are kept under what stands for the source and the way of decoding. Where all of its pictures were decoded
    before, a part of them is found there; else only those asked for are decoded, and kept under their ids too.
    """
    ids = torch.cat([part.ids for part in parts]).unique()
    every = torch.arange(len(source.labels))
    if source.identity is None:
        store = Store(None, budget=0, say=print)
    whole, some = (_key(source, request, chosen) for chosen in (None, ids))
    if len(ids) == len(every) or (source.identity is not None and store.has("pixels", whole)):
        key, ids = whole, every
    else:
        key = some

    def make(writer: Writer) -> dict[str, Any]:
        with progress("decoding", len(ids)) as advance:
            return decode_all(
                writer,
                ids.tolist(),
                source.read,
                size=request["decode_size"],
                max_pixels=request["max_pixels"],
                progress=advance,
            )

    side = request["decode_size"]
    where = "" if request["source"] == "glyphs" else f" in {request['root']}"
    about = f"{len(ids):,} images of {request['source']}{where}" + (f" at {side}x{side}" if side else "")
    return _Decoded(store.get("pixels", key, make, about=about), ids)


def _key(source: Source, request: Request, ids: Tensor | None) -> str:
    facts = {
        "source": source.identity,
        "decode_size": request["decode_size"],
        "max_pixels": request["max_pixels"],
        "ids": None if ids is None else hashlib.sha256(ids.numpy().data).hexdigest(),
        "libraries": [PIL.__version__, simplejpeg.__version__, torch.__version__],
        "code": environment.code_hash(("pixels", "decoding")),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _without(part: Part, bad: Mapping[int, str]) -> Part:
    if not bad:
        return part
    keep = torch.tensor([index not in bad for index in part.ids.tolist()])
    return replace(part, ids=part.ids[keep])


def _check_bad(
    parts: Mapping[str, Part], good: Mapping[str, Part], decoded: Mapping[int, _Decoded], request: Request
) -> None:
    """Raise the error for broken pictures, or for a class or split that is lost without them."""
    reasons = []
    for name, part in parts.items():
        bad = decoded[id(part.source)].bad
        reasons += [(part.source.name(i), bad[i]) for i in part.ids.tolist() if i in bad]
        lost = set(part.labels.tolist()) - set(good[name].labels.tolist())
        if request["skip_bad"] and (lost if name == "train" else not len(good[name].ids)):
            classes = ", ".join(part.source.classes[label] for label in sorted(lost)[:5])
            raise user_error(
                "data.skip_bad", "true", f"pictures that can be read in {name} of {classes}, but all are broken"
            )
    if reasons and not request["skip_bad"]:
        count = sum(len(part.ids) for part in parts.values())
        some = "; ".join(f"{name}: {reason}" for name, reason in reasons[:3]) + ("; ..." if len(reasons) > 3 else "")
        expected = f"pictures that can all be read, but {len(reasons):,} of {count:,} cannot ({some})"
        error = BadPictures(f"{user_error('data.root', request['root'], expected)}; data.skip_bad=true leaves them out")
        error.reasons = tuple(sorted(reasons))
        raise error


def _split(part: Part, decoded: _Decoded) -> Split:
    tensors, rows = decoded.entry.tensors, decoded.rows(part)
    pixels, sizes = Rows(tensors["pixels"], rows), tensors["sizes"][rows]
    digest = hashlib.sha256(f"{tuple(pixels.shape)}".encode())
    for tensor in (tensors["digests"][rows], sizes, part.ids):
        digest.update(tensor.numpy().data)
    return Split(pixels, sizes, part.labels, part.ids, digest.hexdigest())


def _conversions(pairs: Sequence[tuple[Part, _Decoded]]) -> dict[str, int]:
    done = torch.cat([decoded.entry.tensors["done"][decoded.rows(part)] for part, decoded in pairs]).long()
    counts = {name: int((done >> bit & 1).sum()) for bit, name in enumerate(CONVERSIONS)}
    return {name: count for name, count in counts.items() if count}


def _left_out(sources: Iterable[Source]) -> dict[str, int]:
    counts = Counter[str]()
    for source in sources:
        counts.update(source.left_out)
    return {name: count for name, count in counts.items() if count}


def _fingerprint(splits: Iterable[Split], classes: tuple[str, ...]) -> str:
    digest = hashlib.sha256(json.dumps(classes).encode())
    for split in splits:
        digest.update(split.digest.encode())
        digest.update(split.labels.numpy().data)
    return digest.hexdigest()
