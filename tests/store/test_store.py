"""The store computes each entry once, returns it unchanged, and recomputes it if its files are damaged."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import warm
from disk import file_size_limit
from frostline.commands.store import main as command
from frostline.core import memory
from frostline.core.errors import UserError
from frostline.data import loading
from frostline.store import checksums, entries, mapped, removal
from frostline.store.checksums import DamagedEntry
from frostline.store.device_budget import DeviceBudget
from frostline.store.rows import Rows
from frostline.store.store import Store, open_store
from frostline.store.writer import NoRoom, Writer

SOURCE = Path(__file__).parents[2] / "src"


def key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def counting(calls: list[int]) -> Callable[[Writer], dict[str, Any]]:
    def make(writer: Writer) -> dict[str, Any]:
        calls.append(1)
        writer.tensor("rows", (3, 4), torch.bfloat16)[1] = 2.5
        writer.tensor("none", (0, 7), torch.uint8)
        writer.tensor("flag", (), torch.bool).fill_(True)
        return {"pair": (1, 2)}

    return make


def kilobytes(count: int) -> Callable[[Writer], dict[str, Any]]:
    def make(writer: Writer) -> dict[str, Any]:
        writer.tensor("rows", (count, 1000), torch.uint8).fill_(7)
        return {}

    return make


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def store(tmp_path: Path, said: list[str]) -> Store:
    return Store(tmp_path / "store", budget=10**6, say=said.append)


def files(store: Store) -> list[Path]:
    assert store.folder is not None
    return sorted(file for file in store.folder.rglob("*") if file.is_file() and file.suffix != ".lock")


def test_entry_is_made_once_and_found_unchanged(store: Store, said: list[str]):
    calls: list[int] = []
    assert not store.has("pixels", key("a"))
    made = store.get("pixels", key("a"), counting(calls), about="digits")
    found = store.get("pixels", key("a"), counting(calls), about="digits")
    assert (made.made, found.made, len(calls), said) == (True, False, 1, [])
    assert store.has("pixels", key("a")) and not store.has("features", key("a"))
    for entry in (made, found):
        assert entry.meta == {"pair": [1, 2]}
        assert entry.tensors["rows"].tolist() == [[0] * 4, [2.5] * 4, [0] * 4]
        assert entry.tensors["none"].shape == (0, 7) and entry.tensors["flag"].item() is True


@pytest.mark.parametrize("dtype", mapped.DTYPES.values(), ids=str)
def test_every_dtype_round_trips(store: Store, dtype: torch.dtype):
    values = torch.tensor([0, 1, 1, 0]).to(dtype)

    def make(writer: Writer) -> dict[str, Any]:
        writer.tensor("t", (4,), dtype).copy_(values)
        return {}

    for _ in range(2):
        assert torch.equal(store.get("features", key("t"), make, about="t").tensors["t"], values)


def test_too_large_tensor_raises_enomem():
    with pytest.raises(OSError, match="no memory for rows of 4,") as refused:
        Writer().tensor("rows", (1 << 40, 1 << 20), torch.float32)
    assert refused.value.errno == errno.ENOMEM


def test_writes_to_a_found_tensor_are_private(store: Store):
    for _ in range(2):  # made, then found
        rows = store.get("pixels", key("a"), counting([]), about="digits").tensors["rows"]
        assert rows[0, 0] == 0
        rows[0, 0] = 9


def test_disabled_store_makes_entries_in_memory(tmp_path: Path, said: list[str]):
    store = open_store(enabled=False, path=str(tmp_path / "none"), budget_gb=1, say=said.append)
    calls: list[int] = []
    for _ in range(2):
        entry = store.get("pixels", key("a"), counting(calls), about="digits")
        assert entry.made and entry.meta == {"pair": [1, 2]} and entry.tensors["rows"].sum() == 10
    assert len(calls) == 2 and not (tmp_path / "none").exists() and store.items() == []


def test_folder_is_by_path_environment_or_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FROSTLINE_STORE", str(tmp_path / "env"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    options: dict[str, Any] = {"enabled": True, "budget_gb": 0.5, "say": print}
    assert open_store(path=str(tmp_path / "own"), **options).folder == tmp_path / "own"
    assert open_store(path=None, **options).folder == tmp_path / "env"
    monkeypatch.delenv("FROSTLINE_STORE")
    found = open_store(path=None, **options)
    assert found.folder is not None and found.folder.name == "frostline" and found.budget == 5 * 10**8


def test_unknown_home_in_path_is_one_line():
    with pytest.raises(UserError, match=r"store\.path=~nobody-here/store: expected a folder"):
        open_store(enabled=True, path="~nobody-here/store", budget_gb=1, say=print)


def test_failed_making_leaves_no_files(store: Store):
    def fail(writer: Writer) -> dict[str, Any]:
        writer.tensor("rows", (3,), torch.uint8)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        store.get("pixels", key("a"), fail, about="digits")
    assert files(store) == []


@pytest.mark.slow
def test_every_damaged_byte_is_detected(store: Store, said: list[str]):
    calls: list[int] = []
    store.get("pixels", key("a"), counting(calls), about="digits")
    spots = [(file, at) for file in files(store) for at in range(file.stat().st_size)]
    for number, (file, at) in enumerate(spots):
        content = bytearray(file.read_bytes())
        content[at] ^= 1 << number % 8
        file.write_bytes(content)
        entry = store.get("pixels", key("a"), counting(calls), about="digits")
        assert entry.made and entry.tensors["rows"].sum() == 10, (file.name, at)
    assert len(calls) == len(said) + 1 == len(spots) + 1
    assert all("digits is damaged" in line and "\n" not in line for line in said)


def test_large_file_has_a_checksum_per_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checksums, "_PIECE", 40)
    monkeypatch.setattr(checksums, "_AT_ONCE", 2)  # in several threads
    content, file = bytes(range(100)), tmp_path / "rows"
    file.write_bytes(content)
    assert checksums.checksum(file) == [zlib.crc32(part) for part in (content[:40], content[40:80], content[80:])]


@pytest.mark.parametrize("name", ["rows", "none", "flag", "entry.jsonl"])
@pytest.mark.parametrize("damage", ["gone", "empty", "longer"])
def test_missing_truncated_and_longer_files_are_detected(store: Store, name: str, damage: str):
    store.get("pixels", key("a"), counting([]), about="digits")
    (file,) = (file for file in files(store) if file.name == name)
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(b"" if damage == "empty" and name != "none" else file.read_bytes() + b"x")
    assert store.get("pixels", key("a"), counting([]), about="digits").made
    assert not store.get("pixels", key("a"), counting([]), about="digits").made


@pytest.mark.parametrize(
    "change",
    [
        {"tensors": {"../../../../secret": {"dtype": "uint8", "shape": [3], "crc32": 0}}},
        {"tensors": {"rows": {"dtype": "load", "shape": [3], "crc32": 0}}},
        {"tensors": {"rows": {"dtype": "uint8", "shape": [-1, -24], "crc32": 0}}},
        {"tensors": {"rows": {"dtype": "uint8", "shape": "x", "crc32": 0}}},
        {"tensors": {"rows": 3}},
        {"tensors": [1]},
        {"key": "0" * 64},
    ],
)
def test_edited_entry_file_reads_no_other_files(store: Store, change: dict[str, Any], tmp_path: Path):
    (tmp_path / "secret").write_bytes(b"abc")
    store.get("pixels", key("a"), counting([]), about="digits")
    (file,) = (file for file in files(store) if file.name == "entry.jsonl")
    text = json.dumps(json.loads(file.read_text().splitlines()[0]) | change)
    match change:
        case {"tensors": {"rows": {"crc32": _} as rows}}:
            rows["crc32"] = checksums.checksum(file.parent / "rows")
            text = json.dumps(json.loads(text) | change)
    file.write_text(f"{text}\n{hashlib.sha256(text.encode()).hexdigest()}\n")
    assert store.get("pixels", key("a"), counting([]), about="digits").made


def test_two_threads_make_one_entry(store: Store):
    calls: list[int] = []

    def slow(writer: Writer) -> dict[str, Any]:
        time.sleep(0.2)
        return counting(calls)(writer)

    threads = [threading.Thread(target=store.get, args=("pixels", key("a"), slow), kwargs={"about": "digits"})]
    threads += [threading.Thread(target=store.get, args=("pixels", key("a"), slow), kwargs={"about": "digits"})]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1


def test_making_may_get_another_entry(store: Store):
    def features(writer: Writer) -> dict[str, Any]:
        rows = store.get("pixels", key("a"), counting([]), about="digits").tensors["rows"]
        writer.tensor("sum", (), torch.float32).copy_(rows.sum())
        return {}

    assert store.get("features", key("b"), features, about="sum").tensors["sum"] == 10


@pytest.mark.parametrize("suffix", ["", ".part"])
@pytest.mark.parametrize("dead_link", [True, False])
def test_file_in_place_of_an_entry_is_replaced(store: Store, said: list[str], suffix: str, dead_link: bool):
    place = store._place("pixels", key("a"))
    place.parent.mkdir(parents=True)
    odd = place.with_name(place.name + suffix)
    odd.symlink_to("nowhere") if dead_link else odd.write_text("left by a repaired disk")
    assert [store.get("pixels", key("a"), counting([]), about="digits").made for _ in range(2)] == [True, False]


SCRIPT = """
import os, sys, time, torch
from pathlib import Path
from frostline.store.store import Store

