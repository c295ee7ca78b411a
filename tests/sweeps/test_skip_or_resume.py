"""Earlier runs are skipped, resumed, or left to another live sweep."""

from __future__ import annotations

import dataclasses
import json
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from faulty import serve
from frostline.core import project
from frostline.core.config_keys import digest
from frostline.records import journal, layout, liveness
from frostline.records.result import TEST, VAL, Result, read_result
from frostline.records.sweep_facts import Interrupted, RunFacts, SweepFile, Tracker
from frostline.report import terminal
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
    pending_sweeps.remember(folder, pending_sweeps.RecordPlace(AWAY, "demo"))
    tracker = Tracker(AWAY, "demo", str(folder), None, None)
    SweepFile(folder, tracker).add(runs)
    return tracker


@pytest.fixture
def messages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(terminal, "say", lambda text, style="": lines.append(text))
    monkeypatch.setattr(resume, "mend", lambda *_: 0)
    monkeypatch.setattr(project, "project_root", lambda: tmp_path)
    return lines


def takeover(root: Path, tracker: Tracker, digests: list[str], call: Any = None) -> Takeover:
    what: dict[str, Any] = {"heart": None, "call": call, "digests": digests}
    return Takeover(tracker, Path(tracker.folder), **what)


def test_runs_of_another_live_sweep_are_left_to_it(tmp_path: Path, messages: list[str]) -> None:
    names = ("same", "begun", "other data", "other code", "nobodys", "done")
    facts = {name: RunFacts(name, {}, name, digest=name, data="/data") for name in names}
    theirs = [facts["same"], facts["begun"], facts["done"], dataclasses.replace(facts["other data"], data="/elsewhere")]
    sweep(tmp_path, "theirs", FAR, *theirs)
    sweep(tmp_path, "old", FAR, facts["other code"], source="o" * 64)
    sweep(tmp_path, "gone", dataclasses.replace(liveness.this_process(), pid=2**22 + 1), facts["nobodys"])
    facts["done"] = dataclasses.replace(facts["done"], finished=Result(5, "done", "", None, "FINISHED", None, {}, {}))
    (tmp_path / "theirs" / "begun").mkdir()
    journal.append(tmp_path / "theirs" / "begun", "run", uid="b" * 32, name="begun", tags={}, time=0)
    own = takeover(tmp_path, sweep(tmp_path, "ours", liveness.this_process()), [*names])
    with own.left_to_others([*facts.values()], 0) as left:
        assert [one.name for one in left if one.busy is not None] == ["same"]
    assert left[0].busy is not None and left[0].busy.folder == str(tmp_path / "theirs" / "same")
    assert len(messages) == 1 and "same: left to far (process 1" in messages[0]
    assert f"frostline report {tmp_path}/theirs`" in messages[0]
    result = closing.result(tmp_path / "ours", 0, left[0])
    assert result.status == "RUNNING" and str(result.reason).startswith("ada@far (process 1")
    with takeover(tmp_path, own._tracker, []).left_to_others([*facts.values()], 0) as all_of_them:  # resume=false
        assert all(one.busy is None for one in all_of_them)


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
    of_shards = dataclasses.replace(compose().data, root="s3://me:secret@host/x-{0..3}.tar")
    for data, place in ((of_shards, "s3://host/x-{0..3}.tar"), (compose("data.root=here").data, f"{Path.cwd()}/here")):
        run = PlannedRun(dataclasses.replace(compose(), data=data), "head", {}, "0")
        assert skip_or_resume.facts_of(run).data == place


@pytest.fixture
def ours(tmp_path: Path, messages: list[str], monkeypatch: Any) -> Takeover:
    """Return the takeover of a sweep in the folder `ours`, whose data have the fingerprint `print`."""
    monkeypatch.setattr(skip_or_resume, "fingerprints", lambda configs: ["print"] * len(configs))
    monkeypatch.setattr(resume, "with_run_id", lambda past, uri: past)
    tracker = sweep(tmp_path, "ours", liveness.this_process())
    found = takeover(tmp_path, tracker, ["d"], call=lambda function: function())
    found._heart = cast(Any, SimpleNamespace(take=lambda at: None))
    return found


