"""Locks of a study in a database, and waiting for a database that is away."""

from __future__ import annotations

import os
import threading
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

import postgresql
from frostline.core.errors import UserError
from frostline.sweeps import study_storage
from frostline.sweeps.study_storage import lock_of, wait_for
from frostline.tracking import database


def assert_exclusive(url: str) -> None:
    """Assert that of several threads, each with its own lock object, one at a time is inside."""
    inside, most = 0, 0

    def work() -> None:
        nonlocal inside, most
        for _ in range(5):
            with lock_of(url)():
                inside += 1
                most = max(most, inside)
                time.sleep(0.002)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def assert_released_by_exit(url: str) -> None:
    """Assert that the lock is free after a process that holds it has ended."""
    if (pid := os.fork()) == 0:
        lock = lock_of(url)()
        lock.__enter__()
        os._exit(0)
    os.waitpid(pid, 0)
    with lock_of(url)():
        pass


def test_sqlite_lock_is_a_file_beside_the_database(tmp_path: Path) -> None:
    assert_exclusive(f"sqlite:///{tmp_path}/studies.db")
    assert_released_by_exit(f"sqlite:///{tmp_path}/studies.db")
    assert [path.name for path in tmp_path.iterdir()] == [".studies.db.deciding"]


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "mssql+pyodbc://db/x"])
def test_other_databases_have_no_lock(url: str) -> None:
    assert lock_of(url) is nullcontext


def test_unreachable_database_is_awaited_but_a_refusal_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    url, messages = "postgresql+psycopg2://me:hunter2@db/studies", list[str]()
    answers: list[str | None] = ["Connection refused"] * 2 + [None]

    def probe(address: str) -> None:
        if (answer := answers.pop(0)) is not None:
            raise OperationalError("", {}, Exception(f"{address}: {answer}"))

    monkeypatch.setattr(database, "probe", probe)
    monkeypatch.setattr(study_storage, "_LOOK", 0.0)
    wait_for(url, messages.append)
    assert not answers and len(messages) == 1 and "Connection refused" in messages[0] and "hunter2" not in messages[0]
    answers.append('FATAL: database "studies" does not exist')
    with pytest.raises(UserError, match=r"^search\.storage=postgresql\+psycopg2://db/studies: expected") as refused:
        wait_for(url, messages.append)
    assert "hunter2" not in str(refused.value)
    wait_for("sqlite:///studies.db", messages.append)


@pytest.mark.slow
def test_postgresql_lock_is_exclusive() -> None:
    with postgresql.database() as url:
        assert_exclusive(url)
        assert_released_by_exit(url)
