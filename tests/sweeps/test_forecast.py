"""The forecast of cluster jobs in a dry run."""

from __future__ import annotations

import json
from dataclasses import asdict

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
    lines = forecast.lines(planned, planned[0].config.cluster, params, tmp_path / "new", checks=True)
    assert lines == [
        "cluster=local: a job that checks data and weights, then an array of 3 jobs, at most 16 at a time; "
        "each asks for partition gpu, 1 GPU(s), at most 1h30m",
        "  job 0: head 0.1, head 0.2",
        "  job 1: full 0.1: about 2m00s of training, estimated from earlier runs",
        "  job 2: full 0.2: about 2m00s of training, estimated from earlier runs",
    ]