def planned(lr: float = 0.1, **more: Any) -> PlannedRun:
    return PlannedRun(compose(f"lr={lr}"), f"head lr={lr}", {"lr": lr}, f"lr-{lr}", [], **more)


def before(own: Takeover, run: PlannedRun, folder: Path, status: str = "FINISHED", **tags: str) -> PastRun:
    """Let an earlier sweep have had a run, with today's source and data unless `tags` say otherwise."""
    code = {layout.SOURCE_TAG: project.source_sha256(), layout.FINGERPRINT_TAG: "print"}
    past = dataclasses.replace(past_run(folder, status, **{**code, **tags}), metrics={VAL: 0.9, TEST: 0.8}, run_id=None)
    own._before.setdefault(digest(run.config), []).append(past)
    return past


def test_finished_run_is_skipped_with_its_result(ours: Takeover, tmp_path: Path, messages: list[str]) -> None:
    run, other = planned(), planned(0.2)
    past = before(ours, run, tmp_path / "theirs" / "0")
    own, new = ours.facts([run, other], 5)
    assert not own.to_do and new.to_do and new.previous is None
    expected = Result(5, run.name, str(past.folder), None, "FINISHED", None, run.choices, past.metrics, {})
    assert own.finished == expected and read_result(tmp_path / "ours" / run.folder) == expected
    assert messages == [f"head lr=0.1: skipped, finished in {past.folder}"]
    assert ours.finished(run.config) == [past]
    ours.facts([other], 7)
    assert len(messages) == 1  # each is told once


def test_trial_that_diverged_is_skipped_and_a_run_is_not(ours: Takeover, tmp_path: Path, messages: list[str]) -> None:
    trial = dataclasses.replace(planned(), choices={"lr": 0.1, "trial": 3})
    before(ours, trial, tmp_path / "theirs" / "0", "FAILED", **{layout.REASON_TAG: "Diverged: nan"})
    (own,) = ours.facts([trial], 0)
    assert own.finished is not None and own.finished.reason == "Diverged: nan" and "diverged in" in messages[0]
    assert ours.facts([planned()], 0)[0].to_do and ours.finished(trial.config) == []


def test_interrupted_run_is_resumed_once(ours: Takeover, tmp_path: Path, messages: list[str]) -> None:
    run, again = planned(), dataclasses.replace(planned(), folder="again")
    past = before(ours, run, tmp_path / "theirs" / "0", "KILLED")
    own, second = ours.facts([run, again], 0)
    assert own.to_do and own.previous == Interrupted(None, str(past.folder))
    assert (
        second.to_do and second.previous is None and messages == [f"head lr=0.1: resumed, interrupted in {past.folder}"]
    )
    waiting = before(ours, planned(0.3), tmp_path / "theirs" / "3", "PAUSED")
    assert ours.facts([planned(0.3)], 2)[0].previous and messages[1].endswith(f"resumed, having waited in {waiting}")
    before(ours, planned(0.4), tmp_path / "theirs" / "4", "KILLED", **{layout.FOLDER_TAG: "/nowhere"})
    assert ours.facts([planned(0.4)], 3)[0].previous == Interrupted(None, None)
    assert messages[2] == "head lr=0.4: restarted, interrupted in /nowhere"


def test_interrupted_run_that_another_process_takes_first_is_left_to_it(
    ours: Takeover, tmp_path: Path, messages: list[str]
) -> None:
    sweep(tmp_path, "a sweep", FAR, RunFacts("head lr=0.1", {}, "head/0"))
    where = tmp_path / "a sweep" / "head" / "0"
    before(ours, planned(), where, "KILLED")
    ours._heart = cast(Any, SimpleNamespace(take=lambda at: FAR))
    (own,) = ours.facts([planned()], 0)
    assert own.busy is not None and own.busy.folder == str(where)
    assert f"left to {FAR}, which is running it: `python -m frostline report '{tmp_path}/a sweep'`" in messages[0]


