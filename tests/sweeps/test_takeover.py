"""What a sweep says of runs that were there before."""

from __future__ import annotations

from pathlib import Path

from frostline.records import layout
from frostline.sweeps import takeover
from frostline.sweeps.resume import Past


def past(folder: Path, status: str = "FINISHED", **tags: str) -> Past:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / layout.CONFIG).touch()
    return Past("r", status, {layout.FOLDER_TAG: str(folder), **tags})


def test_skipped_runs_are_named_and_of_many_it_is_said_how_many_are_where(tmp_path):
    runs = [(f"head lr={number}", past(tmp_path / "first" / str(number))) for number in range(20)]
    lines = takeover.said_of(runs)
    assert len(lines) == 20 and lines[3] == f"head lr=3: skipped, finished in {tmp_path}/first/3 as run r"
    diverged = past(tmp_path / "second" / "0", "FAILED", **{layout.REASON_TAG: "Diverged: nan"})
    assert takeover.said_of([*runs, ("full lr=1", diverged), ("full lr=2", Past("r", "FINISHED", {}))]) == [
        f"20 runs: skipped, finished in {tmp_path}/first",
        f"1 run: skipped, diverged in {tmp_path}/second",
        "1 run: skipped, finished in another place",
    ]
