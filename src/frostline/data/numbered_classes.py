"""Check class names, and number classes and groups that are given by name, consistently in all splits."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

import torch
from torch import Tensor

from frostline.core.errors import user_error
from frostline.data.findings import PAIRS, Finding, Place
from frostline.data.label_columns import Labels
from frostline.data.names import counted, is_text, printable, some

_OWN = "\0"  # begins the name that stands for the group of an image without one


class Named(Protocol):
    """Images of a split, with classes and groups given by name."""

    @property
    def labels(self) -> Sequence[Labels]:
        """Class names of each image."""

    @property
    def groups(self) -> Sequence[str] | None:
        """Group name of each image, empty if it has no group; None if there are no groups."""


@dataclass(frozen=True)
class Numbered:
    """Numbered classes and groups."""

    classes: tuple[str, ...]
    labels: Mapping[str, Tensor]
    """For each split, `(N,)` int64, or multi-label `(N, classes)` bool."""
    groups: Mapping[str, Tensor | None]
    """For each split, `(N,)` int64; None if it has no groups."""
    group_names: tuple[str, ...]
    """Name of each group by its number, empty for an image without a group."""
    findings: tuple[Finding, ...]


def number(
    root: object,
    splits: Mapping[str, Named],
    order: Sequence[str],
    missing: str,
    *,
    multi_label: bool,
    ids: Mapping[str, Tensor] | None = None,
) -> Numbered:
    """Return the numbers of classes, in the given `order` if it is not empty, and of groups, for the data at `root`.

    Findings refer to images by `ids` of each split, or by their positions if None. Raises `UserError` if names are
    ambiguous, or splits differ in classes and `missing` is `refuse`.
    """
    said = {split: set(chain.from_iterable(rows.labels)) for split, rows in splits.items()}
    known = said["train"]
    classes = tuple(name for name in order if name in known) or tuple(sorted(known, key=_counting))
    check_names(classes, root)
    if len(classes) < 2:
        raise user_error("data.root", root, f"images of two or more classes, found {some(classes)}")
    for split, names in said.items():
        check_classes(split, names, classes, root, missing)
    place = {name: label for label, name in enumerate(classes)}
    labels = {}
    for split, rows in splits.items():
        numbers = [[place[name] for name in names] for names in rows.labels]
        labels[split] = _one_hot(numbers, len(classes)) if multi_label else torch.tensor(numbers)[:, 0]
    codes: dict[str, int] = {}
    groups = {split: _numbered(rows.groups, codes) for split, rows in splits.items()}
    group_names = tuple("" if name.startswith(_OWN) else name for name in codes)
    return Numbered(classes, labels, groups, group_names, (*_imageless(order, known), *_across(groups, codes, ids)))


def _one_hot(numbers: Sequence[Sequence[int]], classes: int) -> Tensor:
    """Return `(N, classes)` bool from the class numbers of each image."""
    found = torch.zeros(len(numbers), classes, dtype=torch.bool)
    rows = torch.arange(len(numbers)).repeat_interleave(torch.tensor([len(each) for each in numbers]))
    found[rows, torch.tensor([*chain.from_iterable(numbers)], dtype=torch.int64)] = True
    return found


def _imageless(names: Sequence[str], known: Collection[str]) -> list[Finding]:
    """Return a finding about class names that no training image has."""
    unused = [name for name in names if name not in known]
    if not unused:
        return []
    left = "is left out" if len(unused) == 1 else "are left out"
    told = f"{len(unused):,} of {len(names):,} class names {left}, as train has no image of {some(unused)}"
    return [Finding(told, images=tuple(unused))]


def _counting(name: str) -> tuple[int, int, str]:
    """Return the sort key of a class name: numbers by value first, then other names."""
    return (0, int(name), name) if name.isascii() and name.isdecimal() else (1, 0, name)


def _numbered(groups: Sequence[str] | None, codes: dict[str, int]) -> Tensor | None:
    """Return the numbers of groups, added to `codes`; an image without a group gets a new number."""
    if groups is None:
        return None
    return torch.tensor([codes.setdefault(name or f"{_OWN}{len(codes)}", len(codes)) for name in groups])


def _across(
    groups: Mapping[str, Tensor | None], codes: Mapping[str, int], ids: Mapping[str, Tensor] | None
) -> list[Finding]:
    """Return findings about groups that have images in two splits."""
    names = {number: name for name, number in codes.items()}
    first = {split: _first_of_each(own) for split, own in groups.items() if own is not None}

    def place(split: str, number: int) -> Place:
        row = first[split][number]
        return Place(split, row if ids is None else int(ids[split][row]))

    found = []
    for pair in (("train", "val"), ("train", "test"), ("val", "test")):
        both = [first[split].keys() for split in pair if split in first]
        if len(both) == 2 and (shared := sorted(both[0] & both[1], key=names.__getitem__)):
            named = [names[number] for number in shared]
            groups_have = counted(len(shared), "group has", "groups have")
            told = f"{groups_have} images in {pair[0]} and in {pair[1]}: {some(named)}"
            places = tuple(tuple(place(split, number) for split in pair) for number in shared[:PAIRS])
            found.append(Finding(told, True, tuple(named), places))
    return found


def _first_of_each(groups: Tensor) -> dict[int, int]:
    """Return the position of the first image of each group."""
    return {number: row for row, number in reversed(list(enumerate(groups.tolist())))}


def check_names(names: Iterable[str], top: object) -> None:
    """Raise `UserError` if a name is not text, or two differ only in case, blanks or Unicode normalisation."""
    names = list(names)
    if odd := [name for name in names if not is_text(name)]:
        raise user_error("data.root", top, f"class names that are a line of UTF-8 text, not {some(odd)}")
    seen: dict[str, str] = {}
    for name in names:
        if (other := seen.setdefault(_meant(name), name)) != name:
            both = f"{spelled(other)} and {spelled(name)}"
            raise user_error("data.root", top, f"one spelling for each class, not {both}; join or rename them")


def check_classes(split: str, found: Collection[str], trained: Collection[str], root: object, missing: str) -> None:
    """Raise `UserError` if a split has a class that train lacks, or lacks one and `missing` is `refuse`."""
    extra, lost = sorted(set(found) - set(trained)), sorted(set(trained) - set(found))
    if not extra and not (lost and missing == "refuse"):
        return
    alike = {*map(_meant, extra)} & {*map(_meant, lost)}
    odd = ", ".join(map(spelled, extra + lost)) if alike else some(sorted(extra + lost))
    hint = "" if extra else f"; data.missing_classes=ok allows {split} to lack some"
    raise user_error("data.root", root, f"the same classes in train and {split}; they differ in {odd}{hint}")


def spelled(name: str) -> str:
    """Return a name in quotes, with the code points of its characters beyond ASCII, which may look like others."""
    points = [f"U+{ord(sign):04X}" for sign in name if not sign.isascii()]
    return f"'{printable(name)}'" + (f" ({' '.join(points)})" if points else "")


def _meant(name: str) -> str:
    """Return a normal form that all spellings of a name share; of single characters, upper and lower case differ."""
    plain = " ".join(unicodedata.normalize("NFKC", name).split())
    return plain if len(plain) == 1 else unicodedata.normalize("NFKC", plain.casefold())
