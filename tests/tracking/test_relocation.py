"""Moved artifacts, sweeps and run folders are found again."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

import stores
from frostline.core import project
from frostline.records import journal, layout
from frostline.records.recording import now
from frostline.records.sweep_facts import Tracker
from frostline.sweeps import resume
from frostline.tracking import download, pending_sweeps, relocation, server, tracking_uri
from frostline.tracking.sync import SweepMirror

DIGEST = "d" * 16


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an empty store."""
    return stores.put(tmp_path_factory.mktemp("empty") / "mlflow.db")


def interrupted_sweep(root: Path, empty: Path, *, mirrored: bool = True) -> Path:
    """Write a new project with a sweep that was killed during its only run, and return the sweep's folder."""
    uri = f"sqlite:///{root}/mlruns/mlflow.db"
    (root / "mlruns").mkdir(parents=True)
    shutil.copy(empty, root / "mlruns" / "mlflow.db")
    folder = root / "multirun" / "today" / "now"
    (run := folder / "0").mkdir(parents=True)
    facts: Any = {"tags": {}, "time": now(), "uri": tracking_uri.portable(uri), "experiment": "moved"}
    journal.append(folder, "run", uid="a" * 32, name="sweep", host="here", **facts)
    tags = {"frostline.digest": DIGEST, "frostline.source": "s", layout.FOLDER_TAG: str(run)}
    journal.append(run, "run", uid="b" * 32, name="run", tags=tags, time=now())
    journal.append(run, "metrics", step=1, time=now(), values={"val/loss": 1.0})
    (run / "config.yaml").write_text("x")
    journal.append(run, "artifact", path="config.yaml", inside=None)
    place = pending_sweeps.RecordPlace(uri, "moved")
    pending_sweeps.remember(folder, place)
    if mirrored:
        SweepMirror(folder, place).sync()
    return folder


def judge_earlier_run(folder: Path) -> resume.Match:
    """Return what a new sweep in `folder` finds in the project's store."""
    uri = tracking_uri.resolved(None)
    tracker = Tracker(uri, "moved", str(folder), server.experiment(uri, "moved"), None)
    return resume.match_of(resume.earlier_runs(tracker, [DIGEST])[DIGEST], "s", None)


@pytest.mark.parametrize("mirrored", [True, False])
def test_run_in_a_moved_folder_resumes_there(tmp_path: Path, empty: Path, mirrored: bool, monkeypatch: Any) -> None:
    monkeypatch.setattr(project, "project_root", lambda: tmp_path / "project")
    old = interrupted_sweep(tmp_path / "project", empty, mirrored=mirrored)
    new = old.parent.parent / "kept"
    old.rename(new)
    found = judge_earlier_run(old.with_name("next"))
    assert found.interrupted is not None and found.interrupted.folder == new / "0"
    assert pending_sweeps.remembered(tracking_uri.resolved(None)) == [new]


@pytest.mark.parametrize("mirrored", [True, False])
@pytest.mark.parametrize("copied", [True, False])
def test_moved_or_copied_project_is_complete(
    tmp_path: Path, empty: Path, copied: bool, mirrored: bool, monkeypatch: Any
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    monkeypatch.setattr(project, "project_root", lambda: old)
    folder = interrupted_sweep(old, empty, mirrored=mirrored)
    (shutil.copytree if copied else shutil.move)(old, new)
    before = sorted(old.rglob("*"))
    moved = new / folder.relative_to(old)
    monkeypatch.setattr(project, "project_root", lambda: new)
    found = judge_earlier_run(moved.with_name("next"))
    assert found.interrupted is not None and found.interrupted.folder == moved / "0"
    uri = tracking_uri.resolved(None)
    named = resume.with_run_id(found.interrupted, uri)
    (run,) = MlflowClient(uri).search_runs(["1"], "tags.mlflow.runName = 'run'")
    assert named.run_id == run.info.run_id
    assert run.info.artifact_uri.startswith(new.as_uri())
    assert download.fetch_artifact(uri, run.info.run_id, "config.yaml", tmp_path / "got").read_text() == "x"
    assert sorted(old.rglob("*")) == before


def test_artifacts_left_behind_are_read_at_their_old_place(tmp_path: Path, empty: Path) -> None:
    folder = interrupted_sweep(tmp_path / "old", empty)
    run_id = journal.run_id(folder / "0")
    (new := tmp_path / "new" / "mlruns").mkdir(parents=True)
    shutil.copy(tmp_path / "old" / "mlruns" / "mlflow.db", new)
    assert run_id is not None
    assert download.fetch_artifact(f"sqlite:///{new}/mlflow.db", run_id, "config.yaml", tmp_path / "got").is_file()


@pytest.mark.parametrize("change", ["runs rename column artifact_uri to artifacts", "experiments rename to studies"])
def test_store_with_unknown_tables_is_not_changed(tmp_path: Path, empty: Path, change: str) -> None:
    """An upgrade of MLflow may change the private tables that contain file locations."""
    (old := tmp_path / "old" / "artifacts" / "1").mkdir(parents=True)
    (tmp_path / "new" / "artifacts" / "1").mkdir(parents=True)
    file = Path(shutil.copy(empty, tmp_path / "new" / "mlflow.db"))
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("update experiments set artifact_location = ?", (old.as_uri(),))
        database.execute(f"alter table {change}")
    old.rmdir()
    before = file.read_bytes() if "studies" in change else None
    relocation.follow(file)
    assert before is None or file.read_bytes() == before
