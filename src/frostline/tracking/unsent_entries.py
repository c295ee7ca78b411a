"""Unsent entries of a run's journal, merged into the state that MLflow still has to receive."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from frostline.records import journal
from frostline.records.journal import is_count, is_number
from frostline.records.layout import NOTE_TAG, REASON_TAG
from frostline.records.recording import GONE

_SPLITS = {"train", "val", "test"}


@dataclass
class Unsent:
    """Merged unsent entries; of a tag or status that changed, only the last value is kept."""

    start: dict[str, Any] | None = None
    params: dict[str, Any] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    metrics: list[tuple[str, float, int, int]] = field(default_factory=list)
    """Key, value, milliseconds, step."""
    datasets: list[dict[str, Any]] = field(default_factory=list)
    artifacts: dict[tuple[str, str | None], None] = field(default_factory=dict)
    status: str | None = None
    ended: int | None = None
    """Milliseconds."""

    @property
    def guessed(self) -> bool:
        """Whether the end was only inferred from the absence of the run's process."""
        return self.status == "KILLED" and self.tags.get(REASON_TAG) == GONE

    def without_end(self) -> None:
        """Remove the end of the run, and its reason."""
        self.status = self.ended = None
        for key in (REASON_TAG, NOTE_TAG):
            self.tags.pop(key, None)


def unsent_of(folder: Path, offset: int) -> tuple[Unsent, int]:
    """Return the merged journal entries after byte `offset`, and the offset after the last one.

    Entries that frostline cannot have written, such as values edited by hand, are left out.
    """
    news = Unsent()
    for entry, behind in journal.entries(folder, offset):
        offset = behind
        if not all(is_count(entry.get(key, 0)) for key in ("time", "step")):
            continue
        match entry:
            case {"op": "run", "uid": str(uid), "name": str(), "tags": dict(), "time": int()} if uid.isalnum():
                if journal.is_run_id(entry.get("run_id")):
                    news.start = entry
            case {"op": "resume"}:
                news.status, news.ended = "RUNNING", None
            case {"op": "params", "values": dict(values)}:
                news.params.update(values)
            case {"op": "tags", "values": dict(values)}:
                news.tags.update(values)
            case {"op": "metrics", "values": dict(values), "time": int(time), "step": int(step)}:
                news.metrics += [(key, float(value), time, step) for key, value in values.items() if is_number(value)]
            case {"op": "dataset", "name": str(), "digest": str(), "source": str(), "images": dict(images)}:
                if images.keys() <= _SPLITS and all(map(is_count, images.values())):
                    news.datasets.append(entry)
            case {"op": "artifact", "path": str(path)} if "\0" not in path:
                if isinstance(inside := entry.get("inside"), str | None):
                    news.artifacts[path, inside] = None
            case {"op": "end", "status": "FINISHED" | "FAILED" | "KILLED" as status, "time": int(time)}:
                news.status, news.ended = status, time
            case {"op": "end", "status": "PAUSED"}:
                news.status, news.ended = "SCHEDULED", None  # MLflow's status for runs that continue later
    return news, offset


def resumed(folder: Path) -> bool:
    """Return whether the run was ever resumed, so that MLflow may have some of its metrics already."""
    return any(entry["op"] == "resume" or entry.get("run_id") for entry, _ in journal.entries(folder))
