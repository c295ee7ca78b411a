"""Fixtures of whole sweeps."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of a tracking database for the sweeps of one test file."""
    return tmp_path_factory.mktemp("record") / "mlflow.db"
