"""Checkpoints are atomic, detect all damage, keep the previous one, and run no code."""

from __future__ import annotations

import hashlib
import os
import pickle
import random
import resource
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import warm
from canary import Canary
from frostline.training import checkpoint
from small import last_checkpoint

SOURCE = str(Path(__file__).parents[2] / "src")
SAVES_WITH_KILLS = """
import os, sys
from pathlib import Path
import torch
from frostline.training import checkpoint
def dying(function):
    def call(*arguments, **options):
        global calls
        calls += 1
        if calls == deadly:
            os.kill(os.getpid(), 9)
        return function(*arguments, **options)
    return call
checkpoint.save_file = dying(checkpoint.save_file)
for name in ("fsync", "replace", "rename", "unlink", "pread"):
    setattr(os, name, dying(getattr(os, name)))
for deadly in range(1, 100):
    calls = 0
    folder = Path(sys.argv[1]) / str(deadly)
    folder.mkdir()
    if os.fork() == 0:
        for number in range(1, 5):
            checkpoint.save(folder / "checkpoint", {"a": torch.full((1000,), float(number))}, {"number": number})
            (folder / "saved").write_text(str(number))
        os._exit(0)
    if os.wait()[1] == 0:
        break
print(deadly)
"""


def tensors_of_all_kinds(seed: int = 0) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {
        "weight": torch.randn(8, 4, 3, 3, generator=draw).to(memory_format=torch.channels_last),
        "square": torch.randn(3, 3, 3, 3, generator=draw).to(memory_format=torch.channels_last),
        "transposed": torch.randn(5, 7, generator=draw).T,
        "part": torch.randn(6, 6, generator=draw)[:, :2],
        "count": torch.tensor(7),
        "half": torch.randn(5, generator=draw).bfloat16(),
        "odd": torch.tensor([float("nan"), float("inf"), -0.0]),
        "none": torch.zeros(0, 3),
        "mask": torch.tensor([True, False]),
    }


def fail(line: str) -> None:
    raise AssertionError(line)


def last_number(folder: Path, say: Callable[[str], None] = fail) -> int:
    found = last_checkpoint(folder, say)
    assert found is not None
    return int(found[1]["number"])


