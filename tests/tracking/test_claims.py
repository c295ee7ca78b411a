"""One of several sweeps that share an MLflow store, but no folder, claims an interrupted run."""

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
    """Return a function that creates runs, with or without an owner, in the test's experiment."""
    client = server.client_of(uri)
    experiment = client.create_experiment(request.node.name)

    def make(owner=None, *, sign=None, status="RUNNING"):
        tags = owner.tags() | ({layout.ALIVE_TAG: str(sign)} if sign is not None else {}) if owner else {}
        run_id = client.create_run(experiment, tags=tags).info.run_id
        if status != "RUNNING":
            client.set_terminated(run_id, status)
        return run_id

    return make


def claimants(uri, run_id):
    tags = server.client_of(uri).get_run(run_id).data.tags
    return {key.removeprefix(layout.CLAIM_TAG) for key in tags if key.startswith(layout.CLAIM_TAG)}


@pytest.mark.slow
def test_one_of_eight_simultaneous_claims_succeeds(uri, runs, tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "_WAIT", 1.0)
    interrupted, sweeps = [runs(status="KILLED") for _ in range(3)], [runs(FAR) for _ in range(8)]
    barrier = threading.Barrier(8)

    def claim(sweep):
        barrier.wait()
        return claims.claim(uri, interrupted, sweep)

    with ThreadPoolExecutor(8) as threads:
        refused = dict(zip(sweeps, threads.map(claim, sweeps), strict=True))
    for run_id in interrupted:
        winners = [sweep for sweep in sweeps if run_id not in refused[sweep]]
        assert len(winners) == 1 and claimants(uri, run_id) == {*winners}
    assert all(owner.host == "far" for owners in refused.values() for owner in owners.values())


@pytest.mark.slow
def test_later_claim_names_the_owner_until_it_is_silent(uri, runs, tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "_WAIT", 0.2)
    interrupted, first, second = runs(status="KILLED"), runs(FAR), runs(FAR)
    assert claims.claim(uri, [interrupted], first) == {}
    assert claims.claim(uri, [interrupted], first) == {}  # the same sweep again
    assert claims.claim(uri, [interrupted], second)[interrupted].host == "far"
    server.client_of(uri).set_tag(first, layout.ALIVE_TAG, f"{time.time() - 700:.0f}")
    assert claims.claim(uri, [interrupted], second) == {}
    assert claimants(uri, interrupted) == {second}


def test_running_and_finished_runs_are_not_claimed(uri, runs, tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "_WAIT", 0.2)
    begun, silent, done = runs(FAR), runs(FAR, sign=1), runs(FAR, status="FINISHED")
    refused = claims.claim(uri, [begun, silent, done], runs(FAR))
    assert refused.keys() == {begun, done}


def test_slow_claim_is_withdrawn_and_repeated(uri, runs, tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "_WAIT", 0.3)
    interrupted, slow, quick = runs(status="KILLED"), runs(FAR), runs(FAR)
    client = server.client_of(uri)
    set_tag, late = client.set_tag, []

    def lag(run_id, key, value):
        if key.endswith(slow) and not late:
            late.append(key)
            assert claims.claim(uri, [interrupted], quick) == {}  # a whole claim in the meantime
        set_tag(run_id, key, value)

    monkeypatch.setattr(client, "set_tag", lag)
    assert claims.claim(uri, [interrupted], slow).keys() == {interrupted}
    assert late and claimants(uri, interrupted) == {quick}


@pytest.mark.slow
def test_claim_in_a_file_store_locks_instead_of_waiting(tmp_path, monkeypatch):
    monkeypatch.setattr(claims.time, "sleep", lambda seconds: pytest.fail("waits") if seconds else None)
    uri = f"sqlite:///{stores.put(tmp_path / 'mlflow.db')}"
    client = server.client_of(uri)
    experiment = client.create_experiment("here")
    interrupted, first, second = (client.create_run(experiment, tags=FAR.tags()).info.run_id for _ in range(3))
    client.set_terminated(interrupted, "KILLED")
    assert claims.claim(uri, [interrupted], first) == {}
    assert claims.claim(uri, [interrupted], second).keys() == {interrupted}
