"""Open a data source by name: its own splits of labelled images, not yet decoded."""

from __future__ import annotations

import functools
import inspect
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from itertools import chain
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from frostline.core import codehash, plugins
from frostline.core.config import EMBEDDED, OWN_FILES, DataConfig
from frostline.core.errors import user_error
from frostline.core.files import absolute
from frostline.data import (
    duplicates,
    hub,
    leftovers,
    numbered_classes,
    plugin_source,
    shards,
    split_names,
    tables,
    torchvision_data,
)
from frostline.data.broken_images import blamed
from frostline.data.decode_all import ProgressBar
from frostline.data.findings import Finding
from frostline.data.hub_images import HubImages
from frostline.data.label_columns import DataSet
from frostline.data.layouts import lay_out, merged, subfolders
from frostline.data.listing import Listing, survey
from frostline.data.names import counted, printable, some
from frostline.data.numbered_classes import check_classes, check_names
from frostline.data.roots import require_folder
from frostline.data.shards import Sharded
from frostline.data.source import Source, of_files
from frostline.store import hashing
from frostline.store.store import Store


def open_splits(config: DataConfig, store: Store, progress: ProgressBar) -> dict[str, Source]:
    """Return the splits that `config.source` provides, at least `train`, without decoding any image.

    `splits` and `options` are keyword arguments of a class in `torchvision.datasets`; `options` also of a plugin, a
    table and others; `layout` and `missing_classes` are for folders. Results of long scans of files are kept in
    `store`. Raises `UserError` if files are missing or do not fit.
    """
    source, root, splits, options = config.source, config.root, config.splits, config.options
    place, missing = absolute(root), config.missing_classes
    if source not in EMBEDDED and not root.strip():
        raise user_error("data.root", root, "the place of the images; . is the working directory")
    if source not in (*EMBEDDED, *OWN_FILES):
        if plugin := plugins.load(plugins.SOURCES, source):
            return plugin_source.splits(source, plugin, place, options)
        return torchvision_data.splits(source, place, splits, options, download=config.download)
    if splits:
        raise user_error("data.splits", dict(splits), f"none, since {source} defines its own splits")
    if source == "table":
        return _table(place, options, missing)
    if source in ("hub", "shards"):
        read = hub.read(root, options) if source == "hub" else shards.read(root, options, store, progress)
        found, file = _without_files(read, root, missing), options.get("splits")
        with blamed(root, found["train"].damage):
            return found if file is None else split_names.applied(found, absolute(file))
    if source == "glyphs":
        return {"train": _glyphs(options)}
    if options:
        raise user_error("data.options", dict(options), f"none, since {source} has no options")
    return _folder(place, config.layout, missing) if source == "folder" else {"train": _digits()}


def _digits() -> Source:
    """1,797 handwritten digits of 8x8 grey pixels 0..16 (doi:10.24432/C50P49), from scikit-learn's package."""
    grey, labels = _read_digits()
    return Source(
        labels=labels.clone(),
        classes=tuple(map(str, range(10))),
        read=lambda index: Image.fromarray(grey[index]),
        name="digit {}".format,
        first_alike=lambda: duplicates.of_rows(grey),
    )


