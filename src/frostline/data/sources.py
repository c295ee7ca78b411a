"""Where labelled pictures come from: each source gives its own splits, every picture still to be decoded.

What a source says of itself is what its decoded pixels are kept under: for files their names, sizes and times, since
to read them all would take as long as to decode them. A file that is changed without a trace in any of these (the
system sets the time of the last change itself) is not noticed.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from threading import Lock
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
import torchvision
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision import datasets
from torchvision.datasets import VisionDataset

from frostline.core import codehash, plugins
from frostline.core.config import EMBEDDED, OWN_FILES
from frostline.core.errors import user_error
from frostline.core.files import expanded, facts
from frostline.data import duplicates, hub, shards, split_names, tables
from frostline.data.class_names import check_classes, check_names
from frostline.data.decode_all import Progress
from frostline.data.decode_image import open_image
from frostline.data.findings import PAIRS, Finding, Place
from frostline.data.label_columns import Labels
from frostline.data.layouts import lay_out
from frostline.data.listing import Listing, survey
from frostline.data.names import printable, some
from frostline.data.times import Times
from frostline.store.store import Store


@dataclass(frozen=True)
class Source:
    """One split as its source has it."""

    labels: Tensor
    """`(N,)` int64, or multi-label `(N, classes)` bool."""
    classes: tuple[str, ...]
    read: Callable[[int], Image.Image]
    """Opens the i-th picture; raises anything where its file is missing or broken."""
    name: Callable[[int], str]
    """Says which picture the i-th is, for people: its file if it has one."""
    files: Sequence[Path] | None = None
    """Where each picture lies, absolute; None where pictures have no files of their own."""
    header: Callable[[int], Image.Image] | None = None
    """Opens the i-th picture without decoding it, where `read` may decode it."""
    identity: str | None = None
    """sha256 (hex) that stands for all pictures of the split, or None where decoding them takes no time."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """How many files are not pictures by their names: `hidden`, `other`."""
    suffixes: Mapping[str, int] = field(default_factory=dict)
    """The `other` files, by suffix."""
    groups: Tensor | None = None
    """`(N,)` int64: pictures with one number are to be on one side of every split; None where each is its own."""
    splits: Mapping[str, Tensor] | None = None
    """Which of the pictures are of each split, `(M,)` int64, where the source holds several; None for one."""
    times: Times | None = None
    """When pictures were taken, where the latest ones are to be tested on."""
    weights: Tensor | None = None
    """`(N,)` float32, above 0: what each picture counts in the loss; None for all alike."""
    twins: Callable[[], Tensor] | None = None
    """Returns `(N,)` int64, for each picture the first one of the same bytes; None where they are not compared."""
    findings: tuple[Finding, ...] = ()
    """What is to be told of where the pictures come from."""


def open_splits(
    *,
    source: str,
    root: str,
    layout: str,
    missing_classes: str,
    download: bool,
    splits: Mapping[str, Mapping[str, Any]],
    options: Mapping[str, Any],
    store: Store,
    progress: Progress,
) -> dict[str, Source]:
    """Return the splits that the source has of its own, at least `train`, without decoding any picture.

    `source` is `digits`, `glyphs`, `folder`, `table`, `hub`, `shards`, a plugin's name or that of a dataset class of
    `torchvision.datasets`; `splits` and `options` are keyword arguments for the last, `options` for a plugin, a table
    and the like, `layout` and `missing_classes` are for folders. What takes long to find out of many files is kept in
    `store`. Raises `UserError` where files are missing or do not fit.
    """
    place = expanded(root).absolute()
    if source not in (*EMBEDDED, *OWN_FILES):
        if plugin := plugins.load(plugins.SOURCES, source):
            return _plugged(source, plugin(root=place, **options))
        kind = _class(source)
        if not {"train"} <= set(splits) <= {"train", "val", "test"}:
            raise user_error(
                "data.splits", dict(splits), "arguments for train, and for val and test where there are any"
            )
        return {name: _torchvision(kind, place, download, {**options, **splits[name]}) for name in splits}
    if splits:
        raise user_error("data.splits", dict(splits), f"none, since {source} knows its own splits")
    if source == "table":
        return _table(place, options, missing_classes)
    if source in ("hub", "shards"):
        found = (
            _hub(root, options, missing_classes)
            if source == "hub"
            else _shards(root, options, missing_classes, store, progress)
        )
        file = options.get("splits")
        return found if file is None else split_names.applied(found, expanded(file).absolute())
    if source == "glyphs":
        return {"train": _glyphs(options)}
    if options:
        raise user_error("data.options", dict(options), f"none, since {source} has no further settings")
    return _folder(place, layout, missing_classes) if source == "folder" else {"train": _digits()}


def _plugged(name: str, splits: Mapping[str, Source]) -> dict[str, Source]:
    """Return the splits that a plugin opened: a function of `root` and `data.options` to sources by split."""
    if not {"train"} <= set(splits) <= {"train", "val", "test"}:
        expected = f"a plugin that gives train, and val and test where there are any, not {', '.join(splits)}"
        raise user_error("data.source", name, expected)
    return dict(splits)


def _digits() -> Source:
    """1,797 handwritten digits of 8x8 grey pixels 0..16 (doi:10.24432/C50P49), carried by scikit-learn."""
    from sklearn.datasets import load_digits  # a second to import, for this source alone

    images, labels = load_digits(return_X_y=True)
    grey = torch.from_numpy(images).mul(255 / 16).round().to(torch.uint8).view(-1, 8, 8).numpy()
    return Source(
        labels=torch.from_numpy(labels).long(),
        classes=tuple(map(str, range(10))),
        read=lambda index: Image.fromarray(grey[index]),
        name="digit {}".format,
        twins=lambda: duplicates.of_rows(grey),
    )


def _glyphs(options: Mapping[str, Any]) -> Source:
    from frostline.data import glyphs  # brings Matplotlib and SciPy, for this source alone

    expected = inspect.signature(glyphs.render).parameters
    if set(options) != set(expected):
        raise user_error("data.options", dict(options), f"values for {', '.join(expected)}")
    drawing = Lock()  # of many threads that ask, one draws

    def read(index: int) -> Image.Image:
        with drawing:
            pixels = glyphs.render(**options)
        return Image.fromarray(pixels[index, 0].numpy())

    return Source(
        labels=glyphs.labels(options["images_per_class"]),
        classes=glyphs.LETTERS,
        read=read,
        name="glyph {}".format,
        identity=_hash({"glyphs": dict(options), "code": codehash.of("data.glyphs")}),
    )


def _torchvision(kind: type[Any], root: Path, download: bool, arguments: Mapping[str, Any]) -> Source:
    name = kind.__name__
    downloads = "download" in inspect.signature(kind).parameters
    if download and not downloads:
        raise user_error("data.download", "true", f"false, since torchvision cannot download {name}")
    try:
        dataset = kind(root=root, **arguments, **({"download": download} if downloads else {}))
    except (TypeError, ValueError) as error:
        raise user_error("data.splits", dict(arguments), f"arguments of torchvision's {name}: {error}") from error
    except (RuntimeError, OSError) as error:
        hint = "set data.download=true to fetch them" if downloads and not download else str(error).split("\n")[0]
        raise user_error("data.root", root, f"the whole files of {name}: {hint}") from error
    labels = _labels(name, dataset)
    rows = _rows(dataset)
    names = getattr(dataset, "classes", None) or range(int(labels.max()) + 1)
    files = _files(dataset)
    return Source(
        labels=labels,
        classes=tuple(map(str, names)),
        read=lambda index: dataset[index][0],
        name=lambda index: str(files[index]) if files else f"{name} {dict(arguments)} picture {index}",
        files=files or None,
        header=(lambda index: open_image(files[index])) if files else None,
        identity=_hash([name, torchvision.__version__, dict(arguments), _content(dataset, files, root)]),
        twins=_twins(rows, files),
    )


def _files(dataset: Any) -> list[Path]:
    """Return the file of every picture, as far as the dataset keeps a list of them, or nothing."""
    for kept in vars(dataset).values():
        if isinstance(kept, list) and len(kept) == len(dataset):
            first = [item[0] if isinstance(item, tuple) else item for item in kept]
            if all(isinstance(item, str | Path) for item in first) and Path(first[0]).is_absolute():
                return [Path(item) for item in first]
    return []


def _twins(rows: NDArray[Any] | None, files: Sequence[Path]) -> Callable[[], Tensor] | None:
    if rows is not None:
        return lambda: duplicates.of_rows(rows)
    return (lambda: duplicates.of_files(files)) if files else None


def _rows(dataset: Any) -> NDArray[Any] | None:
    """Return the pictures as the dataset has them in memory, a row each, if it has."""
    data = getattr(dataset, "data", None)
    whole = isinstance(data, np.ndarray | Tensor) and len(data) == len(dataset)
    return np.ascontiguousarray(data) if whole else None


def _content(dataset: Any, files: Sequence[Path], root: Path) -> Any:
    """Return what stands for the pictures: their numbers if they are in memory, else their files, else all below."""
    data = getattr(dataset, "data", None)
    if isinstance(data, np.ndarray | Tensor):
        array = np.ascontiguousarray(data)
        return [list(array.shape), hashlib.sha256(array.data).hexdigest()]
    return _manifest(files or sorted(path for path in root.rglob("*") if path.is_file()), root)


def _class(name: str) -> type[Any]:
    """Return the dataset class; the name is looked up among torchvision's own, so that no config can run other code."""
    found = {key: getattr(datasets, key) for key in datasets.__all__}
    kinds = {key: kind for key, kind in found.items() if isinstance(kind, type) and issubclass(kind, VisionDataset)}
    if name not in kinds:
        choices = (*EMBEDDED, *OWN_FILES, *kinds, *plugins.names(plugins.SOURCES))
        expected = f"{', '.join((*EMBEDDED, *OWN_FILES))}, a class of torchvision.datasets or a plugin"
        raise user_error("data.source", name, expected, choices)
    return kinds[name]


