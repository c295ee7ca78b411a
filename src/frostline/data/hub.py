"""Data sets of the Hugging Face hub, read by its library `datasets`, by name or from a folder that it saved.

The library finds and downloads the files and converts them to Arrow tables, from which images are read
(`hub_images`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from frostline.core.errors import user_error
from frostline.core.files import expanded
from frostline.data import hub_library, label_columns
from frostline.data.findings import Finding
from frostline.data.hub_columns import class_names, columns_of, holds_lists
from frostline.data.hub_images import HubImages, images_of
from frostline.data.label_columns import DataSet
from frostline.data.layouts import SPLITS, roles_of
from frostline.data.listing import survey
from frostline.data.names import counted, some

_OPTIONS = ("image", "label", "separator", "group", "splits", "config", "revision", *SPLITS)


def read(root: str, options: Mapping[str, Any]) -> DataSet[HubImages]:
    """Return the content of the data set at `root`, a folder or a name on the hub, `owner/name`.

    `options`: the columns `image`, `label` and `group`, null for the only one of its kind; several columns for `label`
    are a class each; `separator`, the text between labels; `config` and `revision` on the hub; and the data set's names
    of the `train`, `val` and `test` splits, if they are not obvious. Raises `UserError` if it is unreachable, or cannot
    be read this way.
    """
    label_columns.check_options(options, dict.fromkeys(_OPTIONS, "a name, or null"))
    opened = hub_library.open_data_set(root, options)
    roles, findings = _roles(opened, options)
    findings += _not_taken(expanded(root), sum(map(len, opened.values())))
    train = opened[roles["train"]]
    columns = columns_of(train, options)
    several = len(columns.labels) > 1 or columns.separator is not None or holds_lists(train, columns.labels[0])
    splits = {}
    for role, called in roles.items():
        if lacks := columns.names - set(opened[called].features):
            findings.append(Finding(f"split {called} is left out, since it has no column {some(sorted(lacks))}", True))
            continue
        own = images_of(root, called, opened[called], columns, findings)
        if own.rows:
            splits[role] = own
    if "train" not in splits:
        labels = some(columns.labels)
        expected = f"rows of train, with an image ({columns.image}) and a label ({labels}) each"
        raise user_error("data.root", root, expected)
    classes = columns.labels if len(columns.labels) > 1 else class_names(train, columns.labels[0])
    return DataSet(splits, classes, several, tuple(findings))


def _not_taken(folder: Path, rows: int) -> list[Finding]:
    """Return a finding if a folder has more images than the `rows` that the library made.

    The library treats any name with `train` or `test` in it as a split and ignores all others, and also ignores
    suffixes in odd spelling.
    """
    there = len(survey(folder).files) if os.path.isdir(folder) else 0
    if there <= rows:
        return []
    left = "is" if there - rows == 1 else "are"
    told = f"{there - rows:,} of {there:,} images below {folder} {left} left out by the library of the hub"
    return [Finding(f"{told}, because of names or places; data=image_folder or data=table reads all", True)]


def _roles(opened: Mapping[str, Any], options: Mapping[str, Any]) -> tuple[dict[str, str], list[Finding]]:
    """Return the data set's names of train, val and test, and findings about its other splits."""
    names = list(opened)
    given = {role: options[role] for role in SPLITS if options.get(role) is not None}
    for role, called in given.items():
        if called not in names:
            raise user_error(f"data.options.{role}", called, f"a split of the data set: {some(names)}", names)
    found = given or ({"train": names[0]} if len(names) == 1 else _named_roles(names))
    if "train" not in found:
        expected = f"the data set's name of its training split: {some(names)}"
        raise user_error("data.options.train", "null", expected)
    left = [name for name in names if name not in found.values()]
    rows = {name: counted(len(opened[name]), "row", "rows") for name in left}
    told = [Finding(f"split {name} with {rows[name]} is left out", not given) for name in left]
    return {role: found[role] for role in SPLITS if role in found}, told


def _named_roles(names: Sequence[str]) -> dict[str, str]:
    roles = dict(zip(names, roles_of(names), strict=True))
    found = {role: [name for name in names if roles[name] == role] for role in SPLITS}
    for role, several in found.items():
        if len(several) > 1:
            raise user_error(f"data.options.{role}", "null", f"one of the splits {some(several)}")
    return {role: several[0] for role, several in found.items() if several}