def equal_bits(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(
        a[n].shape == b[n].shape
        and a[n].dtype == b[n].dtype
        and torch.equal(a[n].contiguous().flatten().view(torch.uint8), b[n].contiguous().flatten().view(torch.uint8))
        for n in a
    )


def test_checkpoint_round_trip_is_bit_exact(tmp_path: Path) -> None:
    facts = {"epoch": 3, "sum": 0.1 + 0.2, "names": ["ü", "b"], "nested": {"a": None}}
    path = checkpoint.save(tmp_path / "checkpoint", tensors_of_all_kinds(), facts)
    found = last_checkpoint(tmp_path, fail)
    assert found is not None
    assert equal_bits(found[0], tensors_of_all_kinds())
    assert found[1] == facts
    assert found[0]["weight"].is_contiguous(memory_format=torch.channels_last)
    assert path.with_suffix(".sha256").read_text() == f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"


def test_missing_checkpoint_is_none(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path, fail) is None
    assert checkpoint.newest(tmp_path / "checkpoint") == []


def test_newest_two_checkpoints_are_kept(tmp_path: Path) -> None:
    for number in range(1, 5):
        checkpoint.save(tmp_path / "checkpoint", tensors_of_all_kinds(number), {"number": number})
    assert last_number(tmp_path) == 4
    assert sorted(path.name for path in (tmp_path / "checkpoint").iterdir()) == [
        f"00000{number}.{suffix}" for number in (3, 4) for suffix in ("safetensors", "sha256")
    ]


@pytest.mark.parametrize("suffix", ["safetensors", "sha256"])
def test_damaged_checkpoint_is_reported_and_skipped(tmp_path: Path, suffix: str) -> None:
    for number in (1, 2):
        newest = checkpoint.save(tmp_path / "checkpoint", tensors_of_all_kinds(number), {"number": number})
    draw, content = random.Random(0), newest.with_suffix(f".{suffix}").read_bytes()
    flips = 150
    for _ in range(flips):
        at = draw.randrange(8 * len(content))
        flipped = bytearray(content)
        flipped[at // 8] ^= 1 << at % 8
        newest.with_suffix(f".{suffix}").write_bytes(flipped)
        lines: list[str] = []
        found = last_checkpoint(tmp_path, lines.append)
        assert found is not None
        assert found[1] == {"number": 1}
        assert equal_bits(found[0], tensors_of_all_kinds(1))
        assert len(lines) == 1
        assert str(newest) in lines[0]


@pytest.mark.parametrize("damage", ["empty", "cut", "alone", "folder"])
def test_incomplete_checkpoint_is_skipped(tmp_path: Path, damage: str) -> None:
    for number in (1, 2):
        newest = checkpoint.save(tmp_path / "checkpoint", tensors_of_all_kinds(number), {"number": number})
    if damage == "alone":
        newest.with_suffix(".sha256").unlink()
    elif damage == "folder":
        newest.unlink()
        newest.mkdir()
    else:
        newest.write_bytes(b"" if damage == "empty" else newest.read_bytes()[:-100])
    lines: list[str] = []
    assert last_number(tmp_path, lines.append) == 1
    assert len(lines) == 1
    complete = "000001" if damage == "alone" else "000002"
    assert [path.stem for path in checkpoint.newest(newest.parent)] == [complete, complete]


def test_numbers_outgrow_their_digits_and_other_entries_do_no_harm(tmp_path: Path) -> None:
    home = tmp_path / "checkpoint"
    (home / "other.safetensors").mkdir(parents=True)
    (home / "999999.safetensors").touch()
    checkpoint.save(home, tensors_of_all_kinds(), {"number": 1})
    assert last_number(tmp_path) == 1


def test_only_damaged_checkpoints_give_none(tmp_path: Path) -> None:
    for number in (1, 2):
        checkpoint.save(tmp_path / "checkpoint", tensors_of_all_kinds(number), {}).write_bytes(b"\0" * 100)
    lines: list[str] = []
    assert last_checkpoint(tmp_path, lines.append) is None
    assert len(lines) == 2


def test_save_after_a_damaged_checkpoint(tmp_path: Path) -> None:
    for number in (1, 2):
        newest = checkpoint.save(tmp_path / "checkpoint", tensors_of_all_kinds(number), {"number": number})
    newest.write_bytes(b"")
    checkpoint.save(tmp_path / "checkpoint", tensors_of_all_kinds(3), {"number": 3})
    assert last_number(tmp_path) == 3


def test_pickle_with_valid_sha256_is_refused(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path / "checkpoint", tensors_of_all_kinds(), {})
    for evil in (pickle.dumps(Canary(tmp_path / "ran")), b'{"__metadata__": 1}'):
        path.write_bytes(evil)
        path.with_suffix(".sha256").write_text(f"{hashlib.sha256(evil).hexdigest()}  {path.name}\n")
        lines: list[str] = []
        assert last_checkpoint(tmp_path, lines.append) is None
        assert len(lines) == 1
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
def test_corruption_by_the_disk_is_detected_in_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.save(tmp_path / "checkpoint", tensors_of_all_kinds(), {"number": 1})
    draw, write = random.Random(0), checkpoint.save_file

    def corrupting(tensors: dict[str, Tensor], path: Path, header: dict[str, str]) -> None:
        write(tensors, path, header)
        content = bytearray(path.read_bytes())
        at = draw.randrange(8 * len(content))
        content[at // 8] ^= 1 << at % 8
        path.write_bytes(content)

    monkeypatch.setattr(checkpoint, "save_file", corrupting)
    for _ in range(150):
        with pytest.raises(checkpoint.DamagedCheckpoint):
            checkpoint.save(tmp_path / "checkpoint", tensors_of_all_kinds(), {"number": 2})
    monkeypatch.undo()
    assert last_number(tmp_path) == 1


def test_checkpoint_is_synced_to_disk_before_an_older_one_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, fsync, unlink, order = tmp_path / "checkpoint", os.fsync, os.unlink, list[int | str]()

    def noted_fsync(handle: int) -> None:
        order.append(os.fstat(handle).st_ino)
        fsync(handle)

    def noted_unlink(path: Path) -> None:
        order.append(path.name)
        unlink(path)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "unlink", noted_unlink)
    for number in range(3):
        order.clear()
        opened = len([*Path("/dev/fd").iterdir()])
        path = checkpoint.save(home, tensors_of_all_kinds(), {"number": number})
    assert len([*Path("/dev/fd").iterdir()]) == opened
    assert order[:3] == [one.stat().st_ino for one in (path, path.with_suffix(".sha256"), home)]
    assert sorted(map(str, order[3:])) == ["000001.safetensors", "000001.sha256"]


def test_file_that_cannot_be_written_whole_is_removed(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "checkpoint", tensors_of_all_kinds(), {"number": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="000002"):
            checkpoint.save(tmp_path / "checkpoint", tensors_of_all_kinds(), {"number": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len([*(tmp_path / "checkpoint").iterdir()]) == 2


def test_full_disk_raises_and_keeps_older_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.save(tmp_path / "checkpoint", tensors_of_all_kinds(), {"number": 1})

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save(tmp_path / "checkpoint", tensors_of_all_kinds(), {"number": 2})
    monkeypatch.undo()
    assert last_number(tmp_path) == 1


@pytest.mark.slow
def test_kill_at_any_call_of_save_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    """Kills a process at each disk access of four saves, one after the other."""
    command = [sys.executable, "-c", SAVES_WITH_KILLS, str(tmp_path)]
    done = warm.run(command, env={**os.environ, "PYTHONPATH": SOURCE})
    tried = int(done.stdout)
    assert tried > 30
    for folder in tmp_path.iterdir():
        saved = int((folder / "saved").read_text()) if (folder / "saved").exists() else 0
        found = last_checkpoint(folder, lambda line: None)
        number = found[1]["number"] if found else 0
        assert number in (saved, saved + 1)
        assert not found or torch.equal(found[0]["a"], torch.full((1000,), float(number)))
