"""A single run is found with the files of its test, wherever they are."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from frostline.records.layout import CONFIG, PREDICTIONS, PROVENANCE, RESULT
from frostline.records.result import read_result
from frostline.sweeps import tested_runs
from frostline.sweeps.catalog import TypedName
from frostline.tracking import query


@pytest.fixture(autouse=True)
def _tracking(trained, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", trained.uri)


def named(scratch, *names):
    return tested_runs.named([TypedName(str(name)) for name in names], scratch)


def test_sweeps_and_single_runs_are_told_apart(trained, tmp_path):
    head, full = (read_result(trained.folder / number) for number in "01")
    found = named(tmp_path, trained.folder / "0", full.run_id)
    assert [replace(run, command=None) for run in found] == [head, full]
    sweep, _ = query.parent_sweep(trained.uri, head.run_id)
    for other in (trained.folder, sweep):
        assert named(tmp_path, trained.folder / "0", other) is None
    assert not list(tmp_path.iterdir())


def test_run_that_skipped_a_finished_one_has_the_files_of_that_one(trained, tmp_path):
    (tmp_path / "0").mkdir()
    shutil.copy(trained.folder / "0" / RESULT, tmp_path / "0")
    assert named(tmp_path, tmp_path / "0") == [read_result(trained.folder / "0")]


def test_moved_run_is_read_where_it_is(trained, tmp_path):
    shutil.copytree(trained.folder / "0", tmp_path / "0")
    assert named(tmp_path, tmp_path / "0") == [replace(read_result(trained.folder / "0"), folder=str(tmp_path / "0"))]


def test_run_whose_sweep_is_not_on_this_machine_comes_from_mlflow(trained, tmp_path, monkeypatch):
    known = read_result(trained.folder / "0")
    sweep, _ = query.parent_sweep(trained.uri, known.run_id)
    monkeypatch.setattr(query, "parent_sweep", lambda *_: (sweep, str(tmp_path / "elsewhere")))
    (found,) = named(tmp_path, known.run_id)
    assert replace(found, folder=known.folder, command=None) == known and found.folder == str(tmp_path / known.run_id)
    assert {file.name for file in Path(found.folder).iterdir()} == {CONFIG, PROVENANCE, PREDICTIONS}
