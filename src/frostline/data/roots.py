"""Refuse a `data.root` that is not there, without libraries that read images or tables."""

from __future__ import annotations

import os
from pathlib import Path

from frostline.core.errors import user_error


def require_folder(root: Path) -> None:
    """Raise `UserError` unless `root` is a folder, as class folders need."""
    if not os.path.isdir(root):
        expected = "a folder, not a file (unpack it)," if os.path.isfile(root) else "a folder that exists,"
        raise user_error("data.root", root, f"{expected} with one folder of images per class")


def require_table(root: Path) -> None:
    """Raise `UserError` unless `root` is a file, as `data=table` needs."""
    if not os.path.isfile(root):
        raise user_error("data.root", root, "a table that exists: .csv, .tsv, .parquet or .jsonl")
