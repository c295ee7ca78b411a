"""Resolution of the tracking URI; its password is in no record."""

from __future__ import annotations

from pathlib import Path

import pytest

from frostline.core import credentials, project
from frostline.core.errors import UserError
from frostline.tracking import session, tracking_uri


def test_default_store_is_the_projects_own(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri.resolved(None) == f"sqlite:///{tmp_path}/mlruns/mlflow.db"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(project, "project_root", lambda: Path())
    assert tracking_uri.resolved(None) == f"sqlite:///{tmp_path}/mlruns/mlflow.db"
    assert tracking_uri.resolved("sqlite:///other.db") == f"sqlite:///{tmp_path}/other.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    assert tracking_uri.resolved(None) == "http://server:5000"
    assert tracking_uri.resolved("https://other") == "https://other"
    assert tracking_uri.resolved("https://other/team/") == "https://other/team"


def test_relative_store_is_in_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert tracking_uri.resolved("sqlite:///x.db") == f"sqlite:///{tmp_path}/here/x.db"
    assert tracking_uri.resolved("sqlite:///x.db", start=tmp_path) == f"sqlite:///{tmp_path}/x.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///x.db")
    assert tracking_uri.resolved(None) == f"sqlite:///{tmp_path}/here/x.db"


@pytest.mark.parametrize(
    ("uri", "suggestion"),
    [
        ("sqlite:/x.db", "sqlite:////x.db"),
        ("sqlite:x.db", "sqlite:///x.db"),
        ("sqlite://x.db", "sqlite:///x.db"),
        ("SQLITE:///x.db", "sqlite:///x.db"),
        ("sqlite+pysqlite:////tmp/x.db", "sqlite:////tmp/x.db"),
        ("sqlite:///x.db?mode=ro", "sqlite:///x.db"),
        ("sqlite:///", ""),
        ("sqlite:////tmp", ""),
        ("sqlite:///:memory:", ""),
    ],
)
def test_malformed_sqlite_uri_suggests_the_right_one(tmp_path, monkeypatch, uri, suggestion):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^tracking\.uri=.*: expected three slashes and a file") as refused:
        tracking_uri.resolved(uri)
    assert not suggestion or str(refused.value).endswith(f"; did you mean {suggestion}?")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("uri", ["./mlruns", "file:///tmp/mlruns", "ftp://server", "sqlite", "http://", "http:///x"])
def test_unsupported_scheme_is_refused(tmp_path, uri):
    with pytest.raises(UserError, match=r"^tracking\.uri="):
        tracking_uri.resolved(uri)


@pytest.mark.parametrize(
    ("whole", "safe"),
    [
        ("postgresql+psycopg2://me:hunter2@db:5432/mlflow", "postgresql+psycopg2://db:5432/mlflow"),
        ("https://hunter2@server/path", "https://server/path"),
        ("postgresql://db/mlflow?sslmode=require&password=hunter2", "postgresql://db/mlflow?sslmode=require"),
        ("postgresql://me:hunter2/#@db:5432/mlflow", "postgresql://db:5432/mlflow"),  # SQLAlchemy opens it
        ("http://me:hunter2/5@server:5000", "http://server:5000"),
        ("mssql+pyodbc://db/?odbc_connect=UID%3Dme%3BPWD%3Dhunter2", "mssql+pyodbc://db/"),
    ],
)
def test_credentials_stay_in_the_environment(tmp_path, monkeypatch, whole, safe):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", whole)
    assert tracking_uri.resolved(None) == safe
    assert "hunter2" not in session.ui_command(safe)
    assert credentials.restored(safe) == whole
    if "?" not in whole:  # a trailing slash names the same server
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{whole}/")
        assert credentials.restored(safe) == f"{whole}/"
    with pytest.raises(UserError) as caught:
        tracking_uri.resolved(whole)
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in credentials.scrubbed(f"API request to {whole.partition('?')[0]}/api failed")


def test_unparsable_uri_is_not_shown(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hunter2[@server")
    with pytest.raises(UserError, match=r"^MLFLOW_TRACKING_URI=http://: expected"):
        tracking_uri.resolved(None)


@pytest.mark.parametrize("plain", ["http://host:5000/~me@x", "sqlite:////home/me@work/a.db", "http://[::1]:5000"])
def test_uri_without_password_is_unchanged(plain):
    assert credentials.removed(plain) == plain
