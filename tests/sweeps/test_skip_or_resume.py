"""Earlier runs are skipped, resumed, or left to another live sweep."""

from __future__ import annotations

import dataclasses
import json
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from faulty import serve
from frostline.core import project
from frostline.core.config_keys import digest
from frostline.records import journal, layout, liveness
from frostline.records.sweep_record import RunFacts, SweepFile, Tracker
from frostline.sweeps import closing, resume, skip_or_resume
from frostline.sweeps.compose import PlannedRun
from frostline.sweeps.past_runs import PastRun
from frostline.sweeps.pool import WorkerDied
from frostline.sweeps.skip_or_resume import Takeover
from frostline.tracking import claims, pending_sweeps, server
from small import compose

AWAY = "http://127.0.0.1:9"
FAR = dataclasses.replace(liveness.this_process(), host="far", machine="another", pid=1, user="ada")


def past_run(folder: Path, status: str = "FINISHED", **tags: str) -> PastRun:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / layout.CONFIG).touch()
    return PastRun("r", status, {layout.FOLDER_TAG: str(folder), **tags})


def test_skipped_runs_are_listed_or_counted_by_folder(tmp_path):
    runs = [(f"head lr={number}", past_run(tmp_path / "first" / str(number))) for number in range(20)]
    lines = skip_or_resume.describe_skipped(runs)
    assert len(lines) == 20 and lines[3] == f"head lr=3: skipped, finished in {tmp_path}/first/3 as run r"
    diverged = past_run(tmp_path / "second" / "0", "FAILED", **{layout.REASON_TAG: "Diverged: nan"})
    more = [("full lr=1", diverged), ("full lr=2", PastRun("r", "FINISHED", {}))]
    assert skip_or_resume.describe_skipped([*runs, *more]) == [
        f"20 runs: skipped, finished in {tmp_path}/first",
        f"1 run: skipped, diverged in {tmp_path}/second",
        "1 run: skipped, finished in another place",
    ]


def sweep(root: Path, name: str, owner: liveness.Owner, *runs: RunFacts, source: str | None = None) -> Tracker:
    """Write the folder of a sweep that has planned its runs while its store is away."""
    (folder := root / name).mkdir(parents=True)
    tags = {layout.SOURCE_TAG: source or project.source_sha256(), **owner.tags()}
    facts: dict[str, Any] = {"tags": tags, "uri": AWAY, "experiment": "demo", "time": 0}
    journal.append(folder, "run", uid=name.ljust(32, "0"), name=name, **facts)
    (folder / layout.OWNER).write_text(json.dumps(dataclasses.asdict(owner)))
    pending_sweeps.remember(folder, pending_sweeps.RecordPlace(AWAY, root, "demo"))
    tracker = Tracker(AWAY, "demo", str(folder), None, None)
    SweepFile(folder, tracker).add(runs)
    return tracker


