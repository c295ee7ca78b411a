"""The files of a study as they are if its process is killed at one of its writes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from frostline.sweeps.study_storage import StudyJournal


@contextmanager
def states_at_writes(folder: Path, study: str) -> Iterator[list[dict[str, bytes]]]:
    """Yield the states of `folder` if the process is killed at each write: before it, or every other time within it."""
    states: list[dict[str, bytes]] = []
    real = StudyJournal.append_logs

    def append_logs(self: StudyJournal, logs: list[dict[str, Any]]) -> None:
        states.append({file.name: file.read_bytes() for file in folder.iterdir()})
        if len(states) % 2 and study in states[-1]:
            states[-1][study] += json.dumps(logs[0])[:9].encode()
        real(self, logs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StudyJournal, "append_logs", append_logs)
        yield states


def restore(state: dict[str, bytes], folder: Path) -> Path:
    """Write a state of `states_at_writes` into a new folder and return it."""
    folder.mkdir()
    for name, content in state.items():
        (folder / name).write_bytes(content)
    return folder
