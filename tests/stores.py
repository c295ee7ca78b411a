"""An empty MLflow database. Creating one takes seconds, so tests copy one that exists."""

from __future__ import annotations

import functools
import os
import tempfile
from pathlib import Path

from filelock import FileLock

from frostline.tracking import server


def put(file: Path) -> Path:
    """Write an empty database to `file`, unless it exists, and return `file`."""
    if not file.exists():
        file.write_bytes(content())
    return file


@functools.cache
def content() -> bytes:
    """Return the bytes of an empty database, created once for all processes of a test run."""
    if shared := os.environ.get("FROSTLINE_TESTS"):
        with FileLock(Path(shared) / "empty.lock"):
            if not (file := Path(shared) / "empty.db").exists():
                server._create(file)
            return file.read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        server._create(file := Path(folder) / "mlflow.db")
        return file.read_bytes()
