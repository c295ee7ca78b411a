"""Journals survive kills and damage: complete lines stay, incomplete ones are ignored."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disk import file_size_limit
from frostline.records import journal
from frostline.records.journal import MirrorPosition


def test_epochs_round_trip(tmp_path):
    assert journal.epochs(tmp_path) == []
    lines = [{"epoch": epoch, "val/accuracy": 1 / epoch, "train/loss": float("inf")} for epoch in (1, 2, 3)]
    for line in lines:
        journal.append_epoch(tmp_path, line)
    assert journal.epochs(tmp_path) == lines
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3


def test_full_disk_names_the_journal_which_continues_when_there_is_room(tmp_path):
    journal.append_epoch(tmp_path, {"epoch": 1})
    with file_size_limit(20), pytest.raises(OSError, match=f": '{tmp_path / 'metrics.jsonl'}'"):
        journal.append_epoch(tmp_path, {"epoch": 2})
    journal.append_epoch(tmp_path, {"epoch": 2})
    assert journal.epochs(tmp_path) == [{"epoch": 1}, {"epoch": 2}]


def test_resumed_run_drops_epochs_after_its_checkpoint(tmp_path):
    for epoch in (1, 2, 3):
        journal.append_epoch(tmp_path, {"epoch": epoch, "val/loss": 0.1 + 0.2})
    before = (tmp_path / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    journal.rewrite_epochs(tmp_path, journal.epochs(tmp_path)[:2])
    assert (tmp_path / "metrics.jsonl").read_bytes() == b"".join(before[:2])
    journal.append_epoch(tmp_path, {"epoch": 3, "val/loss": 0.1 + 0.2})
    assert (tmp_path / "metrics.jsonl").read_bytes() == b"".join(before)
    journal.rewrite_epochs(tmp_path, [])
    assert journal.epochs(tmp_path) == []


def test_unparsable_line_is_skipped(tmp_path):
    journal.append_epoch(tmp_path, {"epoch": 1})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write("[" * 10**5 + "\n")
    journal.append_epoch(tmp_path, {"epoch": 2})
    assert journal.epochs(tmp_path) == [{"epoch": 1}, {"epoch": 2}]


def test_values_without_epoch_or_number_are_skipped(tmp_path):
    for line in ({"val/accuracy": 1}, {"epoch": "2"}, {"epoch": 3, "val/accuracy": None, "val/loss": "x", "phase": 1}):
        journal.append_epoch(tmp_path, line)
    assert journal.epochs(tmp_path) == [{"epoch": 3, "phase": 1}]


@given(cut=st.integers(0, 200))
def test_truncated_journal_keeps_complete_lines(tmp_path_factory, cut):
    folder = tmp_path_factory.mktemp("cut")
    for number in range(4):
        journal.append(folder, "tags", values={"né": "x" * number})
    file = folder / "record.jsonl"
    whole = file.read_bytes()[:cut]
    file.write_bytes(whole)
    kept = whole.count(b"\n")
    assert len(list(journal.entries(folder))) == kept
    journal.append(folder, "end", status="KILLED", time=1)
    assert [entry["op"] for entry, _ in journal.entries(folder)] == ["tags"] * kept + ["end"]


def test_damaged_line_is_skipped(tmp_path):
    for number in range(3):
        journal.append(tmp_path, "tags", values={"a": str(number)})
    first, second, third = (tmp_path / "record.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "record.jsonl").write_bytes(first + b"\xff\x00" + second[2:] + third)
    assert [entry["values"]["a"] for entry, _ in journal.entries(tmp_path)] == ["0", "2"]


def test_reading_continues_at_an_offset(tmp_path):
    journal.append(tmp_path, "one")
    (_, behind), = journal.entries(tmp_path)  # fmt: skip
    journal.append(tmp_path, "two", sync=True)
    assert [entry["op"] for entry, _ in journal.entries(tmp_path, behind)] == ["two"]


def test_last_end_or_resume_decides_whether_a_run_ended(tmp_path):
    said = []
    for op in ("run", "metrics", "end", "tags", "resume", "tags", "end"):
        journal.append(tmp_path, op)
        said.append(journal.ended(tmp_path))
    assert said == [False, False, True, True, False, False, True]


def test_mirror_position_round_trips_and_invalid_is_zero(tmp_path):
    assert journal.position(tmp_path) == MirrorPosition(None, 0)
    expected = MirrorPosition("0123456789abcdef" * 2, 70, sure=False)
    journal.set_position(tmp_path, expected)
    assert journal.position(tmp_path) == expected and journal.run_id(tmp_path) == expected.run_id
    odd = (
        '{"run_id": "../x", "offset": 1}',
        *(f'{{"run_id": null, "offset": {n}, "sure": true}}' for n in ("-1", "1e999")),
    )
    for text in ("", "[]", "{}", *odd, "\xff"):
        (tmp_path / "mirrored.json").write_text(text)
        assert journal.position(tmp_path) == MirrorPosition(None, 0), text


WRITE_EPOCHS = """
import sys, itertools
from pathlib import Path
from frostline.records import journal
for number in itertools.count():
    journal.append_epoch(Path(sys.argv[1]), {"epoch": number, "filler": "x" * 1000})
    print(number, flush=True)
"""


@pytest.mark.parametrize("after", [1, 7, 40])
def test_written_epochs_survive_a_kill(tmp_path, after):
    with subprocess.Popen([sys.executable, "-c", WRITE_EPOCHS, tmp_path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(after):
            last = int(process.stdout.readline())
        process.kill()
    epochs = [line["epoch"] for line in journal.epochs(tmp_path)]
    assert epochs == list(range(len(epochs))) and len(epochs) > last
