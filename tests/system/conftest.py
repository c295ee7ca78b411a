"""What whole sweeps share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where the sweeps of a file are recorded: a database of its own."""
    return tmp_path_factory.mktemp("record") / "mlflow.db"
