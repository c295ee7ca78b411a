"""Data sets of torchvision as sources: look up the class, and read its labels, files and identity."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from numpy.typing import NDArray
from torch import Tensor
from torchvision import datasets
from torchvision.datasets import VisionDataset

from frostline.core import plugins
from frostline.core.config import EMBEDDED, OWN_FILES
from frostline.core.errors import user_error
from frostline.data import duplicates
from frostline.data.open_image import open_image
from frostline.data.source import Source, manifest
from frostline.store import hashing


def splits(
    name: str, root: Path, given: Mapping[str, Mapping[str, Any]], options: Mapping[str, Any], *, download: bool
) -> dict[str, Source]:
    """Return the splits of a dataset class of torchvision, each constructed with its `given` arguments and `options`.

    Raises `UserError` for any other name, so that no config can name other code, and for arguments that do not fit.
    """
    found = {key: getattr(datasets, key) for key in datasets.__all__}
    kinds = {key: kind for key, kind in found.items() if isinstance(kind, type) and issubclass(kind, VisionDataset)}
    if name not in kinds:
        choices = (*EMBEDDED, *OWN_FILES, *kinds, *plugins.names(plugins.SOURCES))
        expected = f"{', '.join((*EMBEDDED, *OWN_FILES))}, a class of torchvision.datasets or a plugin"
        raise user_error("data.source", name, expected, choices)
    if not {"train"} <= set(given) <= {"train", "val", "test"}:
        expected = "arguments for train, and for val and test if the data set has them"
        raise user_error("data.splits", dict(given), expected)
    return {split: _source(kinds[name], root, download, {**options, **own}) for split, own in given.items()}


def _source(kind: type[Any], root: Path, download: bool, arguments: Mapping[str, Any]) -> Source:
    """Return one split of a data set, constructed with `arguments`, and downloaded if `download`; else `UserError`."""
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
        raise user_error("data.root", root, f"the complete files of {name}: {hint}") from error
    labels = _labels(name, dataset)
    rows = _rows(dataset)
    names = getattr(dataset, "classes", None) or range(int(labels.max()) + 1)
    files = _files(dataset)
    return Source(
        labels=labels,
        classes=tuple(map(str, names)),
        read=lambda index: dataset[index][0],
        name=lambda index: str(files[index]) if files else f"{name} {dict(arguments)} image {index}",
        files=files or None,
        header=(lambda index: open_image(files[index])) if files else None,
        identity=hashing.of_facts([name, torchvision.__version__, dict(arguments), _content(rows, files, root)]),
        first_alike=_first_alike(rows, files),
    )


def _files(dataset: Any) -> list[Path]:
    """Return the file of every image, from a list that the dataset keeps; empty if it keeps none."""
    for kept in vars(dataset).values():
        if isinstance(kept, list) and len(kept) == len(dataset):
            first = [item[0] if isinstance(item, tuple) else item for item in kept]
            if all(isinstance(item, str | Path) for item in first) and Path(first[0]).is_absolute():
                return [Path(item) for item in first]
    return []


def _first_alike(rows: NDArray[Any] | None, files: Sequence[Path]) -> Callable[[], Tensor] | None:
    if rows is not None:
        return lambda: duplicates.of_rows(rows)
    return (lambda: duplicates.of_files(files)) if files else None


def _rows(dataset: Any) -> NDArray[Any] | None:
    """Return the images that the dataset holds in memory, a row each; None if it does not."""
    data = getattr(dataset, "data", None)
    return np.ascontiguousarray(data) if isinstance(data, np.ndarray | Tensor) else None


def _content(rows: NDArray[Any] | None, files: Sequence[Path], root: Path) -> Any:
    """Return facts that identify the images: a hash of the array in memory, else their files, else all below `root`."""
    if rows is not None:
        return [list(rows.shape), hashlib.sha256(rows.data).hexdigest()]
    return manifest(files or sorted(path for path in root.rglob("*") if path.is_file()), root)


def _labels(name: str, dataset: Any) -> Tensor:
    """Return `(N,)` int64: the labels in the list that the dataset keeps, else read image by image."""
    kept = next((getattr(dataset, key) for key in ("targets", "labels", "_labels") if hasattr(dataset, key)), None)
    try:
        labels = torch.tensor([int(label) for label in (kept if kept is not None else (x[1] for x in dataset))])
    except (TypeError, ValueError) as error:
        raise user_error("data.source", name, "a dataset with one class per image") from error
    except OSError as error:
        raise user_error("data.source", name, f"images that can all be read, but {error}") from error
    if len(labels) == 0 or labels.min() < 0:
        raise user_error("data.source", name, "images that all have a class")
    return labels