def test_run_in_whose_folder_a_process_works_is_left_to_it(ours: Takeover, tmp_path: Path, messages: list[str]) -> None:
    """Its files must not change: neither a result nor a checkpoint of another run may come between."""
    folder = tmp_path / "ours" / planned().folder
    folder.mkdir()
    (folder / layout.BEAT).write_text(json.dumps(dataclasses.asdict(FAR)))
    (own,) = ours.facts([planned()], 0)
    assert own.busy is not None and own.busy.folder == str(folder) and "left to" in messages[0]
    before(ours, planned(), tmp_path / "theirs" / "0")
    (own,) = ours.facts([planned()], 0)
    assert own.finished is not None and not (folder / layout.RESULT).exists()


def test_run_of_a_live_process_is_left_to_it(ours: Takeover, tmp_path: Path, messages: list[str]) -> None:
    past = before(ours, planned(), tmp_path / "theirs" / "0", "RUNNING", **FAR.tags())
    (own,) = ours.facts([planned()], 3)
    assert own.busy is not None and (own.busy.job, own.busy.folder) == (3, str(past.place))


@pytest.mark.parametrize(
    ("tag", "why"),
    [(layout.FINGERPRINT_TAG, "it ran on other data in"), (layout.SOURCE_TAG, "the source changed")],
)
def test_run_with_other_data_or_code_is_not_skipped(
    tag: str, why: str, ours: Takeover, tmp_path: Path, messages: list[str]
) -> None:
    before(ours, planned(), tmp_path / "theirs" / "0", **{tag: "other"})
    assert ours.facts([planned()], 0)[0].to_do and ours.finished(planned().config) == []
    (line,) = messages
    assert line.startswith(f"head lr=0.1: not skipped: {why}")
    ours.facts([planned(0.2)], 1)
    assert len(messages) == 1


def test_trial_of_a_shared_study_comes_from_the_folder_that_has_it(
    ours: Takeover, tmp_path: Path, messages: list[str]
) -> None:
    """Its search left it, so that it is free although that search, which could continue it, still runs."""
    there = tmp_path / "theirs" / "head-0"
    run = planned(elsewhere=there)
    sweep(tmp_path, "theirs", FAR, RunFacts("head-0", {}, "head-0"))
    known = before(ours, run, there, "PAUSED")  # from the store
    assert known.holder is not None
    code = {layout.SOURCE_TAG: project.source_sha256(), layout.FINGERPRINT_TAG: "print"}
    tags = {**code, layout.DIGEST_TAG: digest(run.config)}
    journal.append(there, "run", uid="t" * 32, name="head-0", tags=tags, time=0)
    journal.append(there, "end", status="PAUSED")
    (own,) = ours.facts([run], 0)
    assert own.to_do and own.previous == Interrupted(None, str(there))
    assert len(ours._before[digest(run.config)]) == 0 and "resumed, having waited" in messages[0]


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
            monkeypatch.setattr(project, "project_root", lambda: tmp_path / name)
            what: dict[str, Any] = {"heart": None, "digests": [key], **call}
            tracker = Tracker(uri, "demo", str(tmp_path / name), experiment, sweep_id)
            return Takeover(tracker, tmp_path / name, **what).facts([run], 0)[0]

        assert not plan("early").to_do
        (line,) = messages
        assert line.startswith("head: left to far (process 1") and "it is not here; this command includes it" in line
        client.set_tag(running, layout.ALIVE_TAG, "1")  # the last sign of life is long ago
        first, second = plan("first"), plan("second")
        assert first.to_do and first.previous == Interrupted(running, None)
        assert not second.to_do and "left to first" in messages[-1]
