"""An MLflow store that was moved with its artifacts: it finds them where they are now."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

from frostline.tracking.artifact_root import CHOSEN_TAG

_PLACES = (  # columns of MLflow's tables that say where files lie, or that the run whose files they are says it
    ("runs", "artifact_uri"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("logged_models", "artifact_location"),
)

_CHOSEN = "select experiment_id from experiment_tags where key = ?"


def follow(file: Path) -> None:
    """Have the SQLite store in `file` look for its artifacts beside it, where they came along when it was moved.

    MLflow writes absolute paths down: it would go on to write into the folder that was left, and find nothing. A store
    that was copied looks into the copy, if that has all that the original has of its runs.
    """
    with closing(sqlite3.connect(file, timeout=5.0)) as database, database:
        if "artifact_location" not in _columns(database, "experiments"):
            return  # no store, or one of an MLflow that says this elsewhere: then it looks where it wrote
        stay = {row[0] for row in database.execute(_CHOSEN, (CHOSEN_TAG,))}
        for name, old in database.execute("select experiment_id, artifact_location from experiments").fetchall():
            new = _beside(file, old or "") if name not in stay else None
            if new is not None and _came_along(Path(unquote(urlsplit(old).path)), new):
                _move(database, name, old, new.as_uri())


def _beside(file: Path, old: str) -> Path | None:
    """Return where artifacts at `old`, in a folder beside their store, lie now; None unless that is elsewhere."""
    path = Path(unquote(urlsplit(old).path))
    if urlsplit(old).scheme != "file" or path.parent.name != "artifacts":
        return None
    new = file.resolve().parent / "artifacts" / path.name
    return None if new == path else new


def _came_along(old: Path, new: Path) -> bool:
    """Return whether `new` has all that `old` has."""
    return not old.is_dir() or (new.is_dir() and _names(old) <= _names(new))


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def _move(database: sqlite3.Connection, experiment: int, old: str, new: str) -> None:
    """Write `new` for `old` wherever the store says where files of the experiment lie."""
    database.execute("update experiments set artifact_location = ? where experiment_id = ?", (new, experiment))
    for table, column in _PLACES:
        if column in _columns(database, table):
            database.execute(
                f"update {table} set {column} = ? || substr({column}, ?) where substr({column}, 1, ?) = ?",
                (new, len(old) + 1, len(old) + 1, f"{old}/"),
            )


def _columns(database: sqlite3.Connection, table: str) -> set[str]:
    """Return the names of a table's columns; none where it is not there."""
    return {str(name) for _, name, *_ in database.execute(f"pragma table_info({table})")}