@pytest.fixture
def messages(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(skip_or_resume.job, "screen", lambda: SimpleNamespace(say=lines.append))
    monkeypatch.setattr(resume, "mend", lambda *_: 0)
    return lines


def takeover(root: Path, tracker: Tracker, digests: list[str], call: Any = None) -> Takeover:
    what: dict[str, Any] = {"heart": None, "call": call, "digests": digests}
    return Takeover(tracker, Path(tracker.folder), root=root, **what)


def test_runs_of_another_live_sweep_are_left_to_it(tmp_path: Path, messages: list[str]) -> None:
    names = ("same", "begun", "other data", "other code", "nobodys")
    facts = {name: RunFacts(name, {}, name, digest=name, data="/data") for name in names}
    theirs = [facts["same"], facts["begun"], dataclasses.replace(facts["other data"], data="/elsewhere")]
    sweep(tmp_path, "theirs", FAR, *theirs)
    sweep(tmp_path, "old", FAR, facts["other code"], source="o" * 64)
    sweep(tmp_path, "gone", dataclasses.replace(liveness.this_process(), pid=2**22 + 1), facts["nobodys"])
    (tmp_path / "theirs" / "begun").mkdir()
    journal.append(tmp_path / "theirs" / "begun", "run", uid="b" * 32, name="begun", tags={}, time=0)
    own = takeover(tmp_path, sweep(tmp_path, "ours", liveness.this_process()), [*names])
    with own.left_to_others([*facts.values()], 0) as left:
        assert [one.name for one in left if not one.to_do] == ["same"]
    assert left[0].busy is not None and left[0].busy["folder"] == str(tmp_path / "theirs" / "same")
    assert len(messages) == 1 and "same: left to far (process 1" in messages[0]
    assert f"frostline report {tmp_path}/theirs`" in messages[0]
    result = closing.result(tmp_path / "ours", 0, left[0])
    assert result.status == "RUNNING" and str(result.reason).startswith("ada@far (process 1")
    with takeover(tmp_path, own._tracker, []).left_to_others([*facts.values()], 0) as all_of_them:  # resume=false
        assert all(one.to_do for one in all_of_them)


def test_data_that_kill_a_worker_are_tried_once(tmp_path: Path, messages: list[str]) -> None:
    calls: list[object] = []

    def dies(function: object) -> None:
        calls.append(function)
        raise WorkerDied("its worker was killed by signal 9")

    own = takeover(tmp_path, sweep(tmp_path, "ours", liveness.this_process()), [], call=dies)
    config = compose()
    assert [own._fingerprints([config]) for _ in range(2)] == [{repr(config.data): None}] * 2
    assert len(calls) == 1


def test_one_of_two_simultaneous_sweeps_gets_the_run(tmp_path: Path, messages: list[str], monkeypatch: Any) -> None:
    """Each sweep reads the other's plan and writes its own under a lock."""
    wanted, both, kept = RunFacts("head", {}, "0", digest="d", data="/data"), threading.Barrier(2), []
    owners = {name: dataclasses.replace(FAR, host=name) for name in ("one", "two")}
    trackers = {name: sweep(tmp_path, name, owner) for name, owner in owners.items()}
    mine = threading.local()
    monkeypatch.setattr(liveness, "this_process", lambda: mine.owner)

    def plan(name: str) -> None:
        mine.owner = owners[name]
        own = takeover(tmp_path, trackers[name], ["d"])
        both.wait()
        with own.left_to_others([wanted], 0) as left:
            SweepFile(tmp_path / name, trackers[name]).add(left)
            kept.extend(one for one in left if one.to_do)

    threads = [threading.Thread(target=plan, args=(name,)) for name in owners]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(kept) == 1 and len(messages) == 1


def test_run_facts_have_typed_options_without_passwords() -> None:
    typed = ["freeze=head", "data.root=s3://me:secret@host/x"]
    facts = skip_or_resume.facts_of(PlannedRun(compose(), "head", {}, "0", typed, ["hydra/launcher=basic"]))
    assert facts.command == ["hydra/launcher=basic", "freeze=head", "data.root=s3://host/x"]


@pytest.mark.slow
def test_silent_machines_run_is_resumed_by_one_sweep(tmp_path: Path, messages: list[str], monkeypatch: Any) -> None:
    server.load()
    monkeypatch.setattr(claims, "_WAIT", 0.2)
    monkeypatch.setattr(skip_or_resume, "fingerprints", lambda configs: ["print"] * len(configs))
    call = {"call": lambda function: function()}
    config = compose()
    run, key = PlannedRun(config, "head", {}, "0", []), digest(config)
    with serve(tmp_path) as (_, uri):
        client = server.client_of(uri)
        experiment = client.create_experiment("demo")
        code = {layout.DIGEST_TAG: key, layout.SOURCE_TAG: project.source_sha256(), layout.FINGERPRINT_TAG: "print"}
        theirs = {**code, **FAR.tags(), layout.FOLDER_TAG: "/nowhere/0", layout.UID_TAG: "u"}
        running = client.create_run(experiment, tags=theirs).info.run_id

        def plan(name: str) -> RunFacts:
            sweep_id = client.create_run(experiment, tags=dataclasses.replace(FAR, host=name).tags()).info.run_id
            (tmp_path / name).mkdir()
            what: dict[str, Any] = {"heart": None, "digests": [key], **call}
            tracker = Tracker(uri, "demo", str(tmp_path / name), experiment, sweep_id)
            return Takeover(tracker, tmp_path / name, root=tmp_path / name, **what).facts([run], 0)[0]

        assert not plan("early").to_do
        (line,) = messages
        assert line.startswith("head: left to far (process 1") and "it is not here; this command includes it" in line
        client.set_tag(running, layout.SIGN_TAG, "1")  # the last sign of life is long ago
        first, second = plan("first"), plan("second")
        assert first.to_do and first.previous == {"run_id": running, "folder": None}
        assert not second.to_do and "left to first" in messages[-1]
