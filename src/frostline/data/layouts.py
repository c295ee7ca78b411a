"""Detect the layout of an image folder: which subfolders are splits, which are classes, and which are neither.

Layouts are recognised by the names of folders and the places of images. An ambiguous layout is an error, since a wrong
guess would silently train on the wrong classes.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from frostline.core.errors import UserError, first_few, user_error
from frostline.data.findings import Finding
from frostline.data.image_formats import SUFFIXES
from frostline.data.listing import is_folder, is_hidden, survey
from frostline.data.names import counted, printable, some

SPLITS = ("train", "val", "test")
_ROLES = {
    "train": "train training trn trainval trainvalid fit",
    "val": "val valid validation validate dev development eval evaluation",
    "test": "test testing tst holdout heldout",
    "unlabelled": "pred predict prediction predictions unlabeled unlabelled unsupervised unsup inference submission",
    "annotations": "annotation annotations annot annots label labels mask masks bbox bboxes xml xmls groundtruth gt",
    "images": "image images img imgs pic pics picture pictures photo photos jpegimages",
}
_ROLE_OF = {word: role for role, words in _ROLES.items() for word in words.split()}
_AFFIXES = (
    "set sets data dataset datasets split splits folder folders dir seg segmented new my final raw the small full "
    "crop crops cropped resize resized orig original clean cleaned aug augmented processed preprocessed sample samples "
    "image images img imgs pic pics picture pictures photo photos jpg jpeg png"
)
"""Words that people add to the name of a split, as in `training_set` or `imgs_test`."""
_GLUED = ("set", "data", "images", "imgs", "folder")
_WORD = re.compile(r"[^\W\d_]+")
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")


@dataclass(frozen=True)
class Layout:
    """The class folders of every split."""

    classes: Mapping[str, Mapping[str, Path]]
    """For each split, at least `train`, the folder of each class by class name."""
    findings: tuple[Finding, ...] = ()
    """Findings about folders and images left out."""


def lay_out(root: Path, layout: str) -> Layout:
    """Return the layout of `root`, read as `classes` or `splits`, or detected for `auto`.

    Raises `UserError` if no reading is possible, or more than one.
    """
    found = _read(root, layout)
    tops = {root, *(folder.parent for folders in found.classes.values() for folder in folders.values())}
    strays = [finding for top in sorted(tops) for finding in _strays(top)]
    return replace(found, findings=(*found.findings, *strays))


def _strays(top: Path) -> list[Finding]:
    """Return a finding about images in `top` beside the folders of classes or splits."""
    with os.scandir(top) as entries:
        files = sorted(entry.name for entry in entries if not is_hidden(entry.name) and not is_folder(entry))
    if not (lying := [printable(name) for name in files if name.lower().endswith(SUFFIXES)]):
        return []
    place = printable(top.name)
    one = f"image in {place} is left out, since it is in no class folder"
    told = counted(len(lying), one, f"images in {place} are left out, since they are in no class folder")
    return [Finding(f"{told}: {first_few(lying)}", True)]


def merged(root: Path, found: Iterable[tuple[Path, Iterable[Path]]]) -> list[Finding]:
    """Return a finding about images in subfolders of class folders, given each class folder and its images."""
    inner, count = [], 0
    for own, files in found:
        places = Counter(os.path.dirname(file) for file in files)  # noqa: PTH120 - a Path for each of many takes seconds
        if len(places) > 1:
            below = {place: number for place, number in places.items() if place != str(own)}
            inner += [printable(os.path.relpath(place, root)) for place in below]
            count += sum(below.values())
    if not inner:
        return []
    where = first_few(inner)
    one = f"image is in a subfolder of a class folder ({where}), and belongs to the class above it"
    many = f"images are in subfolders of class folders ({where}), and belong to the classes above them"
    return [Finding(counted(count, one, many), True, tuple(inner))]


def _read(root: Path, layout: str) -> Layout:
    """Return the same as `lay_out`, without findings about images beside folders."""
    below = list(map(_unpacked, subfolders(root)))
    roles = dict(zip(below, roles_of([folder.name for folder in below]), strict=True))
    tops = {split: [top for top in below if roles[top] == split] for split in SPLITS}
    if layout == "classes":
        return Layout({"train": _classes(root)})
    if any(map(subfolders, tops["train"])):
        _check_tops(root, tops, roles, layout)
        return _splits(tops, roles)
    if layout == "splits":
        return _inside_out(root, below)
    _check_nothing_else(root, below, roles)
    _check_nested(root, below)
    return Layout({"train": _classes(root)})


def _unpacked(folder: Path) -> Path:
    """Return `folder`, or the folder of the same name if it holds nothing else, as unpacked archives often do."""
    inner = folder / folder.name
    if not os.path.isdir(inner):
        return folder
    return inner if [path for path in folder.iterdir() if not is_hidden(path.name)] == [inner] else folder


def roles_of(names: Sequence[str]) -> list[str | None]:
    """Return the role of each of the names of sibling folders: a key of `_ROLES`, or None.

    Letter case, numbers, common affixes and words shared by all names are ignored.
    """
    words = [list(map(_unglued, _WORD.findall(_HUMP.sub(" ", name).casefold()))) for name in names]
    common = set.intersection(*map(set, words)) - set(_ROLE_OF) if len(words) > 1 else set()
    return [_role([word for word in found if word not in common]) for found in words]


def _role(words: Sequence[str]) -> str | None:
    rest = [word for word in words if word not in _AFFIXES.split()]
    return _ROLE_OF.get("".join(rest or words))


def _unglued(word: str) -> str:
    """Return `train` of `trainset`."""
    heads = map(word.removesuffix, _GLUED)
    return next((head for head in heads if _ROLE_OF.get(head) in SPLITS), word)


def _check_tops(root: Path, tops: Mapping[str, Sequence[Path]], roles: Mapping[Path, str | None], layout: str) -> None:
    """Raise `UserError` if a split has two folders, or a train folder with subfolders is among other class folders."""
    for split, several in tops.items():
        if len(several) > 1:
            raise user_error("data.root", root, f"one folder for {split}, not {some(top.name for top in several)}")
    others = [folder for folder, role in roles.items() if role is None and survey(folder).files]
    if layout == "auto" and others and not (tops["val"] or tops["test"]):
        train = tops["train"][0]
        raise _two_readings(
            root,
            f"classes {some(folder.name for folder in sorted([train, *others]))}",
            f"classes {some(folder.name for folder in subfolders(train))} in the split {train.name}",
        )


def _splits(tops: Mapping[str, Sequence[Path]], roles: Mapping[Path, str | None]) -> Layout:
    """Return the classes within each split, with findings about folders beside the splits, which are left out."""
    reasons = {
        "unlabelled": "its name says that it has no labels",
        "annotations": "its name says that it holds annotations",
    }
    left = [(top, reasons.get(role or "", "it is not a split")) for top, role in roles.items() if role not in SPLITS]
    flat = [top for split in ("val", "test") for top in tops[split] if not subfolders(top)]
    left += [(top, "its images are in no class folders") for top in flat]
    found = {split: _classes(top) for split in SPLITS for top in tops[split] if top not in flat}
    findings = []
    for top, reason in left:
        if files := survey(top).files:
            images = counted(len(files), "image", "images")
            findings.append(Finding(f"folder {printable(top.name)} with {images} is left out, since {reason}", True))
    return Layout(found, tuple(findings))


def _inside_out(root: Path, below: Sequence[Path]) -> Layout:
    """Return the splits inside the class folders."""
    found: dict[str, dict[str, Path]] = {split: {} for split in SPLITS}
    for folder in below:
        inner = subfolders(folder)
        for top, role in zip(inner, roles_of([top.name for top in inner]), strict=True):
            if role in SPLITS and folder.name in found[role]:
                raise user_error("data.root", root, f"one folder for {role} in {printable(folder.name)}")
            if role in SPLITS:
                found[role][folder.name] = top
    if not found["train"]:
        expected = f"a folder train with a folder per class, or in each class, in {root}"
        raise user_error("data.layout", "splits", expected)
    return Layout({split: classes for split, classes in found.items() if classes})


def _check_nothing_else(root: Path, below: Sequence[Path], roles: Mapping[Path, str | None]) -> None:
    """Raise `UserError` if all folders have names of parts of a data set, so that they are hardly classes."""
    known, named = set(roles.values()), some(folder.name for folder in below)
    remedy = "data.layout=classes reads them as classes"
    if known and known <= {*SPLITS, "unlabelled"}:
        if any(map(subfolders, below)):
            raise user_error("data.root", root, f"a folder train beside {named}")
        if len(below) > 1:
            found = f"found {named}, which are named like splits and hold images without class folders"
            raise user_error("data.root", root, f"one folder per class, {found}; {remedy}")
    if known == {"images", "annotations"}:
        inner = next(folder for folder in below if roles[folder] == "images")
        inside = f"if the classes are in {printable(inner.name)}, set data.root={inner}"
        raise user_error("data.root", root, f"one folder per class, found {named}; {inside}; {remedy}")


def _check_nested(root: Path, below: Sequence[Path]) -> None:
    """Raise `UserError` if every folder has its images in folders of splits or of the same names as the others.

    Either level may be classes.
    """
    inner = [_holding(folder) for folder in below]
    names = sorted(set().union(*inner))
    if len(below) < 2 or len(names) < 2 or not all(inner):
        return
    outer, roles = some(folder.name for folder in below), roles_of(names)
    if "train" in roles and {*roles} <= {*SPLITS}:
        raise _two_readings(root, f"classes {outer}", f"classes {outer}, each with its splits {some(names)}")
    if all(held == {*names} for held in inner):
        raise UserError(
            f"data.root={root}: can be read in two ways: classes {outer} (data.layout=classes), or classes "
            f"{some(names)} in each of the parts {outer} (name these train, val and test); deeper classes need a table "
            "(data=table)"
        )


def _holding(folder: Path) -> set[str]:
    """Return the names of the subfolders that hold images; none if an image lies in `folder` itself."""
    if not subfolders(folder):
        return set()
    parts = [file.relative_to(folder).parts for file in survey(folder).files]
    return set() if any(len(own) == 1 for own in parts) else {own[0] for own in parts}


def _two_readings(root: Path, classes: str, splits: str) -> UserError:
    return UserError(
        f"data.root={root}: can be read in two ways: {classes} (data.layout=classes), or {splits} (data.layout=splits)"
    )


def _classes(top: Path) -> dict[str, Path]:
    return {folder.name: folder for folder in subfolders(top)}


def subfolders(folder: Path) -> list[Path]:
    """Return the folders in `folder` that are not hidden, sorted."""
    with os.scandir(folder) as entries:  # entries know their type; a stat for each takes a second per 100,000
        return sorted(Path(entry) for entry in entries if not is_hidden(entry.name) and is_folder(entry))
