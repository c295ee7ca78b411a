"""A server as tracking store: unreachable, refused, and without its password on disk."""

from __future__ import annotations

import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
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

CONNECTION = 'connection to server at "db", port 5432 failed: '


@pytest.mark.parametrize(
    ("message", "refused"),
    [
        (f'{CONNECTION}FATAL:  password authentication failed for user "me"', True),
        (f'{CONNECTION}FATAL:  database "nodb" does not exist', True),
        (f'{CONNECTION}FATAL:  no pg_hba.conf entry for host "h", user "me", database "d", no encryption', True),
        ("(1045, \"Access denied for user 'me'@'h' (using password: YES)\")", True),
        (f"{CONNECTION}Connection refused", False),
        (f"{CONNECTION}FATAL:  the database system is starting up", False),
        (f"{CONNECTION}FATAL:  sorry, too many clients already", False),
    ],
)
def test_database_errors_are_permanent_or_temporary(message: str, refused: bool) -> None:
    assert database.refused(OperationalError("", {}, Exception(message))) is refused
    assert database.refused(NoSuchModuleError("Can't load plugin: sqlalchemy.dialects:postgresql.no"))
    assert not database.refused(ConnectionError(message))


def test_unreachable_database_fails_quickly() -> None:
    pytest.importorskip("psycopg2", reason="needs psycopg2, of the extra postgresql")
    began = time.monotonic()
    with pytest.raises(server.Unreachable, match="Connection refused"):
        server.client_of("postgresql+psycopg2://127.0.0.1:9/mlflow")
    assert time.monotonic() - began < 60  # MLflow itself tries for a hundred seconds


@pytest.fixture(scope="module")
def url() -> Any:
    with postgresql.database() as found:
        yield found


def open_sweep(root: Path, messages: list[str]) -> Any:
    place = RecordPlace(tracking_uri.resolved(None), uuid.uuid4().hex)
    (root / "sweep" / "0").mkdir(parents=True)
    return session.open_sweep(place, folder=root / "sweep", name="s", tags={}, say=messages.append)


@pytest.mark.slow
def test_postgresql_has_the_sweep_and_no_file_its_password(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
    messages: list[str] = []
    tracker = open_sweep(tmp_path, messages)
    with recording(tmp_path / "sweep" / "0", name="run", tags={}, params={"lr": 0.1}) as record:
        record.metrics({"train/loss": 1.0}, 1)
        record.artifact(tmp_path / "sweep" / "0" / layout.RECORD)
    session.close_sweep(tracker, status="FINISHED", description="", results=[], say=messages.append)
    run = server.client_of(tracker.uri).get_run(journal.run_id(tmp_path / "sweep" / "0"))
    assert messages == [] and run.data.metrics["train/loss"] == 1.0 and run.info.status == "FINISHED"
    secret = sqlalchemy.make_url(url).password
    assert secret
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or str(secret).encode() not in file.read_bytes()


@pytest.mark.slow
def test_wrong_password_is_one_line(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = sqlalchemy.make_url(url).set(password="hunter2").render_as_string(hide_password=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", whole)
    server.client_of.cache_clear()
    with pytest.raises(UserError, match=r"^tracking\.uri=.*password authentication failed") as refused:
        open_sweep(tmp_path, [])
    assert "hunter2" not in str(refused.value)


class _Unauthorized(BaseHTTPRequestHandler):
    """Answers that it does not know the user, as MLflow's basic authentication does."""

    def do_POST(self) -> None:
        self.send_response(401)
        self.end_headers()
        self.wfile.write(b"You are not authenticated.")

    def log_message(self, *_: object) -> None:
        return


def test_server_that_does_not_know_the_user_is_told_with_the_variables_that_name_one() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Unauthorized) as refusing:
        threading.Thread(target=refusing.serve_forever, daemon=True).start()
        with pytest.raises(
            UserError, match=r"^tracking\.uri=http.*: expected a server that knows you by MLFLOW_TRACKING_"
        ):
            server.experiment(f"http://127.0.0.1:{refusing.server_port}", "digits")
        refusing.shutdown()