def _labels(name: str, dataset: Any) -> Tensor:
    """Return `(N,)` int64: the list that the dataset keeps, or else the labels of its pictures read one by one."""
    kept = next((getattr(dataset, key) for key in ("targets", "labels", "_labels") if hasattr(dataset, key)), None)
    try:
        labels = torch.tensor([int(label) for label in (kept if kept is not None else (x[1] for x in dataset))])
    except (TypeError, ValueError) as error:
        raise user_error("data.source", name, "a dataset with one class per picture") from error
    except OSError as error:
        raise user_error("data.source", name, f"pictures that can all be read, but {error}") from error
    if len(labels) == 0 or labels.min() < 0:
        raise user_error("data.source", name, "pictures that all have a class")
    return labels


def _folder(root: Path, layout: str, missing: str) -> dict[str, Source]:
    """Return the splits that a folder is laid out in, or `train` alone; a split may lack classes if that is `ok`."""
    if not root.is_dir():
        raise user_error("data.root", root, "a folder that exists, with one folder of pictures per class")
    found = lay_out(root, layout)
    listed: dict[str, dict[str, Listing]] = {}
    for split, folders in found.classes.items():
        check_names(folders, root)
        listed[split] = {name: survey(folder) for name, folder in folders.items()}
        empty = [name for name, listing in listed[split].items() if not listing.files]
        if empty and (split == "train" or missing == "refuse"):
            raise user_error("data.root", root, f"pictures in every class folder, but none in {some(empty)} of {split}")
    classes = tuple(listed["train"])
    if len(classes) < 2:
        expected = f"a folder of pictures for each of two or more classes, found {len(classes)}"
        raise user_error("data.root", root, expected)
    sources = {}
    for split, listings in listed.items():
        full = [name for name, listing in listings.items() if listing.files]
        check_classes(split, full, classes, root, missing)
        sources[split] = _labelled(listings, classes, root)
    return {**sources, "train": replace(sources["train"], findings=found.findings)}


