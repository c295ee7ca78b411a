"""A database on a server is a store like others: away for a while, refused for good, never its password on disk."""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy.exc import NoSuchModuleError, OperationalError

import postgresql
from frostline.core.errors import UserError
from frostline.records import journal, layout
from frostline.records.recording import recording
from frostline.tracking import database, server, session, tracking_uri
from frostline.tracking.pending_sweeps import RecordPlace

SAID = 'connection to server at "db", port 5432 failed: '


@pytest.mark.parametrize(
    ("said", "refused"),
    [
        (f'{SAID}FATAL:  password authentication failed for user "me"', True),
        (f'{SAID}FATAL:  database "nodb" does not exist', True),
        (f'{SAID}FATAL:  no pg_hba.conf entry for host "h", user "me", database "d", no encryption', True),
        ("(1045, \"Access denied for user 'me'@'h' (using password: YES)\")", True),
        (f"{SAID}Connection refused", False),
        (f"{SAID}FATAL:  the database system is starting up", False),
        (f"{SAID}FATAL:  sorry, too many clients already", False),
    ],
)
def test_what_a_database_says_tells_whether_to_wait_helps(said: str, refused: bool) -> None:
    assert database.refused(OperationalError("", {}, Exception(said))) is refused
    assert database.refused(NoSuchModuleError("Can't load plugin: sqlalchemy.dialects:postgresql.no"))
    assert not database.refused(ConnectionError(said))


def test_a_database_that_is_away_is_noticed_at_once() -> None:
    pytest.importorskip("psycopg2", reason="needs psycopg2, of the extra postgresql")
    began = time.monotonic()
    with pytest.raises(server.Unreachable, match="Connection refused"):
        server.client_of("postgresql+psycopg2://127.0.0.1:9/mlflow")
    assert time.monotonic() - began < 60  # MLflow tries for a hundred seconds


@pytest.fixture(scope="module")
def url() -> Any:
    with postgresql.database() as found:
        yield found


def opened(root: Path, said: list[str]) -> Any:
    place = RecordPlace(tracking_uri.resolved(None, root), root, uuid.uuid4().hex)
    (root / "sweep" / "0").mkdir(parents=True)
    return session.open_sweep(place, folder=root / "sweep", name="s", tags={}, say=said.append)


@pytest.mark.slow
def test_a_sweep_is_recorded_in_postgresql_and_its_password_nowhere(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
    said: list[str] = []
    tracker = opened(tmp_path, said)
    with recording(tmp_path / "sweep" / "0", name="run", tags={}, params={"lr": 0.1}) as record:
        record.metrics({"train/loss": 1.0}, 1)
        record.artifact(tmp_path / "sweep" / "0" / layout.RECORD)
    session.close_sweep(tracker, status="FINISHED", description="", results=[], say=said.append)
    run = server.client_of(tracker.uri).get_run(journal.run_id(tmp_path / "sweep" / "0"))
    assert said == [] and run.data.metrics["train/loss"] == 1.0 and run.info.status == "FINISHED"
    secret = sqlalchemy.make_url(url).password
    assert secret
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or str(secret).encode() not in file.read_bytes()


@pytest.mark.slow
def test_a_wrong_password_is_one_line(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = sqlalchemy.make_url(url).set(password="hunter2").render_as_string(hide_password=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", whole)
    server.client_of.cache_clear()
    with pytest.raises(UserError, match=r"^tracking\.uri=.*password authentication failed") as refused:
        opened(tmp_path, [])
    assert "hunter2" not in str(refused.value)
