"""One process at a time decides what is tried next in a study that is in a database; one that is away is waited for."""

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


def excludes(url: str) -> None:
    """Have several threads, each with a lock of its own, write beside each other."""
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


def survives_a_kill(url: str) -> None:
    """Have a process end that holds the lock."""
    if (pid := os.fork()) == 0:
        held = lock_of(url)()
        held.__enter__()
        os._exit(0)
    os.waitpid(pid, 0)
    with lock_of(url)():
        pass


def test_a_file_beside_a_database_of_sqlite_is_its_lock(tmp_path: Path) -> None:
    excludes(f"sqlite:///{tmp_path}/studies.db")
    survives_a_kill(f"sqlite:///{tmp_path}/studies.db")
    assert [path.name for path in tmp_path.iterdir()] == [".studies.db.deciding"]


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "mssql+pyodbc://db/x"])
def test_others_have_none(url: str) -> None:
    assert lock_of(url) is nullcontext


def test_a_database_that_is_away_is_waited_for_and_one_that_refuses_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    url, said = "postgresql+psycopg2://me:hunter2@db/studies", list[str]()
    answers: list[str | None] = ["Connection refused"] * 2 + [None]

    def probe(asked: str) -> None:
        if (answer := answers.pop(0)) is not None:
            raise OperationalError("", {}, Exception(f"{asked}: {answer}"))

    monkeypatch.setattr(database, "probe", probe)
    monkeypatch.setattr(study_storage, "_LOOK", 0.0)
    wait_for(url, said.append)
    assert not answers and len(said) == 1 and "Connection refused" in said[0] and "hunter2" not in said[0]
    answers.append('FATAL: database "studies" does not exist')
    with pytest.raises(UserError, match=r"^search\.storage=postgresql\+psycopg2://db/studies: expected") as refused:
        wait_for(url, said.append)
    assert "hunter2" not in str(refused.value)
    wait_for("sqlite:///studies.db", said.append)


@pytest.mark.slow
def test_postgresql_has_one_of_its_own() -> None:
    with postgresql.database() as url:
        excludes(url)
        survives_a_kill(url)
