"""A store of MLflow's as it is before its first sweep: to make one takes seconds, to copy it none."""

from __future__ import annotations

import functools
import os
import tempfile
from pathlib import Path

from filelock import FileLock

from frostline.tracking import server


def put(file: Path) -> Path:
    """Put an empty store at `file`, unless something is there, and return it."""
    if not file.exists():
        file.write_bytes(content())
    return file


@functools.cache
def content() -> bytes:
    """Return an empty store: made once for all processes of a test run, which share a folder."""
    if shared := os.environ.get("FROSTLINE_TESTS"):
        with FileLock(Path(shared) / "empty.lock"):
            if not (file := Path(shared) / "empty.db").exists():
                server._create(file)
            return file.read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        server._create(file := Path(folder) / "mlflow.db")
        return file.read_bytes()
