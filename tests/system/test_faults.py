"""The short fault suite: kills and damaged files. The long one is `make faults`."""

from __future__ import annotations

import sys

import pytest

import faults
import warm


def test_faults_lose_and_duplicate_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    done = warm.run([sys.executable, faults.__file__], timeout=500)
    with capsys.disabled():
        print(f"\n{done.stdout.strip()}")  # noqa: T201
    assert done.returncode == 0, done.stdout + done.stderr
