"""Find the WebDataset shards of every split, by options or by the names of files and folders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from frostline.core.errors import user_error
from frostline.data import remote_files
from frostline.data.layouts import SPLITS, roles_of
from frostline.data.names import some
from frostline.data.remote_files import RemoteFile

SUFFIX = ".tar"


def files_of(root: str, options: Mapping[str, Any]) -> dict[str, list[RemoteFile]]:
    """Return the shards of every split, at least `train`: from options, or from their names; else all are `train`.

    Raises `UserError` if some names tell a split and others do not.
    """
    if given := {split: options[split] for split in SPLITS if options.get(split) is not None}:
        if "train" not in given:
            raise user_error("data.options.train", "null", f"shards of train beside those of {', '.join(given)}")
        seen = {split: remote_files.joined(root, text) for split, text in given.items()}
        return {split: remote_files.find(f"data.options.{split}", text, SUFFIX) for split, text in seen.items()}
    files = remote_files.find("data.root", root, SUFFIX)
    paths = [PurePosixPath(file.url) for file in files]
    for names in ([path.name.partition(".")[0] for path in paths], [path.parent.name for path in paths]):
        known = list(dict.fromkeys(names))
        roles = dict(zip(known, roles_of(known), strict=True))
        if "train" in roles.values() or len(set(roles.values()) & set(SPLITS)) > 1:
            break
    else:
        return {"train": files}
    if odd := [name for name in known if roles[name] not in SPLITS]:
        expected = f"shards whose names begin with train, val or test, not {some(odd)}"
        raise user_error("data.root", root, f"{expected}; data.options.train=<pattern> says which are meant")
    split_of = [roles[name] for name in names]
    if "train" not in split_of:
        raise user_error("data.root", root, f"shards of train beside {some(known)}")
    return {
        split: [file for file, own in zip(files, split_of, strict=True) if own == split]
        for split in SPLITS
        if split in split_of
    }
