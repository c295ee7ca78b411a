"""A journal survives what happens to a process and its disk: whole lines stay, half a line is none."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frostline.records import journal
from frostline.records.journal import MirrorPosition


def test_epochs_are_read_back_as_they_were_written(tmp_path):
    assert journal.epochs(tmp_path) == []
    lines = [{"epoch": epoch, "val/accuracy": 1 / epoch, "train/loss": float("inf")} for epoch in (1, 2, 3)]
    for line in lines:
        journal.append_epoch(tmp_path, line)
    assert journal.epochs(tmp_path) == lines
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3


def test_a_run_that_goes_on_leaves_out_what_came_after_its_checkpoint(tmp_path):
    for epoch in (1, 2, 3):
        journal.append_epoch(tmp_path, {"epoch": epoch, "val/loss": 0.1 + 0.2})
    before = (tmp_path / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    journal.rewrite_epochs(tmp_path, journal.epochs(tmp_path)[:2])
    assert (tmp_path / "metrics.jsonl").read_bytes() == b"".join(before[:2])
    journal.append_epoch(tmp_path, {"epoch": 3, "val/loss": 0.1 + 0.2})
    assert (tmp_path / "metrics.jsonl").read_bytes() == b"".join(before)
    journal.rewrite_epochs(tmp_path, [])
    assert journal.epochs(tmp_path) == []


def test_a_line_that_nobody_can_parse_costs_itself_alone(tmp_path):
    journal.append_epoch(tmp_path, {"epoch": 1})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write("[" * 10**5 + "\n")
    journal.append_epoch(tmp_path, {"epoch": 2})
    assert journal.epochs(tmp_path) == [{"epoch": 1}, {"epoch": 2}]


def test_what_is_no_number_or_of_no_epoch_is_left_out(tmp_path):
    for line in ({"val/accuracy": 1}, {"epoch": "2"}, {"epoch": 3, "val/accuracy": None, "val/loss": "x", "phase": 1}):
        journal.append_epoch(tmp_path, line)
    assert journal.epochs(tmp_path) == [{"epoch": 3, "phase": 1}]


@given(cut=st.integers(0, 200))
def test_cut_off_anywhere_it_keeps_every_whole_line_and_goes_on(tmp_path_factory, cut):
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


def test_a_damaged_line_costs_only_itself(tmp_path):
    for number in range(3):
        journal.append(tmp_path, "tags", values={"a": str(number)})
    first, second, third = (tmp_path / "record.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "record.jsonl").write_bytes(first + b"\xff\x00" + second[2:] + third)
    assert [entry["values"]["a"] for entry, _ in journal.entries(tmp_path)] == ["0", "2"]


def test_notes_are_read_on_from_where_one_stopped(tmp_path):
    journal.append(tmp_path, "one")
    (_, behind), = journal.entries(tmp_path)  # fmt: skip
    journal.append(tmp_path, "two", sync=True)
    assert [entry["op"] for entry, _ in journal.entries(tmp_path, behind)] == ["two"]


def test_the_last_word_says_whether_a_run_ended(tmp_path):
    said = []
    for op in ("run", "metrics", "end", "tags", "resume", "tags", "end"):
        journal.append(tmp_path, op)
        said.append(journal.ended(tmp_path))
    assert said == [False, False, True, True, False, False, True]


def test_the_position_is_kept_and_nonsense_is_the_beginning(tmp_path):
    assert journal.position(tmp_path) == MirrorPosition(None, 0)
    there = MirrorPosition("0123456789abcdef" * 2, 70, sure=False)
    journal.set_position(tmp_path, there)
    assert journal.position(tmp_path) == there and journal.run_id(tmp_path) == there.run_id
    odd = (
        '{"run_id": "../x", "offset": 1}',
        *(f'{{"run_id": null, "offset": {n}, "sure": true}}' for n in ("-1", "1e999")),
    )
    for text in ("", "[]", "{}", *odd, "\xff"):
        (tmp_path / "mirrored.json").write_text(text)
        assert journal.position(tmp_path) == MirrorPosition(None, 0), text


# Writes lines with a counter until it is killed.
WRITER = """
import sys, itertools
from pathlib import Path
from frostline.records import journal
for number in itertools.count():
    journal.append_epoch(Path(sys.argv[1]), {"epoch": number, "filler": "x" * 1000})
    print(number, flush=True)
"""


@pytest.mark.parametrize("after", [1, 7, 40])
def test_what_was_written_survives_a_kill(tmp_path, after):
    with subprocess.Popen([sys.executable, "-c", WRITER, tmp_path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(after):
            last = int(process.stdout.readline())
        process.kill()
    epochs = [line["epoch"] for line in journal.epochs(tmp_path)]
    assert epochs == list(range(len(epochs))) and len(epochs) > last
