"""Storages that cannot be used or are lost; locks of a study in a database, and waiting for one that is away."""

from __future__ import annotations

import errno
import os
import re
import sqlite3
import threading
import time
from contextlib import closing, nullcontext
from pathlib import Path

import pytest
from filelock import Timeout
from optuna.exceptions import StorageInternalError
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from sqlalchemy.exc import OperationalError

import postgresql
from frostline.core import locks
from frostline.core.errors import UserError
from frostline.sweeps import study_storage
from frostline.sweeps.study_storage import Storage, in_one_line, lock_of, storage_of, wait_for
from frostline.tracking import database
from small import compose


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


@pytest.mark.parametrize("content", [b"SQLite format 3\0\n and more", b'{"runs": [1]}', b"7"])
def test_file_that_is_no_journal_is_refused_and_stays(content: bytes, tmp_path: Path) -> None:
    (file := tmp_path / "studies.db").write_bytes(content)
    with pytest.raises(UserError, match=r"studies\.db: expected .*no journal of Optuna; a database needs its URL"):
        storage_of(compose(f"search.storage={file}").search, None)
    assert file.read_bytes() == content


def test_url_without_slashes_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="a URL has :// behind its first word"):
        storage_of(compose("search.storage='sqlite:/studies.db'").search, None)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("rest", ["", "/:memory:", "/file::memory:?uri=true", "/file:studies?mode=memory&uri=true"])
def test_database_in_memory_is_refused(rest: str) -> None:
    with pytest.raises(UserError, match=r"^search\.storage=sqlite://.*: expected .*another process sees no database"):
        storage_of(compose(f"search.storage='sqlite://{rest}'").search, None)


def test_one_process_at_a_time_creates_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[bool] = []

    def database(url: str) -> InMemoryStorage:
        held.append(is_held(tmp_path / ".studies.db.deciding"))
        return InMemoryStorage()

    monkeypatch.setattr(study_storage, "_database", database)
    storage_of(compose(f"search.storage='sqlite:///{tmp_path}/studies.db'").search, None)
    assert held == [True]


def is_held(lock: Path) -> bool:
    try:
        locks.acquire(lock, timeout=0).release()
    except Timeout:
        return True
    return False


@pytest.mark.parametrize("place", ["{0}/studies.log", "sqlite:///{0}/studies.log"])
def test_shared_storage_has_a_lock_for_decisions(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_storage, "_database", lambda url: InMemoryStorage())
    storage = storage_of(compose(f"search.storage='{place.format(tmp_path)}'").search, None)
    lock = tmp_path / ".studies.log.deciding"
    assert storage.shared and not is_held(lock)
    with storage.deciding():
        assert is_held(lock)


def test_shared_database_is_awaited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url, told = f"sqlite:///{tmp_path}/studies.db", list[str]()
    monkeypatch.setattr(study_storage, "_database", lambda url: InMemoryStorage())
    monkeypatch.setattr(study_storage, "wait_for", lambda url, say: say(url))
    storage_of(compose(f"search.storage='{url}'").search, None).ready(told.append)
    assert told == [url]


def test_lost_storage_is_awaited_and_asked_again() -> None:
    answers, waited = [OperationalError("", {}, Exception("gone")), StorageInternalError("gone"), 7], list[object]()

    def ask() -> object:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    storage = Storage(InMemoryStorage(), ready=waited.append)
    assert storage.patiently(ask) == 7 and len(waited) == 2
    answers += [StorageInternalError("a table is gone")] * 5
    with pytest.raises(StorageInternalError):
        storage.patiently(ask)


def test_lost_storage_ends_in_one_line(tmp_path: Path) -> None:
    search = compose("search=random", f"search.storage='sqlite:///{tmp_path}/studies.db'").search
    backend = storage_of(search, None).backend
    with closing(sqlite3.connect(tmp_path / "studies.db")) as opened:
        opened.execute("DROP TABLE studies")
    with pytest.raises(OSError, match="no such table: studies") as lost, in_one_line(search):
        backend.get_study_id_from_name("head")
    assert lost.value.filename == f"sqlite:///{tmp_path}/studies.db" and "\n" not in str(lost.value)


@pytest.mark.slow
def test_postgresql_lock_is_exclusive() -> None:
    with postgresql.database() as url:
        assert_exclusive(url)
        assert_released_by_exit(url)


def test_full_disk_is_named_and_leaves_a_journal_to_the_next_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another search shares the file: it writes behind the last whole line, not behind what the disk took of one."""
    options, file = compose(f"search.storage={tmp_path}/study.log").search, tmp_path / "study.log"
    ours, theirs = (storage_of(options, None).backend for _ in range(2))
    study = ours.create_new_study([StudyDirection.MAXIMIZE], "s")

    def full(descriptor: int) -> None:
        os.truncate(file, file.stat().st_size - 9)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, pytest.raises(OSError, match=re.escape(f"No space left on device: '{file}'")):
        patch.setattr(os, "fsync", full)
        ours.set_study_user_attr(study, "lost", 1)
    theirs.set_study_user_attr(study, "kept", 2)
    assert storage_of(options, None).backend.get_study_user_attrs(study) == {"kept": 2}
    assert ours.get_study_user_attrs(study) == {"kept": 2}
