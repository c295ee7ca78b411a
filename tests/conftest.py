"""What all tests share: one thread, so that they run beside each other and give the same bits anywhere; a store."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """No test reads or fills the store of the person who runs the tests."""
    folder = tmp_path_factory.mktemp("store")
    os.environ["FROSTLINE_STORE"] = str(folder)
    yield folder
    del os.environ["FROSTLINE_STORE"]
