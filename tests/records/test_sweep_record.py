"""The file sweep.json, and the results of runs."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from frostline.core import files
from frostline.core.errors import UserError
from frostline.records import journal, sweep_facts, sweep_record
from frostline.records.result import (
    EFFECTIVE,
    GROUPS,
    PRUNED,
    SHARED,
    TEST,
    VAL,
    VAL_EFFECTIVE,
    Result,
    size,
    write_result,
)
from frostline.records.sweep_facts import Interrupted, RunFacts, SweepFacts, SweepFile, Tracker

TRACKER = Tracker("sqlite:///mlflow.db", "frostline", "/sweep", None, None)


def facts(number: int, name: str = "head") -> RunFacts:
    return RunFacts(f"{name}\u2028, [{number}]", {"lr": 0.1, "seed": number}, str(number))


def test_search_parses_only_new_or_changed_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, read = SweepFile(tmp_path, TRACKER, "tpe"), list[str]()
    real = files.parsed
    monkeypatch.setattr(sweep_facts.files, "parsed", lambda text: (read.append(text), real(text))[1])
    for number in range(20):
        file.add([facts(number)], {3: facts(3, "full")} if number == 10 else {})
        assert len(SweepFacts.read(tmp_path).runs) == number + 1
    assert SweepFacts.read(tmp_path) == SweepFacts(
        TRACKER, tuple(facts(number, "full" if number == 3 else "head") for number in range(20)), "tpe"
    )
    assert len(read) == 20 + 20 + 1  # the header each time, each run once, and one change


def test_results_of_earlier_sweeps_are_read_as_results(tmp_path: Path) -> None:
    done = Result(0, "head", "/earlier/0", None, "FINISHED", None, {"lr": 0.1}, {VAL: 0.5, TEST: 0.5}, {"train": 9})
    runs = (replace(facts(0), finished=done), replace(facts(1), busy=replace(done, status="RUNNING")))
    runs = (*runs, replace(facts(2), previous=Interrupted("id", None)), facts(3))
    SweepFile(tmp_path, None).add(runs)
    assert SweepFacts.read(tmp_path).runs == runs


@pytest.mark.parametrize("indent", [None, 1])
def test_reformatted_file_is_read(tmp_path: Path, indent: int | None) -> None:
    SweepFile(tmp_path, None).add(map(facts, range(3)))
    file = tmp_path / "sweep.json"
    file.write_text(json.dumps(json.loads(file.read_text()), indent=indent))
    assert SweepFacts.read(tmp_path) == SweepFacts(None, tuple(map(facts, range(3))))
    file.write_text(file.read_text()[:-2])
    with pytest.raises(ValueError, match="delimiter"):
        SweepFacts.read(tmp_path)


def test_invalid_folder_in_a_result_is_replaced(tmp_path: Path) -> None:
    SweepFile(tmp_path, None).add([facts(0)])
    (tmp_path / "0").mkdir()
    write_result(
        tmp_path / "0", Result(0, "head", f"/home/{'a' * 5000}", None, "FINISHED", None, {}, {VAL: 1, TEST: 1})
    )
    assert [result.folder for result in sweep_record.read(tmp_path).results] == [str(tmp_path / "0")]


def test_sweep_without_runs_has_a_file(tmp_path: Path) -> None:
    SweepFile(tmp_path, None).add([])
    assert SweepFacts.read(tmp_path) == SweepFacts(None, ())
    assert json.loads((tmp_path / "sweep.json").read_text())["runs"] == []


SEARCHED = {"seed": 0, "search": "tpe", "study": "head", "trial": 0, "budget": "3 trials", "objective": []}
DAMAGED_MARKS: list[dict[str, Any]] = [
    *[{"trial": value} for value in (None, "1", -1, 1.5, True, [], 10**30)],
    *[{mark: value} for mark in ("search", "study") for value in (None, 1, {})],
    *[{"budget": value} for value in (None, "x", "3", "3 trials more", 3)],
    *[{"space": value} for value in (None, "x", [], {"lr": None})],
    *[{"objective": value} for value in (None, "val/accuracy", ["val/nothing"], [[]])],
    {"confirms": 0},
]


@pytest.mark.parametrize("marks", DAMAGED_MARKS)
def test_sweep_with_a_damaged_mark_of_a_search_is_refused(tmp_path: Path, marks: dict[str, Any]) -> None:
    SweepFile(tmp_path, None).add([RunFacts("head", SEARCHED, "0")])
    assert sweep_record.read(tmp_path).results[0].status == "WAITING"
    SweepFile(tmp_path, None).add([RunFacts("head", {**SEARCHED, **marks}, "0")])
    with pytest.raises(UserError, match=r"the folder of a sweep, with its sweep\.json, which is damaged here$"):
        sweep_record.read(tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        *[{"metrics": {VAL: 0.5, TEST: value}} for value in (math.nan, math.inf, -1, 57.9, 10**400, True, "0.5", None)],
        {"metrics": {VAL: 0.5}},
        {"metrics": {VAL: 0.5, TEST: 0.5, "cost/train_seconds": math.inf}},
        {"metrics": {VAL: 0.5, TEST: 0.5, "test/macro_f1": 1.5}},
        *[
            {"metrics": {VAL: 0.5, TEST: 0.5, name: -1}}
            for name in ("best/epoch", SHARED, GROUPS, EFFECTIVE, VAL_EFFECTIVE, PRUNED)
        ],
        *[{"images": images} for images in ({"test": 2.5}, {"test": -1}, [])],
        *[{"choices": choices} for choices in ({"seed": [1]}, {"seed": 1.5}, {"data.fold": 0.5})],
        *[{"command": command} for command in ("lr=1", [1])],
        *[{name: 5} for name in ("name", "run_id", "reason", "unknown")],
        {"choices": {"lr": math.nan}},
        *[{"choices": {**SEARCHED, **marks}} for marks in DAMAGED_MARKS],
        {"job": "0"},
        {"job": -1},
    ],
)
def test_invalid_result_counts_as_damaged(tmp_path: Path, damage: dict[str, Any]) -> None:
    SweepFile(tmp_path, None).add([facts(0)])
    (own := tmp_path / "0").mkdir()
    metrics = {VAL: 0.0, TEST: 1.0, "test/map": math.nan}
    whole = Result(0, "head", str(own), None, "FINISHED", None, {"seed": 0}, metrics)
    write_result(own, whole)
    (read,) = sweep_record.read(tmp_path).results
    assert read.metrics.keys() == whole.metrics.keys() and read.status == "FINISHED"
    (own / "result.json").write_text(json.dumps({**asdict(whole), **damage}))
    assert sweep_record.read(tmp_path).results[0].status == "RUNNING"
    journal.append(own, "run")
    journal.append(own, "end", status="FINISHED")
    (read,) = sweep_record.read(tmp_path).results
    assert (read.status, read.reason) == ("KILLED", "it ended, but its result.json is damaged or gone")


def test_sizes_have_three_digits_and_powers_of_1000() -> None:
    counts = (0, 999, 1000, 1234, 123_456, 10**8, 25 * 10**8, 10**15)
    told = ["0 bytes", "999 bytes", "1 kB", "1.23 kB", "123 kB", "100 MB", "2.5 GB", "1000 TB"]
    assert [size(count) for count in counts] == told
