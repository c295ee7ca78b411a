"""Set-up of the tests of the record in MLflow."""

from __future__ import annotations

from pathlib import Path

import pytest

from frostline.core import project


@pytest.fixture(autouse=True)
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `tmp_path` the project's folder, so that no test writes into the checkout's `mlruns`."""
    monkeypatch.setattr(project, "project_root", lambda: tmp_path)