def _table(file: Path, options: Mapping[str, Any], missing: str) -> dict[str, Source]:
    """Return the splits that a table names, or `train` alone; a split may lack classes if that is `ok`."""
    found = tables.read(file, options)

    def source(rows: tables.Labelled, labels: Tensor, classes: Sequence[str]) -> Source:
        weights = None if rows.weights is None else torch.tensor(rows.weights)
        return replace(_of_files(rows.files, found.root, labels, classes), weights=weights)

    several, order = found.multi_label, found.classes or ()
    sources = _labelled_by_name(file, found.splits, order, found.findings, missing, source, multi_label=several)
    return _as_one(sources, found)


def _as_one(sources: Mapping[str, Source], found: tables.Table) -> dict[str, Source]:
    """Return the splits of a table as one source, so that a picture is the same to every draw whichever it is in."""
    train = sources["train"]
    if len(sources) == 1:
        return {"train": replace(train, times=found.times)}
    rows = {split: torch.tensor(own.rows) for split, own in found.splits.items()}
    order = torch.cat(list(rows.values())).argsort()
    files = [file for own in found.splits.values() for file in own.files]
    labels = torch.cat([sources[split].labels for split in rows])[order]
    groups = [own for split in rows if (own := sources[split].groups) is not None]

    def placed(finding: Finding) -> Finding:
        shown = tuple(tuple(Place(s, int(rows[s][i])) for s, i in places) for places in finding.shown)
        return replace(finding, shown=shown)

    one = _of_files([files[place] for place in order.tolist()], found.root, labels, train.classes)
    together = torch.cat(groups)[order] if groups else None
    weights = [own for split in rows if (own := sources[split].weights) is not None]
    counted = torch.cat(weights)[order] if weights else None
    told = tuple(map(placed, train.findings))
    one = replace(one, groups=together, weights=counted, times=found.times, splits=rows, findings=told)
    return {"train": one}


