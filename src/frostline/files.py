"""Small files that are there whole or not at all, whatever happens to the process that writes them."""

from __future__ import annotations

import os
import uuid
from pathlib import Path


def write(path: Path, text: str, *, sync: bool = False) -> None:
    """Have the file at `path` say `text`; with `sync` that is on disk on return. A kill leaves the old file or none."""
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
