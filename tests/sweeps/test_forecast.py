"""The forecast of cluster jobs in a dry run."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

from frostline.records import journal
from frostline.records.result import SECONDS, TEST, VAL, Result
from frostline.sweeps import forecast
from frostline.sweeps.compose import PlannedRun
from small import compose


def test_forecast_lists_jobs_and_estimated_times(tmp_path, monkeypatch):
    monkeypatch.setattr(forecast.project, "multirun", lambda: tmp_path)
    folder = tmp_path / "before" / "0"
    folder.mkdir(parents=True)
    for epoch in (1, 2):
        journal.append_epoch(folder, {"epoch": epoch})
    kind = {"model": "net", "freeze_mode": "full", "data": "digits"}
    done = Result(0, "full", str(folder), None, "FINISHED", None, kind, {SECONDS: 60.0, VAL: 1.0, TEST: 1.0})
    (tmp_path / "before" / "results.json").write_text(json.dumps([asdict(done)]))
    planned = [
        PlannedRun(compose(f"freeze={mode}", f"lr={lr}", "epochs=4"), f"{mode} {lr}", {**kind, "freeze_mode": mode}, "")
        for lr in (0.1, 0.2)
        for mode in ("head", "full")
    ]
    params = {"partition": "gpu", "gpus_per_node": 1, "mem_gb": None, "timeout_min": 90}
    lines = forecast.lines(planned, planned[0].config.cluster, params, tmp_path / "new")
    assert lines == [
        "cluster=local: a job that checks data and weights, then an array of 3 jobs, at most 16 at a time; "
        "each asks for partition gpu, 1 GPU(s), at most 1h30m",
        "  job 0: head 0.1, head 0.2",
        "  job 1: full 0.1: about 2m00s of training, estimated from earlier runs",
        "  job 2: full 0.2: about 2m00s of training, estimated from earlier runs",
    ]


def earlier_sweep(folder: Path, seconds: float, when: float) -> None:
    """Write the results of a sweep that ended at the time `when`: a run of two epochs, which took these `seconds`."""
    (own := folder / "0").mkdir(parents=True)
    for epoch in (1, 2):
        journal.append_epoch(own, {"epoch": epoch})
    kind = {"model": "net", "freeze_mode": "full", "data": "digits"}
    run = Result(0, "full", str(own), None, "FINISHED", None, kind, {SECONDS: seconds, VAL: 1.0, TEST: 1.0})
    failed = Result(1, "full", str(own), None, "FAILED", "", kind, {})  # after two epochs
    scores, probe = {SECONDS: 9.0, VAL: 1.0, TEST: 1.0}, {**kind, "freeze_mode": "probe"}  # solved, without epochs
    solved = Result(2, "probe", str(folder / "2"), None, "FINISHED", None, probe, scores)
    (folder / "results.json").write_text(json.dumps([asdict(one) for one in (run, failed, solved)]))
    os.utime(folder / "results.json", (when, when))


def test_times_are_those_of_the_latest_sweep(tmp_path):
    for name, seconds, when in (("b", 60.0, 1e9), ("a", 30.0, 2e9), ("c", 90.0, 1.5e9)):
        earlier_sweep(tmp_path / name, seconds, when)
    (tmp_path / "d").mkdir()
    for content in ("{", "[1]", '{"job": 0}'):
        (damaged := tmp_path / "d" / "results.json").write_text(content)
        os.utime(damaged, (1e8, 1e8))
        assert forecast.seconds_per_epoch([tmp_path, tmp_path]) == {("net", "full", "digits"): 15.0}


def test_forecast_shows_the_first_twenty_jobs(tmp_path, monkeypatch):
    monkeypatch.setattr(forecast.project, "multirun", lambda: tmp_path)
    config = compose("freeze=full", "cluster.check=here")
    params = {"gpus_per_node": 1, "timeout_min": 5}

    def lines(count: int) -> list[str]:
        planned = [PlannedRun(config, f"full {number}", {"freeze_mode": "full"}, "") for number in range(count)]
        return forecast.lines(planned, config.cluster, params, tmp_path / "new")

    assert lines(1) == ["cluster=local: 1 job; each asks for 1 GPU(s), at most 5m00s", "  job 0: full 0"]
    assert lines(20)[-1] == "  job 19: full 19" and lines(22)[-2:] == ["  job 19: full 19", "  and 2 more"]


def test_job_with_a_mode_that_never_ran_has_no_time(tmp_path, monkeypatch):
    monkeypatch.setattr(forecast.project, "multirun", lambda: tmp_path)
    earlier_sweep(tmp_path / "before", 60.0, 1e9)
    kind = {"model": "net", "data": "digits"}
    planned = [
        PlannedRun(compose(f"freeze={mode}", "epochs=4", "cluster.pack=2"), mode, kind | {"freeze_mode": mode}, "")
        for mode in ("full", "full", "full", "head")
    ]
    params = {"gpus_per_node": 1, "timeout_min": 5}
    known, unknown = forecast.lines(planned, planned[0].config.cluster, params, tmp_path / "new")[1:]
    assert known == "  job 0: full, full: about 4m00s of training, estimated from earlier runs"
    assert unknown == "  job 1: full, head"