def _hub(root: str, options: Mapping[str, Any], missing: str) -> dict[str, Source]:
    """Return the splits of a data set of the hub, or `train` alone; a split may lack classes if that is `ok`."""
    found = hub.read(root, options)

    def source(rows: hub.Pictures, labels: Tensor, classes: Sequence[str]) -> Source:
        names = tuple(classes)
        return Source(labels, names, rows.read, rows.name, identity=rows.identity(), twins=rows.twins)

    several = found.multi_label
    return _labelled_by_name(root, found.splits, found.classes, found.findings, missing, source, multi_label=several)


def _shards(root: str, options: Mapping[str, Any], missing: str, store: Store, progress: Progress) -> dict[str, Source]:
    """Return the splits that shards are of, or `train` alone; a split may lack classes if that is `ok`."""
    found = shards.read(root, options, store, progress)

    def source(own: shards.Sharded, labels: Tensor, classes: Sequence[str]) -> Source:
        left_out = {"hidden": own.index.hidden}
        plain = Source(labels, tuple(classes), own.read, own.name, identity=own.identity(), left_out=left_out)
        return replace(plain, twins=own.twins)

    several = found.multi_label
    return _labelled_by_name(root, found.splits, found.classes, found.findings, missing, source, multi_label=several)


class _Named(Protocol):
    """Pictures of one split, whose classes are told by name."""

    @property
    def labels(self) -> Sequence[Labels]: ...

    @property
    def groups(self) -> Sequence[str] | None: ...


_Rows = TypeVar("_Rows", bound=_Named)


def _labelled_by_name(
    root: object,
    splits: Mapping[str, _Rows],
    order: Sequence[str],
    findings: Sequence[Finding],
    missing: str,
    source: Callable[[_Rows, Tensor, Sequence[str]], Source],
    *,
    multi_label: bool,
) -> dict[str, Source]:
    """Return the splits of what is at `root`, its classes in the given order if it has one, and its groups numbered.

    `source` makes one of pictures, their labels and the names of all classes. Raises `UserError` where names cannot
    be told apart, or splits differ in classes that may not be `missing`.
    """
    said = {split: set(chain.from_iterable(rows.labels)) for split, rows in splits.items()}
    known = said["train"]
    classes = tuple(name for name in order if name in known) or tuple(sorted(known, key=_counting))
    check_names(classes, root)
    if len(classes) < 2:
        raise user_error("data.root", root, f"pictures of two or more classes, found {some(classes)}")
    for split, names in said.items():
        check_classes(split, names, classes, root, missing)
    number = {name: label for label, name in enumerate(classes)}
    codes: dict[str, int] = {}
    sources = {}
    for split, rows in splits.items():
        numbers = [[number[name] for name in names] for names in rows.labels]
        labels = _one_hot(numbers, len(classes)) if multi_label else torch.tensor(numbers)[:, 0]
        plain = source(rows, labels, classes)
        sources[split] = replace(plain, groups=_numbered(rows.groups, codes))
    told = (*findings, *_pictureless(order, known), *_across(sources, codes))
    return {**sources, "train": replace(sources["train"], findings=told)}