folder, log, seconds, processes = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])

def make(writer):
    rows = writer.tensor("rows", (5, 1000), torch.uint8)
    rows[0] = 1
    with log.open("a") as file:
        file.write("made\\n")
    time.sleep(seconds)
    rows[:] = torch.arange(5)[:, None]
    return {"n": 5}

for _ in range(processes - 1):
    if os.fork() == 0:
        break
lines = []
entry = Store(folder, budget=10**6, say=lines.append).get("pixels", "a" * 64, make, about="digits")
lines.append(f"{entry.made} {int(entry.tensors['rows'].sum())} {entry.meta}")
os.write(1, ("; ".join(lines) + "\\n").encode())
os._exit(0)
"""


def start(folder: Path, seconds: float, processes: int) -> warm.Popen:
    command = [sys.executable, "-c", SCRIPT, str(folder), str(folder.with_name("log")), str(seconds), str(processes)]
    environment = os.environ | {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
    return warm.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


@pytest.mark.slow
def test_of_ten_processes_one_computes_and_others_wait(tmp_path: Path):
    with start(tmp_path / "store", 2, 10) as process:
        assert process.stdout is not None
        answers = process.stdout.read().splitlines()
    assert (tmp_path / "log").read_text() == "made\n"
    waited = "store: waiting for another process that is computing digits; False 10000 {'n': 5}"
    assert sorted(answers) == ["True 10000 {'n': 5}"] + [waited] * 9


@pytest.mark.slow
def test_files_of_a_killed_process_are_removed(tmp_path: Path, said: list[str]):
    with start(tmp_path / "store", 60, 1) as process:
        while not (tmp_path / "log").exists():
            time.sleep(0.02)
        process.kill()
    store = Store(tmp_path / "store", budget=10**6, say=said.append)
    assert {file.name for file in files(store)} - {"unfinished.jsonl"} == {"rows"} and store.items() == []
    assert not store.has("pixels", "a" * 64)
    store.get("pixels", key("b"), counting([]), about="digits")
    assert {file.parent.name for file in files(store)} == {key("b")}
    assert store.get("pixels", "a" * 64, counting([]), about="digits").made and said == []


def test_least_recently_used_entries_are_evicted(tmp_path: Path):
    store = Store(tmp_path / "store", budget=100_000, say=print)
    for number, name in enumerate("abc"):
        store.get("features", key(name), kilobytes(30), about=name)
        (seal,) = (tmp_path / "store").glob(f"*/*/{key(name)}/entry.jsonl")
        os.utime(seal, (number, number))
    store.get("features", key("a"), kilobytes(30), about="a")
    store.get("features", key("d"), kilobytes(30), about="d")
    assert [item.about for item in store.items()] == ["c", "a", "d"]
    assert sum(item.size for item in store.items()) <= 100_000


def test_entry_above_the_budget_is_not_kept(tmp_path: Path, said: list[str]):
    store = Store(tmp_path / "store", budget=50_000, say=said.append)
    store.get("features", key("a"), kilobytes(30), about="a")
    entry = store.get("features", key("b"), kilobytes(60), about="b")
    assert entry.made and entry.tensors["rows"].shape == (60, 1000) and (entry.tensors["rows"] == 7).all()
    assert [item.about for item in store.items()] == ["a"] and "store.budget_gb" in said[0]


def test_unfinished_entry_is_not_removed(store: Store):
    seen: list[bool] = []
    folder = store.folder
    assert folder is not None

    def make(writer: Writer) -> dict[str, Any]:
        rows = writer.tensor("rows", (3,), torch.uint8)
        worker = threading.Thread(target=lambda: seen.append(removal.tidy(folder) == 0))
        worker.start()
        worker.join()
        rows.fill_(1)
        return {}

    assert store.get("features", key("a"), make, about="a").tensors["rows"].sum() == 3
    assert seen == [True] and store.has("features", key("a"))


def test_entry_in_use_is_not_removed_or_evicted(tmp_path: Path, said: list[str]):
    store = Store(tmp_path / "store", budget=50_000, say=said.append)
    rows = store.get("pixels", key("a"), kilobytes(30), about="a").tensors["rows"]
    assert not removal.remove(store.items()[0])
    other = store.get("features", key("b"), kilobytes(30), about="b").tensors["rows"]
    assert (other == 7).all() and [item.about for item in store.items()] == ["a"]
    assert "30,000 bytes, more than store.budget_gb leaves beside entries in use" in said[0]
    del rows
    store.get("features", key("b"), kilobytes(30), about="b")
    assert [item.about for item in store.items()] == ["b"]
    assert removal.remove(store.items()[0]) and files(store) == []


def test_open_entry_is_readable_after_its_removal(store: Store):
    rows = store.get("features", key("a"), kilobytes(20), about="a").tensors["rows"]
    shutil.rmtree(store.items()[0].place)
    mapped.release(rows)
    assert (rows == 7).all()


def test_entries_of_a_family_do_not_evict_each_other(tmp_path: Path, said: list[str]):
    store, calls = Store(tmp_path / "store", budget=100_000, say=said.append), list[str]()

    def epoch(name: str) -> Callable[[Writer], dict[str, Any]]:
        return lambda writer: (calls.append(name), kilobytes(30)(writer))[1]

    for name in "abcd" * 2:
        store.get("features", key(name), epoch(name), about=name, family="views")
    assert {item.about for item in store.items()} == {*"abc"}
    assert [calls.count(name) for name in "abc"] == [1, 1, 1] and len(said) == 2
    store.get("features", key("e"), kilobytes(80), about="e")
    assert [item.about for item in store.items()] == ["e"]


def test_budget_holds_while_entries_are_made(tmp_path: Path, said: list[str]):
    store, most = Store(tmp_path / "store", budget=100_000, say=said.append), list[int]()

    def watched(writer: Writer) -> dict[str, Any]:
        for number in range(4):
            writer.tensor(f"t{number}", (10_000,), torch.uint8)
            most.append(sum(file.stat().st_size for file in files(store)))
        return {}

    def other(writer: Writer) -> dict[str, Any]:
        writer.tensor("first", (30_000,), torch.uint8)
        store.get("features", key("within"), watched, about="within")
        most.append(sum(file.stat().st_size for file in files(store)))
        return {}

    for name in "abcdef":
        store.get("features", key(name), watched, about=name)
        store.get("features", key(name * 2), other, about=name)
    assert 80_000 < max(most) <= 100_000 and said == []


def test_entry_without_room_is_refused_before_it_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
):
    monkeypatch.setattr(memory, "budget", lambda device, gigabytes: 20_000)
    for folder in (tmp_path / "store", None):
        store = Store(folder, budget=30_000, say=said.append)
        assert store.room_per_kind == (15_000 if folder else 10_000)
        with pytest.raises(NoRoom, match="more than a third of the free memory"):
            store.get("pixels", key("a"), kilobytes(40), about="a")
    assert said == [] and files(Store(tmp_path / "store", budget=0, say=print)) == []


def test_piecemeal_entries_are_checked_when_read(store: Store, monkeypatch: pytest.MonkeyPatch, said: list[str]):
    monkeypatch.setattr(checksums, "_PIECE", 1000)

    def make(writer: Writer) -> dict[str, Any]:
        rows = torch.arange(20, dtype=torch.uint8)[:, None].expand(20, 600)
        writer.tensor("rows", (20, 600), torch.uint8, piecemeal=True).copy_(rows)
        return {}

    def get() -> Rows:
        return Rows(store.get("pixels", key("a"), make, about="a").tensors["rows"], torch.arange(20))

    for streamed in (True, False):
        get()
        (file,) = (file for file in files(store) if file.name == "rows")
        content = bytearray(file.read_bytes())
        content[7 * 600] ^= 1
        file.write_bytes(content)  # not yet checked by this process
        rows = get().streamed() if streamed else get()
        assert rows[torch.tensor([3, 12])][:, 0].tolist() == [3, 12]
        with pytest.raises(DamagedEntry, match="a: rows has changed"):
            rows[torch.tensor([3, 7])]
        with pytest.raises(DamagedEntry):
            DeviceBudget(torch.device("cpu"), 10**6).take(rows.whole)
        del rows
        assert get()[torch.tensor([7])][0, 0] == 7


@pytest.mark.parametrize("found_by", ["this process", "another process"])
def test_damaged_piece_of_a_read_only_store_is_made_again(
    found_by: str, store: Store, monkeypatch: pytest.MonkeyPatch, said: list[str]
):
    def refuse(path: Path, *, missing_ok: bool = False) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    def make(writer: Writer) -> dict[str, Any]:
        writer.tensor("rows", (20, 600), torch.uint8, piecemeal=True).fill_(7)
        return {}

    def get() -> int:
        return int(Rows(store.get("pixels", key("a"), make, about="a").tensors["rows"], torch.arange(20))[3][0])

    assert get() == 7
    (file,) = (file for file in files(store) if file.name == "rows")
    file.write_bytes(b"\0" * 12_000)
    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(DamagedEntry, match="a: rows has changed") as found:
        get()
    if found_by == "another process":
        entries._distrusted.clear()
        theirs = pickle.loads(pickle.dumps(found.value))

        def attempt() -> int:
            if theirs.version not in entries.distrusted():
                raise theirs
            return get()

        assert loading.despite_damage(attempt, lambda line: None) == 7
    assert get() == 7
    assert "a is damaged" in said[0] and "a is kept in memory only" in said[1] and "Permission denied" in said[1]


@pytest.mark.parametrize("index", [torch.tensor([4, 0, 4]), slice(1, 3), 2], ids=str)
def test_streamed_rows_equal_rows_in_memory(store: Store, index: Any):
    def make(writer: Writer) -> dict[str, Any]:
        writer.tensor("rows", (6, 2, 3), torch.float32).copy_(torch.arange(36).view(6, 2, 3))
        return {}

    rows = Rows(store.get("features", key("a"), make, about="a").tensors["rows"], torch.tensor([5, 3, 1, 0, 2]))
    assert torch.equal(rows.streamed()[index], rows[index]) and rows[index].shape[-2:] == (2, 3)


def test_entry_is_made_in_memory_if_files_cannot_grow(store: Store, said: list[str]):
    with file_size_limit(50_000):
        entry = store.get("features", key("a"), kilobytes(60), about="a")
    assert entry.made and (entry.tensors["rows"] == 7).all()
    assert len(said) == 1 and "a is kept in memory only" in said[0] and "\n" not in said[0]
    assert files(store) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Yield a file system of 1 MB."""
    (folder := tmp_path / "disk").mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root can mount a small file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_entry_is_made_in_memory_on_a_full_disk(small_disk: Path, said: list[str]):
    store = Store(small_disk / "store", budget=10**9, say=said.append)
    kept = store.get("features", key("a"), kilobytes(600), about="a")
    entry = store.get("features", key("b"), kilobytes(600), about="b")
    assert (kept.tensors["rows"] == 7).all() and (entry.tensors["rows"] == 7).all()
    assert len(said) == 1 and "No space left on device" in said[0]
    assert [item.about for item in store.items()] == ["a"]


