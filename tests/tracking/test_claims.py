"""Of sweeps that share MLflow's store and no folder one goes on with an interrupted run."""

from __future__ import annotations

import dataclasses
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import stores
from faulty import serve
from frostline.records import layout, liveness
from frostline.tracking import claims, server

FAR = dataclasses.replace(liveness.this_process(), host="far", machine="another", pid=1)


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    server.load()
    with serve(tmp_path_factory.mktemp("server")) as (_, address):
        yield address


@pytest.fixture
def runs(uri, request):
    """Return what makes runs, with an owner or without, in an experiment of the test."""
    client = server.client_of(uri)
    experiment = client.create_experiment(request.node.name)

    def make(owner=None, *, sign=None, status="RUNNING"):
        tags = owner.tags() | ({layout.SIGN_TAG: str(sign)} if sign is not None else {}) if owner else {}
        run_id = client.create_run(experiment, tags=tags).info.run_id
        if status != "RUNNING":
            client.set_terminated(run_id, status)
        return run_id

    return make


def own_tags(uri, run_id):
    tags = server.client_of(uri).get_run(run_id).data.tags
    return {key.removeprefix(layout.CLAIM_TAG) for key in tags if key.startswith(layout.CLAIM_TAG)}


@pytest.mark.slow
def test_of_eight_sweeps_that_want_a_run_at_once_one_has_it(uri, runs, tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "_WAIT", 1.0)
    wanted, sweeps, together = (
        [runs(status="KILLED") for _ in range(3)],
        [runs(FAR) for _ in range(8)],
        threading.Barrier(8),
    )

    def ask(sweep):
        together.wait()
        return claims.claim(uri, tmp_path, wanted, sweep)

    with ThreadPoolExecutor(8) as threads:
        theirs = dict(zip(sweeps, threads.map(ask, sweeps), strict=True))
    for run_id in wanted:
        has = [sweep for sweep in sweeps if run_id not in theirs[sweep]]
        assert len(has) == 1 and own_tags(uri, run_id) == {*has}
    assert all(who.host == "far" for told in theirs.values() for who in told.values())


@pytest.mark.slow
def test_who_comes_later_is_told_who_has_it_and_a_claim_ends_with_its_sweep(uri, runs, tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "_WAIT", 0.2)
    wanted, first, second = runs(status="KILLED"), runs(FAR), runs(FAR)
    assert claims.claim(uri, tmp_path, [wanted], first) == {}
    assert claims.claim(uri, tmp_path, [wanted], first) == {}  # its folder, typed again
    assert claims.claim(uri, tmp_path, [wanted], second)[wanted].host == "far"
    server.client_of(uri).set_tag(first, layout.SIGN_TAG, f"{time.time() - 700:.0f}")
    assert claims.claim(uri, tmp_path, [wanted], second) == {}
    assert own_tags(uri, wanted) == {second}


def test_a_run_that_was_begun_or_finished_since_it_was_looked_at_is_left(uri, runs, tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "_WAIT", 0.2)
    begun, silent, done = runs(FAR), runs(FAR, sign=1), runs(FAR, status="FINISHED")
    theirs = claims.claim(uri, tmp_path, [begun, silent, done], runs(FAR))
    assert theirs.keys() == {begun, done}


def test_who_takes_too_long_between_look_and_tag_takes_that_back_and_begins_anew(uri, runs, tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "_WAIT", 0.3)
    wanted, slow, quick = runs(status="KILLED"), runs(FAR), runs(FAR)
    client = server.client_of(uri)
    set_tag, late = client.set_tag, []

    def lag(run_id, key, value):
        if key.endswith(slow) and not late:
            late.append(key)
            assert claims.claim(uri, tmp_path, [wanted], quick) == {}  # looks, writes, waits and looks meanwhile
        set_tag(run_id, key, value)

    monkeypatch.setattr(client, "set_tag", lag)
    assert claims.claim(uri, tmp_path, [wanted], slow).keys() == {wanted}
    assert late and own_tags(uri, wanted) == {quick}


@pytest.mark.slow
def test_a_store_that_is_a_file_is_locked_and_nobody_waits(tmp_path, monkeypatch):
    monkeypatch.setattr(claims.time, "sleep", lambda seconds: pytest.fail("waits") if seconds else None)
    uri = f"sqlite:///{stores.put(tmp_path / 'mlflow.db')}"
    client = server.client_of(uri)
    experiment = client.create_experiment("here")
    wanted, first, second = (client.create_run(experiment, tags=FAR.tags()).info.run_id for _ in range(3))
    client.set_terminated(wanted, "KILLED")
    assert claims.claim(uri, tmp_path / "one", [wanted], first) == {}
    assert claims.claim(uri, tmp_path / "two", [wanted], second).keys() == {wanted}
