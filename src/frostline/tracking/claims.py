"""Mutual exclusion between sweeps that would resume the same run, and share an MLflow store but no folder.

MLflow has no compare-and-set, so each sweep writes a tag of its own to the run: it checks for tags of others, writes,
waits and checks again; of those that wrote meanwhile, the smallest name wins. This is Fischer's algorithm (Lamport, A
fast mutual exclusion algorithm, 1987). Its assumption, that checking and writing take less than the wait, is verified:
a sweep that took longer removes its tag. A store in a file is locked instead.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from frostline.records import layout, liveness
from frostline.records.liveness import Owner
from frostline.tracking import pending_sweeps, query, server, tracking_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient

_WAIT = 3.0  # seconds; on most servers, checking and writing take hundredths of a second
_TRIES = 5
_UNKNOWN = Owner("?", "another machine", "", 0, 0.0)


def claim(uri: str, run_ids: Collection[str], sweep: str) -> dict[str, Owner]:
    """Claim runs, by MLflow's ids, for the `sweep`; return the owners of those that others have, or finished meanwhile.

    A claim holds while its sweep gives signs of life. Raises `server.Unreachable` where the store is away or too slow.
    """
    if not run_ids:
        return {}
    with server.connected(uri) as client, _alone(uri) as wait:
        claims = _Claims(client, sweep)
        found = {run_id: claims.write(run_id, within=wait) for run_id in run_ids}
        if None in found.values():
            time.sleep(wait or 0.0)
        final = {run_id: who or claims.settle(run_id) for run_id, who in found.items()}
    return {run_id: who for run_id, who in final.items() if who is not None}


@contextmanager
def _alone(uri: str) -> Iterator[float | None]:
    """Yield the seconds to wait for others; None if a lock keeps them out until the end of the block."""
    if tracking_uri.file_of(uri) is None:
        yield _WAIT
        return
    with pending_sweeps.planning(uri):
        yield None


class _Claims:
    """Reads and writes claims of one sweep."""

    def __init__(self, client: MlflowClient, sweep: str) -> None:
        self._client, self._sweep, self._own = client, sweep, f"{layout.CLAIM_TAG}{sweep}"
        self._sweeps: dict[str, Owner | None] = {}

    def write(self, run_id: str, *, within: float | None) -> Owner | None:
        """Claim a run and return None, or return its owner; write `within` so many seconds after checking."""
        for _ in range(_TRIES):
            began = time.monotonic()
            run = self._client.get_run(run_id)
            if (who := _owner_of(run.info.status, run.data.tags)) is not None:
                return who
            others = self._others(run_id, run.data.tags)
            if others:
                return others[min(others)]
            self._client.set_tag(run_id, self._own, f"{time.time():.0f}")
            if within is None or time.monotonic() - began <= within:
                return None
            self._remove(run_id, self._own)
        raise server.Unreachable(f"reading a run and writing a tag takes more than {within:g} s")

    def settle(self, run_id: str) -> Owner | None:
        """Return None if the claim holds; else remove it and return the owner of the run."""
        others = self._others(run_id, self._client.get_run(run_id).data.tags)
        if not others or self._sweep < min(others):
            return None
        self._remove(run_id, self._own)
        return others[min(others)]

    def _others(self, run_id: str, tags: Mapping[str, str]) -> dict[str, Owner]:
        """Return the owners of other sweeps' claims on a run, by sweep; remove claims of sweeps that are over."""
        found: dict[str, Owner] = {}
        for key in tags:
            name = key.removeprefix(layout.CLAIM_TAG)
            if name in (key, self._sweep):
                continue
            if (who := self._living(name)) is not None:
                found[name] = who
            else:
                self._remove(run_id, key)
        return found

    def _remove(self, run_id: str, key: str) -> None:
        """Remove a tag, unless another sweep has removed it."""
        from mlflow.exceptions import MlflowException

        try:
            self._client.delete_tag(run_id, key)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise

    def _living(self, sweep: str) -> Owner | None:
        """Return the owner of a sweep; None if it is over or its process is gone."""
        if sweep not in self._sweeps:
            run = query.known(self._client, sweep)
            self._sweeps[sweep] = None if run is None else liveness.of_run(run.info.status, run.data.tags)
        return self._sweeps[sweep]


def _owner_of(status: str, tags: Mapping[str, str]) -> Owner | None:
    """Return the owner of a run that is being carried out or is finished; None otherwise."""
    return liveness.of_tags(tags) or _UNKNOWN if status == "FINISHED" else liveness.of_run(status, tags)
