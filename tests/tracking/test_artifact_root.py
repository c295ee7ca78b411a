"""Artifacts of an experiment are stored where `tracking.artifacts` said at its creation: in a folder or on S3."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import object_store
import stores
from frostline.core.errors import UserError
from frostline.records import journal, recording
from frostline.records.result import Result
from frostline.tracking import artifact_root, download, relocation, server, session, sync
from frostline.tracking.pending_sweeps import RecordPlace, place_of
from frostline.tracking.sync import SweepMirror

S3 = f"s3://{object_store.BUCKET}/runs"


@pytest.fixture(scope="module")
def bucket() -> Iterator[Any]:
    with object_store.running() as client:
        yield client


def open_sweep(root: Path, folder: str = "sweep", *, artifacts: str | None, name: str = "demo", **more: Any) -> Any:
    """Open a sweep with one run that has recorded a file, and return its tracker."""
    (root / folder / "0").mkdir(parents=True)
    uri = more.pop("uri", None) or f"sqlite:///{stores.put(root / 'mlflow.db')}"
    place = RecordPlace(uri, name, artifacts)
    tracker = session.open_sweep(place, folder=root / folder, name="s", tags={}, **more)
    with recording.recording(root / folder / "0", name="run", tags={}, params={}) as record:
        (root / folder / "0" / "config.yaml").write_text("seed: 7\n")
        record.artifact(root / folder / "0" / "config.yaml")
    return tracker


def close_sweep(tracker: Any, **more: Any) -> str:
    """Close a sweep and return the MLflow id of its run."""
    folder = f"{tracker.folder}/0"
    result = Result(0, "run", folder, journal.run_id(Path(folder)), "FINISHED", None, {}, {})
    session.close_sweep(tracker, status="FINISHED", description="", results=[result], **more)
    run_id = journal.run_id(Path(folder))
    assert run_id is not None
    return run_id


@pytest.mark.parametrize(
    ("root", "expected"),
    [
        ("", "a folder, or a URI such as s3"),
        ("s3:/bucket", "a folder, or a URI such as s3"),
        ("s3://", "a folder, or a URI with one of s3"),
        ("S4://bucket", "a folder, or a URI with one of s3"),
        ("http://server/x", "a folder, or a URI with one of s3"),
        ("s3://me:hunter2@bucket/x", "no credentials"),
        ("s3://bucket/x?token=hunter2", "no credentials"),
        ("s3://[bucket", "an address"),
    ],
)
def test_invalid_root_is_one_line_without_secrets(root: str, expected: str) -> None:
    with pytest.raises(UserError, match=rf"^tracking\.artifacts=.*: expected {expected}") as refused:
        artifact_root.chosen(root)
    assert "hunter2" not in str(refused.value) and "\n" not in str(refused.value)


def test_file_as_root_and_missing_library_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (file := tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="expected a folder"):
        artifact_root.chosen(str(file))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"boto3 to be installed.*frostline\[s3\]"):
        artifact_root.chosen("s3://bucket/x")


def test_relative_root_is_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert artifact_root.chosen(None) is None
    assert artifact_root.chosen("kept here") == (tmp_path / "kept here").as_uri()


def test_experiment_keeps_its_first_root(tmp_path: Path) -> None:
    root = artifact_root.chosen(str(tmp_path / "disk" / "artifacts"))
    run_id = close_sweep(open_sweep(tmp_path, artifacts=root))
    kept = tmp_path / "disk" / "artifacts" / "demo" / run_id / "artifacts" / "config.yaml"
    assert kept.read_text() == "seed: 7\n"
    close_sweep(open_sweep(tmp_path, "again", artifacts=root))
    close_sweep(open_sweep(tmp_path, "unsaid", artifacts=None))
    with pytest.raises(UserError, match=rf"^tracking\.artifacts=file:///elsewhere: expected the root .*{root};"):
        open_sweep(tmp_path, "other", artifacts="file:///elsewhere")
    shutil.move(tmp_path / "disk", tmp_path / "unmounted")
    relocation.follow(tmp_path / "mlflow.db")
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        assert (f"{root}/demo",) in database.execute("select artifact_location from experiments").fetchall()


@pytest.mark.slow
def test_artifacts_on_s3_are_written_and_fetched(tmp_path: Path, bucket: Any) -> None:
    tracker = open_sweep(tmp_path, artifacts=artifact_root.chosen(f"{S3}/"))
    run_id = close_sweep(tracker)
    assert f"runs/demo/{run_id}/artifacts/config.yaml" in object_store.names(bucket)
    shutil.rmtree(tracker.folder)
    (fetched := tmp_path / "fetched").mkdir()
    download.fetch_files(tracker.uri, run_id, fetched, but=())
    assert (fetched / "config.yaml").read_text() == "seed: 7\n"
    whole = download.sweep(tracker.uri, tracker.sweep_run_id, tmp_path / "whole")
    assert (whole / "0" / "config.yaml").read_text() == "seed: 7\n"
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or object_store.SECRET.encode() not in file.read_bytes()


def test_missing_bucket_is_refused_before_recording(tmp_path: Path, bucket: Any) -> None:
    with pytest.raises(
        UserError, match=r"^tracking\.artifacts=s3://nobodys/x: expected a reachable place.*does not exist"
    ):
        open_sweep(tmp_path, artifacts="s3://nobodys/x")
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        assert database.execute("select count(*) from runs").fetchone() == (0,)


@pytest.mark.slow
def test_root_is_set_when_an_absent_store_returns(tmp_path: Path, bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "_CLOSE", (0.1, 0.1))
    absent, messages = "http://127.0.0.1:9", list[str]()
    tracker = open_sweep(tmp_path, artifacts=S3, name="later", uri=absent, say=messages.append)
    session.close_sweep(tracker, status="FINISHED", description="", results=[], say=messages.append)
    assert len(messages) == 2
    folder, uri = Path(tracker.folder), f"sqlite:///{stores.put(tmp_path / 'mlflow.db')}"
    assert sync.complete(SweepMirror(folder, place_of(folder, uri)))
    assert server.client_of(uri).get_experiment_by_name("later").artifact_location == f"{S3}/later"
    assert f"runs/later/{journal.run_id(folder / '0')}/artifacts/config.yaml" in object_store.names(bucket)