def test_entry_is_made_in_memory_if_its_room_cannot_be_claimed(store: Store, said: list[str]):
    """The disk has no more files, as a read-only one opens none: everything before was written."""
    store.get("features", key("a"), kilobytes(20), about="a")
    assert store.folder is not None
    (store.folder / "room.lock").unlink()
    (store.folder / "room.lock").mkdir()
    assert (store.get("features", key("b"), kilobytes(20), about="b").tensors["rows"] == 7).all()
    assert said == [f"store: b is kept in memory only, since {store.folder} cannot take it (Is a directory)"]


def test_entry_is_made_in_memory_if_none_can_be_evicted(store: Store, said: list[str], monkeypatch: pytest.MonkeyPatch):
    def refuse(path: Path, to: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    store.get("features", key("a"), kilobytes(900), about="a")
    monkeypatch.setattr(Path, "rename", refuse)
    assert (store.get("features", key("b"), kilobytes(900), about="b").tensors["rows"] == 7).all()
    assert [item.about for item in store.items()] == ["a"]
    assert len(said) == 1 and "b is kept in memory only" in said[0] and "Permission denied" in said[0]


def test_read_only_store_makes_new_entries_in_memory(small_disk: Path, said: list[str]):
    store = Store(small_disk / "store", budget=10**9, say=said.append)
    store.get("features", key("a"), kilobytes(20), about="a")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert not store.get("features", key("a"), kilobytes(20), about="a").made
    assert store.get("features", key("b"), kilobytes(20), about="b").made
    assert len(said) == 1 and "b is kept in memory only" in said[0] and "Read-only" in said[0]


def test_impossible_folder_is_reported_in_one_line(tmp_path: Path, said: list[str]):
    (tmp_path / "file").write_text("")
    store = Store(tmp_path / "file" / "store", budget=10**6, say=said.append)
    assert store.get("features", key("a"), kilobytes(20), about="a").made and len(said) == 1 and store.items() == []


def test_release_frees_pages_and_keeps_values(store: Store):
    def make(writer: Writer) -> dict[str, Any]:
        rows = writer.tensor("rows", (900, 1000), torch.uint8)
        rows[:] = 3
        mapped.release(rows[5:])  # of a part releases the whole tensor
        assert (rows == 3).all()
        return {}

    rows = store.get("features", key("a"), make, about="a").tensors["rows"]
    assert (rows == 3).all()
    mapped.release(rows)
    assert (rows == 3).all()
    own = torch.ones(3)
    mapped.release(own)
    assert own.sum() == 3


def test_command_lists_verifies_and_clears(
    store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("FROSTLINE_STORE", str(store.folder))
    for kind, name in (("pixels", "digits at 8x8"), ("features", "resnet18 of digits")):
        store.get(kind, key(name), kilobytes(20), about=name)
    assert command([]) == 0
    shown = capsys.readouterr().out
    for text in ("pixels", "digits at 8x8", "resnet18 of digits", "20.3 kB", "2 entries in", "of 50 GB"):
        assert text in shown, shown
    assert command(["verify"]) == 0 and "2 entries checked, 0 damaged" in capsys.readouterr().out
    rows = next(file for file in files(store) if file.parts[-4] == "pixels" and file.name == "rows")
    rows.write_bytes(rows.read_bytes()[:-1] + b"x")
    assert command(["verify"]) == 1
    assert "damaged: pixels digits at 8x8: rows has changed" in capsys.readouterr().out
    assert command(["clear", "--older-than", "1h"]) == 0 and "0 entries removed" in capsys.readouterr().out
    assert command(["clear", "--kind", "pixels"]) == 0 and "1 entry removed, 20.3 kB freed" in capsys.readouterr().out
    assert [item.kind for item in store.items()] == ["features"]
    assert command(["clear"]) == 0 and files(store) == []
    with pytest.raises(UserError, match="--older-than=soon"):
        command(["clear", "--older-than", "soon"])


def test_clear_reports_entries_it_cannot_remove(
    store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("FROSTLINE_STORE", str(store.folder))
    for name in ("a", "b", "c"):
        store.get("pixels", key(name), kilobytes(20), about=f"digits {name}")
    a, _, c = sorted(store.items(), key=lambda item: item.about)
    for place in (a.place, c.place.with_name(key("d"))):  # c becomes an unfinished entry
        (lock := place.with_name(f"{place.name}.lock")).unlink(missing_ok=True)
        lock.mkdir(parents=True)  # no lock can be taken, as on a read-only disk
    c.place.rename(c.place.with_name(f"{key('d')}.part"))
    use = store.get("pixels", key("b"), kilobytes(20), about="digits b")
    assert command(["clear"]) == 1
    out, err = capsys.readouterr()
    assert f"0 entries removed, 0 bytes freed in {store.folder}; 1 in use stays" in out
    assert f"2 entries could not be removed: pixels {key('d')}.part: Is a directory; pixels digits a: Is a dir" in err
    del use
    assert command(["clear", "--kind", "features"]) == 1 and command(["clear"]) == 1
    assert "1 entry removed, 20.3 kB freed" in capsys.readouterr().out
    assert [item.about for item in store.items()] == ["digits a"]


def test_verification_does_not_count_as_use(store: Store):
    store.get("features", key("a"), kilobytes(20), about="a")
    (item,) = store.items()
    os.utime(item.place / "entry.jsonl", (5, 5))
    entries.find(item.place, trusted=False)
    assert store.items()[0].used == 5