def _one_hot(numbers: Sequence[Sequence[int]], classes: int) -> Tensor:
    """Return `(N, classes)` bool: which of them each picture is of, by their numbers."""
    found = torch.zeros(len(numbers), classes, dtype=torch.bool)
    rows = torch.arange(len(numbers)).repeat_interleave(torch.tensor([len(each) for each in numbers]))
    found[rows, torch.tensor([*chain.from_iterable(numbers)], dtype=torch.int64)] = True
    return found


def _pictureless(names: Sequence[str], known: Collection[str]) -> list[Finding]:
    """Return what is to be told of names of classes that no picture of train has."""
    unused = [name for name in names if name not in known]
    if not unused:
        return []
    told = f"{len(unused):,} of {len(names):,} names of classes are left out, as train has no picture of {some(unused)}"
    return [Finding(told, pictures=tuple(unused))]


def _counting(name: str) -> tuple[int, int, str]:
    """Return by what classes are sorted: numbers as numbers, before all else."""
    return (0, int(name), name) if name.isascii() and name.isdecimal() else (1, 0, name)


def _numbered(groups: Sequence[str] | None, codes: dict[str, int]) -> Tensor | None:
    """Return the numbers of groups, which `codes` remembers; who has none is a group of its own."""
    if groups is None:
        return None
    return torch.tensor([codes.setdefault(name or f"\0{len(codes)}", len(codes)) for name in groups])


def _across(sources: Mapping[str, Source], codes: Mapping[str, int]) -> list[Finding]:
    """Return what is to be told of groups that the source's own splits tear apart."""
    names = {number: name for name, number in codes.items()}
    found = []
    for one, two in (("train", "val"), ("train", "test"), ("val", "test")):
        both = {split: sources[split].groups for split in (one, two) if split in sources}
        first = {split: _first_of_each(groups) for split, groups in both.items() if groups is not None}
        if len(first) == 2 and (shared := sorted(first[one].keys() & first[two].keys(), key=names.__getitem__)):
            named = [names[number] for number in shared]
            told = f"{len(shared):,} groups have pictures in {one} and in {two}: {some(named)}"
            places = tuple(tuple(Place(split, first[split][number]) for split in first) for number in shared[:PAIRS])
            found.append(Finding(told, True, tuple(named), places))
    return found


def _first_of_each(groups: Tensor) -> dict[int, int]:
    """Return for each group its first picture."""
    return {number: row for row, number in reversed(list(enumerate(groups.tolist())))}


def _labelled(listings: Mapping[str, Listing], classes: Sequence[str], root: Path) -> Source:
    """Return the pictures of a split."""
    number = {name: label for label, name in enumerate(classes)}
    flat = [(file, number[name]) for name, listing in listings.items() for file in listing.files]
    files = [file for file, _ in flat]
    other = sum((listing.other for listing in listings.values()), Counter[str]())
    left_out = {"hidden": sum(listing.hidden for listing in listings.values()), "other": other.total()}
    plain = _of_files(files, root, torch.tensor([label for _, label in flat]), classes)
    return replace(plain, left_out=left_out, suffixes=other)


def _of_files(files: Sequence[Path], root: Path, labels: Tensor, classes: Sequence[str]) -> Source:
    """Return the pictures in `files`, which are named by their place in `root`."""
    return Source(
        labels=labels,
        classes=tuple(classes),
        read=lambda index: open_image(files[index]),
        name=lambda index: printable(str(files[index].relative_to(root))),
        files=files,
        identity=_hash(_manifest(files, root)),
        twins=lambda: duplicates.of_files(files),
    )


def _manifest(files: Iterable[Path], root: Path) -> list[tuple[object, ...]]:
    """Return name, size and times of every file; those of a link are its file's."""
    found: list[tuple[object, ...]] = []
    above = f"{root}{os.sep}"
    for path in map(str, files):
        inside = path.startswith(above)  # what relpath says then, too, in a tenth of its time
        name = os.fsencode(path[len(above) :] if inside else os.path.relpath(path, root)).hex()
        found.append((name, *facts(path)))
    return found


def _hash(known: object) -> str:
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()
