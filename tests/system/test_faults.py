"""The short fault suite: kills, damaged files, and what is left afterwards. The long one is `make faults`."""

from __future__ import annotations

import sys

import pytest

import faults
import warm


def test_nothing_is_lost_and_nothing_is_there_twice(capsys: pytest.CaptureFixture[str]) -> None:
    done = warm.run([sys.executable, faults.__file__], timeout=500)
    with capsys.disabled():
        print(f"\n{done.stdout.strip()}")  # noqa: T201
    assert done.returncode == 0, done.stdout + done.stderr