@functools.cache
def _read_digits() -> tuple[NDArray[np.uint8], Tensor]:
    """Return the images `(1797, 8, 8)` and their labels from scikit-learn's file; importing it would take a second."""
    file = Path(str(metadata.distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")))
    if file.is_file():
        table = np.loadtxt(file, np.uint8, delimiter=",")
        pixels, labels = table[:, :-1], table[:, -1]
    else:
        from sklearn.datasets import load_digits

        pixels, labels = load_digits(return_X_y=True)
    grey = torch.from_numpy(pixels).mul(255 / 16).round().to(torch.uint8).view(-1, 8, 8).numpy()
    return grey, torch.from_numpy(labels).long()


def _glyphs(options: Mapping[str, Any]) -> Source:
    from frostline.data import glyphs  # imports Matplotlib and SciPy, which only this source needs

    expected = inspect.signature(glyphs.render).parameters
    if set(options) != set(expected):
        raise user_error("data.options", dict(options), f"values for {', '.join(expected)}")
    drawing = Lock()  # one thread draws while the others wait

    def read(index: int) -> Image.Image:
        with drawing:
            pixels = glyphs.render(**options)
        return Image.fromarray(pixels[index, 0].numpy())

    return Source(
        labels=glyphs.labels(options["images_per_class"]),
        classes=glyphs.LETTERS,
        read=read,
        name="glyph {}".format,
        identity=hashing.of_facts({"glyphs": dict(options), "code": codehash.of("data.glyphs")}),
    )


def _folder(root: Path, layout: str, missing: str) -> dict[str, Source]:
    """Return the splits of a folder, or `train` alone; val and test may lack classes if `missing` is `ok`."""
    require_folder(root)
    found = lay_out(root, layout)
    listed: dict[str, dict[str, Listing]] = {}
    for split, folders in found.classes.items():
        check_names(folders, root)
        listed[split] = {name: survey(folder) for name, folder in folders.items()}
        empty = [name for name, listing in listed[split].items() if not listing.files]
        if empty and (split == "train" or missing == "refuse"):
            raise user_error("data.root", root, f"images in every class folder, but none in {some(empty)} of {split}")
    classes = tuple(listed["train"])
    if len(classes) < 2:
        expected = "a folder of images for each of two or more classes"
        raise user_error("data.root", root, f"{expected}, found {_instead(root, classes)}")
    sources = {}
    for split, listings in listed.items():
        full = [name for name, listing in listings.items() if listing.files]
        check_classes(split, full, classes, root, missing)
        sources[split] = _labelled(listings, classes, root)
    own = ((found.classes[split][name], one.files) for split, named in listed.items() for name, one in named.items())
    return _telling(sources, found.findings, merged(root, own))


def _instead(root: Path, classes: Sequence[str]) -> str:
    """Return what a folder has in place of two or more classes, and what to do about it."""
    if classes:
        only = root / classes[0]
        deeper = only.is_dir() and len(subfolders(only)) > 1
        return "1" + (f", with folders in it: are the classes in data.root={printable(str(only))}?" if deeper else "")
    there = survey(root)
    if there.files:
        images = counted(len(there.files), "image", "images")
        return f"0, but {images} without one: name the folder above, or use data=table"
    return "; ".join(filter(None, ["0", leftovers.describe(there.left.other)]))


def _table(file: Path, options: Mapping[str, Any], missing: str) -> dict[str, Source]:
    """Return the images of a table as one source, which may hold several splits.

    So the random draws of an image do not depend on its split. A split may lack classes if `missing` is `ok`.
    """
    found = tables.read(file, options)
    ids = {split: torch.tensor(own.rows) for split, own in found.splits.items()}
    order = torch.cat([*ids.values()]).argsort()
    said = numbered_classes.number(file, found.splits, found.classes, missing, multi_label=found.multi_label, ids=ids)

    def joined(parts: Iterable[Tensor | None]) -> Tensor | None:
        there = [part for part in parts if part is not None]
        return torch.cat(there)[order] if there else None

    files = [file for own in found.splits.values() for file in own.files]
    labels = torch.cat([*said.labels.values()])[order]
    weights = (None if own.weights is None else torch.tensor(own.weights) for own in found.splits.values())
    whole = replace(
        of_files([files[place] for place in order.tolist()], found.root, labels, said.classes),
        groups=joined(said.groups.values()),
        group_names=said.group_names,
        weights=joined(weights),
        times=found.times,
        splits=ids if len(ids) > 1 else None,
        findings=(*found.findings, *said.findings),
    )
    return {"train": whole}


def _without_files(found: DataSet[HubImages] | DataSet[Sharded], root: str, missing: str) -> dict[str, Source]:
    """Return the splits of a data set of the hub or of shards, or `train` alone.

    A split may lack classes if `missing` is `ok`.
    """
    with blamed(root, found.damage):
        said = numbered_classes.number(root, found.splits, found.classes, missing, multi_label=found.multi_label)
    sources = {
        split: Source(
            labels=said.labels[split],
            classes=said.classes,
            read=own.read,
            name=own.name,
            identity=own.identity(),
            left_out={"hidden": own.index.hidden} if isinstance(own, Sharded) else {},
            groups=said.groups[split],
            group_names=said.group_names,
            first_alike=own.first_alike,
            damage=found.damage if split == "train" else (),
        )
        for split, own in found.splits.items()
    }
    return _telling(sources, found.findings, said.findings)


def _telling(sources: dict[str, Source], *findings: Iterable[Finding]) -> dict[str, Source]:
    return {**sources, "train": replace(sources["train"], findings=tuple(chain.from_iterable(findings)))}


def _labelled(listings: Mapping[str, Listing], classes: Sequence[str], root: Path) -> Source:
    """Return a split as a source, labelled by its class folders."""
    number = {name: label for label, name in enumerate(classes)}
    flat = [(file, number[name]) for name, listing in listings.items() for file in listing.files]
    files = [file for file, _ in flat]
    other = sum((listing.left.other for listing in listings.values()), Counter[str]())
    left_out = {"hidden": sum(listing.left.hidden for listing in listings.values()), "other": other.total()}
    plain = of_files(files, root, torch.tensor([label for _, label in flat]), classes)
    return replace(plain, left_out=left_out, suffixes=other)
