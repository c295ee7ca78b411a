"""Names of single runs are compared alone, those of sweeps as whole sweeps."""

from __future__ import annotations

import json
import shutil

import pytest

import frostline
from frostline.commands import compare
from frostline.core.errors import UserError
from frostline.records.result import read_result


@pytest.fixture(autouse=True)
def _tracking(trained, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", trained.uri)


def test_single_runs_are_compared_alone(trained, capsys):
    head, full = (read_result(trained.folder / number) for number in "01")
    assert compare.main([str(trained.folder / "1"), head.run_id]) == 0
    said = capsys.readouterr().out
    assert said.startswith("2 runs alone, not their sweeps:\n")
    for run in (head, full):
        assert f"{run.name}  {run.metrics['best/val_accuracy']:.2%}  {run.metrics['test/accuracy']:.2%}" in said
    runs = frostline.open(trained.folder).runs
    verdict = runs[1].compare(runs[0]).verdict
    assert said.endswith(f"{verdict}\n") and verdict.startswith(f"{full.name} is surely worse than {head.name}: ")
    assert verdict.endswith("; one seed, paired bootstrap over 90 test images).")


def test_single_runs_as_json(trained, capsys):
    assert compare.main([str(trained.folder / "1"), str(trained.folder / "0"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    runs = [read_result(trained.folder / number) for number in "10"]
    known = [{"name": run.name, "run_id": run.run_id, "metrics": run.metrics} for run in runs]
    assert (told["select"], told["runs"]) == ("val/accuracy", known)
    (one,) = told["comparisons"]
    assert (one["first"], one["second"], one["outcome"]) == (runs[0].name, runs[1].name, "worse")
    assert one["difference"]["interval"]["high"] < 0 and one["difference"]["paired"]


def test_runs_of_one_name_are_told_apart_by_what_was_typed(trained, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained.folder / "1", "today")
    shutil.copytree(trained.folder / "1", "before")
    for name in ("today", "before"):  # two runs of one config, as on data that changes every night
        text = (tmp_path / name / "result.json").read_text()
        (tmp_path / name / "result.json").write_text(text.replace('"run_id": "', f'"run_id": "{name}'))
        (tmp_path / name / "mirrored.json").unlink()
    assert compare.main(["today", "before"]) == 0
    assert "A tie: today 21.1%, before 21.1% on the test split (+0.0 points" in capsys.readouterr().out


def test_a_run_and_itself_are_one_line(trained):
    run = str(trained.folder / "0")
    with pytest.raises(UserError, match=f"^run={run}: expected another run, and this is the same one as {run}$"):
        compare.main([run, run])


def test_a_sweep_beside_a_run_means_whole_sweeps(trained, capsys):
    assert compare.main([str(trained.folder)]) == 0
    whole = capsys.readouterr().out
    assert compare.main([str(trained.folder), str(trained.folder / "0")]) == 0
    assert capsys.readouterr().out == whole
