"""Locks, also on file systems without them; and background threads report their exceptions."""

from __future__ import annotations

import errno
import fcntl
import io
import os
import re
import threading
import time
from pathlib import Path

import pytest
import torch
from filelock import Timeout

import stores
from frostline.core import background, locks, notices
from frostline.records import heartbeat, journal
from frostline.records.recording import Record
from frostline.records.system_metrics import sampled
from frostline.store import removal
from frostline.store.store import Store
from frostline.sweeps import pool
from frostline.tracking import server, session
from frostline.tracking.mirror_thread import MirrorThread
from frostline.tracking.pending_sweeps import RecordPlace

SOURCE = Path(__file__).parents[2] / "src"
MISSING = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


@pytest.fixture(autouse=True)
def said(monkeypatch):
    """Return the notices."""
    lines: list[str] = []
    monkeypatch.setattr(notices, "_told", set())
    monkeypatch.setattr(notices, "_say", lines.append)
    return lines


def refuse(monkeypatch, number):
    def flock(descriptor, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.mark.parametrize("number", [None, *MISSING])
def test_locks_are_exclusive_with_and_without_file_system_support(tmp_path, monkeypatch, said, number):
    if number is not None:
        refuse(monkeypatch, number)
    for name in ("a", "b"):
        with locks.held(tmp_path / name):
            with pytest.raises(Timeout), locks.held(tmp_path / name, timeout=0):
                pass
        with locks.held(tmp_path / name, timeout=0):
            pass
    assert len(said) == (number is not None)
    assert not any(os.strerror(number) not in line for line in said if number is not None)
    assert not list(tmp_path.glob("*.lease"))


def test_lease_of_a_killed_holder_is_taken_over(tmp_path, monkeypatch):
    refuse(monkeypatch, errno.ENOLCK)
    if (pid := os.fork()) == 0:
        held = locks.acquire(tmp_path / "a")
        os._exit(0 if held.is_locked else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0 and list(tmp_path.glob("*.lease"))
    with locks.held(tmp_path / "a", timeout=5):
        pass


def test_other_lock_errors_are_raised(tmp_path, monkeypatch, said):
    refuse(monkeypatch, errno.EIO)
    with pytest.raises(OSError, match="Input/output error"), locks.held(tmp_path / "a"):
        pass
    assert not said


def test_store_entry_is_made_once_without_file_system_locks(tmp_path, monkeypatch, said):
    refuse(monkeypatch, errno.ENOLCK)
    store, calls = Store(tmp_path / "store", budget=10**6, say=said.append), []

    def make(writer):
        calls.append(1)
        time.sleep(0.1)
        writer.tensor("rows", (3,), torch.uint8)
        return {}

    threads = [threading.Thread(target=store.get, args=("pixels", "a" * 64, make), kwargs={"about": "x"}) for _ in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (item,) = store.items()
    assert len(calls) == 1 and len(said) == 1 and removal.remove(item)


def open_sweep(folder, uri, say):
    folder.mkdir()
    return session.open_sweep(RecordPlace(uri, "e"), folder=folder, name="s", tags={}, say=say)


@pytest.mark.slow
def test_sweep_is_recorded_without_file_system_locks(tmp_path, monkeypatch, said):
    uri = f"sqlite:///{stores.put(tmp_path / 'mlflow.db')}"
    refuse(monkeypatch, errno.ENOLCK)
    tracker = open_sweep(tmp_path / "sweep", uri, said.append)
    assert session.close_sweep(tracker, status="FINISHED", description="done", results=[], say=said.append)
    run = server.client_of(uri).get_run(journal.run_id(tmp_path / "sweep"))
    assert (run.info.status, run.data.tags["mlflow.note.content"]) == ("FINISHED", "done")
    assert len(said) == 1, "only the notice about missing locks"


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES])
def test_mirror_without_a_lock_reports_it_and_retries(tmp_path, monkeypatch, said, number):
    uri, held = f"sqlite:///{stores.put(tmp_path / 'mlflow.db')}", locks.held

    def broken(path, **options):
        if path.name == ".mirror.lock":
            raise OSError(number, os.strerror(number), str(path))
        return held(path, **options)

    monkeypatch.setattr(locks, "held", broken)
    began = time.monotonic()
    tracker = open_sweep(tmp_path / "sweep", uri, said.append)
    assert time.monotonic() - began < 30 and len(said) == 1 and os.strerror(number) in said[0]
    monkeypatch.setattr(locks, "held", held)
    assert session.close_sweep(tracker, status="FINISHED", description="done", results=[], say=said.append)
    assert journal.run_id(tmp_path / "sweep") and len(said) == 1


def test_failed_mirror_is_reported_at_once_and_at_the_end(tmp_path, monkeypatch, said):
    monkeypatch.setattr(MirrorThread, "_follow", lambda self: 1 / 0)
    uri, began = f"sqlite:///{stores.put(tmp_path / 'mlflow.db')}", time.monotonic()
    tracker = open_sweep(tmp_path / "sweep", uri, said.append)
    assert not session.close_sweep(tracker, status="FINISHED", description="", results=[], say=said.append)
    assert time.monotonic() - began < 30
    assert "ZeroDivisionError" in said[0] and "frostline sync" in said[-1]


def test_exceptions_in_threads_are_reported(tmp_path, monkeypatch, said):
    record, run = Record(tmp_path), tmp_path / "run"
    run.mkdir()
    monkeypatch.setattr(record, "metrics", lambda *_, **__: 1 / 0)
    with sampled(record, on=True, device="cpu"):
        pass
    monkeypatch.setattr(heartbeat, "_EVERY", 0.001)
    monkeypatch.setattr(heartbeat.os, "utime", lambda path: 1 / 0)
    with heartbeat.beating() as heart:
        heart.claim(run)
        heart._thread.join(5)
    assert [bool(re.search(r"\(ZeroDivisionError: division by zero\)", line)) for line in said] == [True, True]


def test_worker_output_is_read_despite_encoding_errors(monkeypatch):
    class Process:
        stdout = io.BytesIO("déjà\nvu\n".encode())

    printed = []

    class Terminal:
        def write(self, text):
            printed.append(text.encode("ascii").decode())

        def flush(self):
            pass

    monkeypatch.setattr(pool.sys, "stdout", Terminal())
    pool._relay("worker 0", Process())
    assert printed == ["[worker 0] vu\n"]


def test_threads_and_locks_are_created_in_one_module():
    own = [path.name for path in SOURCE.rglob("*.py") if re.search(r"\bThread\(|start_new_thread", path.read_text())]
    assert own == [Path(background.__file__).name]
    locking = [path.name for path in SOURCE.rglob("*.py") if re.search(r"\bFileLock\(|flock\(", path.read_text())]
    assert locking == [Path(locks.__file__).name]


def test_file_locks_are_shared_or_exclusive(tmp_path: Path):
    (file := tmp_path / "file").write_text("")
    one, two = locks.Shared(file), locks.Shared(file)
    with pytest.raises(BlockingIOError), locks.exclusive(file):
        pass
    del one
    with pytest.raises(BlockingIOError), locks.exclusive(file):
        pass
    del two
    with locks.exclusive(file), pytest.raises(BlockingIOError):
        locks.Shared(file)
    locks.Shared(file)
