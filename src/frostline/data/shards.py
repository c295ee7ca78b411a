"""Labelled images in WebDataset shards: their splits and labels.

Labels are text, as in a table. A number may stand for a class name; a negative number stands for no label.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from frostline.core.errors import UserError, user_error
from frostline.data import label_columns, shard_class_names, shard_splits
from frostline.data.broken_images import blamed
from frostline.data.decode_all import ProgressBar
from frostline.data.findings import Finding, of_names
from frostline.data.label_columns import LABELS, DataSet, Labels
from frostline.data.layouts import SPLITS
from frostline.data.names import counted, some
from frostline.data.shard_headers import JSON, Wanted
from frostline.data.shard_index import Index, index
from frostline.store.store import Store

_FIELD = "a field, as cls, or a key of the JSON"
_OPTIONS = {
    **dict.fromkeys(SPLITS, "a pattern of shards, or null"),
    "image": "a field, as jpg, or null",
    **dict.fromkeys(("label", "separator", "group", "splits"), f"{_FIELD}, or null"),
    "classes": "a file, or a list of names, or null",
}


@dataclass(frozen=True)
class Sharded:
    """The labelled images of a split."""

    index: Index
    rows: Tensor
    """`(N,)` int64: rows of the images in `index`."""
    labels: tuple[Labels, ...]
    """Labels of each image."""
    groups: tuple[str, ...] | None
    """Group of each image, empty for none; None if groups are not read."""

    def read(self, number: int) -> Image.Image:
        """Open the i-th of these images without decoding it; may raise any exception if it is unreadable."""
        return self.index.open(int(self.rows[number]))

    def name(self, number: int) -> str:
        """Return the name of the i-th of these images: its shard and its file there."""
        return self.index.name(int(self.rows[number]))

    def identity(self) -> str:
        """Return the sha256 (hex) that identifies all of them."""
        return self.index.identity(self.rows)

    def first_alike(self) -> Tensor:
        """Return `(N,)` int64: for each image the index of the first one with the same bytes."""
        return self.index.first_alike(self.rows)


def read(root: str, options: Mapping[str, Any], store: Store, progress: ProgressBar) -> DataSet[Sharded]:
    """Return the content of the shards at `root`, a local or remote folder or pattern such as `train-{000..099}.tar`.

    `options`: the shards of `train`, `val` and `test`, relative to `root`, if their names do not tell; the field of the
    `image`; the fields, or keys of the JSON, of `label` and `group`, null for common names; several for `label` are a
    class each; `separator`, the text between labels; and `classes`, the class names for numbers, as a list or a file
    with one per line. Raises `UserError` if the shards cannot be read this way.
    """
    _check_options(options)
    files = shard_splits.files_of(root, options)
    label, group = options.get("label"), options.get("group")
    given = tuple(label) if isinstance(label, list) else (label,)
    keys = LABELS if label is None else tuple(map(str, given))
    wanted = Wanted(options.get("image"), (*keys, *((str(group),) if group is not None else ())))
    found = {split: index("data.root", own, wanted, store, progress) for split, own in files.items()}
    _check_fields(root, options, found)
    damage = tuple(line for own in found.values() for line in own.damage())
    with blamed(root, damage):
        return _labels_of(root, options, found, given, damage)


def _labels_of(
    root: str,
    options: Mapping[str, Any],
    found: Mapping[str, Index],
    given: tuple[Any, ...],
    damage: tuple[str, ...],
) -> DataSet[Sharded]:
    """Return the content of shards with labels from the fields `given`, or from those with common names."""
    group, separator = options.get("group"), options.get("separator")
    label_in = [_text_of("label", name, list(found.values())) for name in given]
    group_in = _text_of("group", group, list(found.values())) if group is not None else None
    names = shard_class_names.find(root, options.get("classes"), found["train"].shards) if len(label_in) == 1 else ()
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        chosen = options.get("classes") or "null"
        raise user_error("data.options.classes", chosen, f"different names of classes, not {some(twice)} twice")
    several = len(label_in) > 1 or any(
        label_columns.holds_several(own.texts.get(label_in[0], ()), separator) for own in found.values()
    )
    findings: list[Finding] = []
    splits = {}
    for split, own in found.items():
        findings += _told(own)
        texts = [own.texts.get(text, (None,) * len(own)) for text in label_in]
        cells = dict(zip([name or "null" for name in given], texts, strict=True))
        labels = label_columns.of_columns(cells, separator)
        if len(cells) == 1:
            labels = [said and shard_class_names.named(root, own, row, said, names) for row, said in enumerate(labels)]
        if own.reasons and all(said is None for said in labels):
            raise _unreadable(root, split, own)
        splits[split] = _labelled(own, labels, label_in, group_in, findings)
    if not len(splits["train"].rows):
        raise user_error("data.root", root, f"samples of train, with an image and a label ({some(label_in)}) each")
    there = {split: own for split, own in splits.items() if len(own.rows)}
    return DataSet(there, names or (given if len(given) > 1 else ()), several, tuple(findings), damage)


def _check_options(options: Mapping[str, Any]) -> None:
    label_columns.check_options(options, _OPTIONS, one=_FIELD, lists=("label", "classes"))
    names = options.get("classes")
    if isinstance(names, list) and not all(isinstance(name, str | int) for name in names):
        raise user_error("data.options.classes", names, _OPTIONS["classes"])
    if isinstance(options.get("label"), list) and names is not None:
        raise user_error("data.options.classes", names, "null, since each class has its own field")


def _check_fields(root: str, options: Mapping[str, Any], found: Mapping[str, Index]) -> None:
    """Raise `UserError` if no sample of train has an image, or all images of a split are lost in broken shards."""
    for split, own in found.items():
        if len(own) == len(own.reasons) > 0:
            raise _unreadable(root, split, own)
    train = found["train"]
    if len(train):
        return
    if (image := options.get("image")) is not None:
        raise user_error("data.options.image", image, f"a field of samples: {some(train.fields)}", train.fields)
    among = f", but the fields are {some(train.fields)}" if train.fields else ", but there are none"
    raise user_error("data.root", root, f"samples with an image, as 0001.jpg{among}")


def _unreadable(root: str, split: str, own: Index) -> UserError:
    said = "; ".join(f"{own.name(row)}: {reason}" for row, reason in list(own.reasons.items())[:3])
    expected = f"shards of {split} with readable, labelled images, but there is only {said}"
    return user_error("data.root", root, expected)


def _text_of(what: str, given: str | None, found: Sequence[Index]) -> str:
    """Return the key of a label or group in `Index.texts`: the `given` one, or a common one; else `UserError`."""
    there = {text for own in found for text, said in own.texts.items() if any(one is not None for one in said)}
    common = ("cls", *(f"{JSON}:{key}" for key in LABELS), JSON, "txt")
    for text in common if given is None else (given, f"{JSON}:{given}"):
        if text in there:
            return text
    fields = dict.fromkeys(name for own in found for name in own.fields)
    keys = dict.fromkeys(key for own in found for key in own.keys)
    said = some(fields) + (f"; of the JSON: {some(keys)}" if keys else "")
    said += "; a name ends at its first dot" if given is None and any("." in name for name in fields) else ""
    expected = f"a field with text, or a key of the JSON with one text or number, or a list, in each sample ({said})"
    raise user_error(f"data.options.{what}", "null" if given is None else given, expected, [*fields, *keys])


def _field(text: str) -> str:
    """Return the field of a sample that holds a key of `Index.texts`."""
    return JSON if text.startswith(f"{JSON}:") else text


def _labelled(
    own: Index,
    labels: Sequence[Labels | None],
    label_in: Sequence[str],
    group_in: str | None,
    findings: list[Finding],
) -> Sharded:
    """Return the images with a label; findings about the others are added to `findings`."""
    any_labels = next((said for said in labels if said), None)  # for an image that is broken anyway
    known = {row: any_labels if said is None and row in own.reasons else said for row, said in enumerate(labels)}
    kept = {row: said for row, said in known.items() if said is not None}
    damaged = {row: file for text in label_in for row, file in own.unread_in(_field(text)).items() if row not in kept}
    if damaged:
        one, many = "image is left out, as its label", "images are left out, as their labels"
        findings.append(of_names([*damaged.values()], f"{one} cannot be read", f"{many} cannot be read"))
    if without := [own.name(row) for row in range(len(own)) if row not in kept and row not in damaged]:
        findings.append(of_names(without, "image without a label is left out", "images without a label are left out"))
    groups = None
    if group_in is not None:
        every = own.texts.get(group_in, ("",) * len(own))
        if alone := [file for row, file in own.unread_in(_field(group_in)).items() if row in kept]:
            one, many = "image is its own group, as its group", "images are each their own group, as their groups"
            findings.append(of_names(alone, f"{one} cannot be read", f"{many} cannot be read"))
        groups = tuple(label_columns.one_text(every[row]) for row in kept)
    return Sharded(own, torch.tensor([*kept], dtype=torch.int64), tuple(kept.values()), groups)


def _told(own: Index) -> list[Finding]:
    found = [Finding(line, True) for line in own.told]
    if own.imageless:
        left_out = ("sample without an image is left out", "samples without an image are left out")
        found.append(Finding(counted(own.imageless, *left_out), True))
    return found
