"""Relocation of an MLflow store that was moved together with its artifacts: updates the paths in its database."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

from frostline.tracking.artifact_root import CHOSEN_TAG

_PLACES = (  # columns of MLflow's tables with the URIs of files
    ("runs", "artifact_uri"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("logged_models", "artifact_location"),
)

_CHOSEN = "select experiment_id from experiment_tags where key = ?"


def follow(file: Path) -> None:
    """Point the SQLite store in `file` to the artifacts beside it, if they were moved together.

    MLflow stores absolute paths, so a moved store would keep writing to the old folder, and find nothing. A copied
    store is pointed to the copied artifacts if these include all that the original has.
    """
    with closing(sqlite3.connect(file, timeout=5.0)) as database, database:
        if "artifact_location" not in _columns(database, "experiments"):
            return  # no store, or another schema of MLflow: leave it alone
        stay = {row[0] for row in database.execute(_CHOSEN, (CHOSEN_TAG,))}
        for name, old in database.execute("select experiment_id, artifact_location from experiments").fetchall():
            new = _beside(file, old or "") if name not in stay else None
            if new is not None and _came_along(Path(unquote(urlsplit(old).path)), new):
                _move(database, name, old, new.as_uri())


def _beside(file: Path, old: str) -> Path | None:
    """Return the folder beside the store that replaces `old`; None if `old` is right or was not beside the store."""
    path = Path(unquote(urlsplit(old).path))
    if urlsplit(old).scheme != "file" or path.parent.name != "artifacts":
        return None
    new = file.resolve().parent / "artifacts" / path.name
    return None if new == path else new


def _came_along(old: Path, new: Path) -> bool:
    """Return whether `new` has every entry of `old`, or `old` is gone."""
    return not old.is_dir() or (new.is_dir() and _names(old) <= _names(new))


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def _move(database: sqlite3.Connection, experiment: int, old: str, new: str) -> None:
    """Replace the URI `old` by `new` in all rows of the store that locate files of the experiment."""
    database.execute("update experiments set artifact_location = ? where experiment_id = ?", (new, experiment))
    for table, column in _PLACES:
        if column in _columns(database, table):
            database.execute(
                f"update {table} set {column} = ? || substr({column}, ?) where substr({column}, 1, ?) = ?",
                (new, len(old) + 1, len(old) + 1, f"{old}/"),
            )


def _columns(database: sqlite3.Connection, table: str) -> set[str]:
    """Return the names of a table's columns; empty if there is no such table."""
    return {str(name) for _, name, *_ in database.execute(f"pragma table_info({table})")}
