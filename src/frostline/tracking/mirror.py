"""The mirror of a run's journal in MLflow: what the journal says and MLflow does not have yet is sent, once.

Sending can break off anywhere, and an answer can be lost after the server did its work. So nothing is assumed after a
problem: the run is searched by an id of our own before it is created, and metrics are compared with those that are
there. Everything else may be sent twice without harm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from frostline.core import files
from frostline.records import journal, layout
from frostline.records.layout import UID_TAG
from frostline.tracking import query
from frostline.tracking.log_batch import do_all, limited, missing, write_dataset, write_values
from frostline.tracking.unsent_entries import Unsent, resumed, unsent_of

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

_GROWING = (".log",)  # all others are replaced, `metrics.jsonl` before a run goes on


class Mirror:
    """The mirror of one folder's record. Not for several threads or processes at once."""

    def __init__(self, folder: Path, *, fresh: bool = False) -> None:
        """Mirror the record in `folder`; a `fresh` one began in this process, and nobody else ever passed it on."""
        self.folder = folder
        self._fresh = fresh
        self._doubt = True
        self._elsewhere = False
        """Whether the run went on in another folder, whose journal now says how it stands."""
        self._artifacts: str | None = None
        """Where MLflow keeps the run's files, once that is known."""
        self._journal, self._mirrored = str(folder / layout.RECORD), str(folder / layout.MIRRORED)
        self._complete: tuple[object, object] | None = None
        """What the system said of the two files when MLflow had all."""

    def pending(self) -> bool:
        """Return whether the journal holds what MLflow does not have; it costs little to ask that often."""
        state = (facts := files.facts(self._journal)), files.facts(self._mirrored)
        if not facts or state == self._complete:
            return False
        if facts[0] > journal.position(self.folder).offset:
            return True
        self._complete = state
        return False

    def bring(self, client: MlflowClient, experiment: str, parent: str | None) -> None:
        """Send what MLflow does not have of this run, in `experiment` under the run `parent`; raises what it raises.

        What was sent is noted, so that the next call goes on from there, whichever process makes it.
        """
        try:
            at = self._trusted_position(client)
            news, offset = unsent_of(self.folder, at.offset)
            run_id = at.run_id or self._open(client, experiment, parent, news)
            if run_id is not None:
                if news.guessed and (run := query.known(client, run_id)) and run.info.status == "FINISHED":
                    news.without_end()  # MLflow has what was lost of a damaged journal
                self._send(client, run_id, news)
                sure = journal.position(self.folder).sure
                if news.ended is not None and not sure:
                    _delete_twins(client, experiment, run_id, journal.uid(self.folder))
                journal.set_position(self.folder, journal.MirrorPosition(run_id, offset, sure))
        except BaseException:
            self._doubt = True
            raise
        self._doubt = False

    def unheard_of(self) -> bool:
        """Return whether MLflow was never told of a run that began under this sweep."""
        return self._fresh and not journal.begun(self.folder)

    def begin(self, client: MlflowClient, experiment: str, parent: str | None) -> None:
        """Have MLflow know of a run that is `unheard_of`, so that its files can name it; the rest waits for `bring`."""
        try:
            news, _ = unsent_of(self.folder, 0)
            if news.start is not None and not news.start.get("run_id"):
                self._open(client, experiment, parent, news)
        except BaseException:
            self._doubt = True
            raise

    def _trusted_position(self, client: MlflowClient) -> journal.MirrorPosition:
        """Return how far the record got; to the beginning if MLflow lost the run, to the end if it was deleted."""
        at = journal.position(self.folder)
        size = (self.folder / layout.RECORD).stat().st_size
        run = query.known(client, at.run_id) if at.run_id is not None and self._doubt else None
        if at.run_id is None or (run is None and self._doubt):
            return journal.MirrorPosition()
        if run is not None:
            self._elsewhere = run.data.tags.get(UID_TAG) != journal.uid(self.folder)
            if run.info.lifecycle_stage != "active":
                return replace(at, offset=size)
        return replace(at, offset=min(at.offset, size))

    def _open(self, client: MlflowClient, experiment: str, parent: str | None, news: Unsent) -> str | None:
        """Return the id of the run, created unless it is there; None where the journal names none."""
        start = news.start
        if start is None:
            return None
        first = not journal.begun(self.folder)
        run_id = start.get("run_id") or next(
            iter([] if first and self._fresh else _search(client, experiment, start["uid"])), None
        )
        if run_id is None or query.known(client, run_id) is None:
            journal.set_position(self.folder, journal.MirrorPosition(sure=first))
            tags = {**limited(start["tags"]), UID_TAG: start["uid"], **({layout.PARENT_TAG: parent} if parent else {})}
            run = client.create_run(experiment, start_time=start["time"], run_name=start["name"], tags=tags)
            run_id, self._doubt = query.named(run).info.run_id, False
            self._artifacts = run.info.artifact_uri
        else:
            news.tags = {**start["tags"], UID_TAG: start["uid"], **news.tags}
            news.status = news.status or "RUNNING"
            self._artifacts = None
        journal.set_position(self.folder, journal.MirrorPosition(run_id, 0, sure=first))
        return run_id

    def _send(self, client: MlflowClient, run_id: str, news: Unsent) -> None:
        from mlflow.entities import Metric, RunTag

        if self._elsewhere:
            news.tags, news.status, news.ended = {}, None, None
        metrics = [Metric(key, value, time, step) for key, value, time, step in news.metrics]
        if metrics and (self._doubt or resumed(self.folder)):
            metrics = missing(client, run_id, metrics)
        tags = [RunTag(key, value) for key, value in limited(news.tags).items()]
        steps: list[Callable[[], object]] = [
            partial(write_values, client, run_id, news.params, metrics, tags),
            *(partial(write_dataset, client, run_id, dataset) for dataset in news.datasets),
            *self._copies(client, run_id, news.artifacts),
        ]
        if news.ended is not None:
            steps.append(partial(client.set_terminated, run_id, news.status, news.ended))
        elif news.status is not None:
            steps.append(partial(client.update_run, run_id, status=news.status))
        do_all(steps)

    def _copies(
        self, client: MlflowClient, run_id: str, artifacts: Iterable[tuple[str, str | None]]
    ) -> Iterator[Callable[[], object]]:
        """Yield what copies a file of the run's folder; a journal from elsewhere gets no other file of this machine."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        top = self.folder.resolve()
        there = [((top / path).resolve(), inside) for path, inside in artifacts]
        there = [(file, inside) for file, inside in there if file.is_relative_to(top) and file.is_file()]
        if not there:
            return
        # Not client.log_artifact, which for as long as the process lives keeps what a broken answer once told it.
        self._artifacts = self._artifacts or query.named(client.get_run(run_id)).info.artifact_uri
        kept = get_artifact_repository(self._artifacts, tracking_uri=client.tracking_uri)
        yield from (partial(_hand_on, kept, file, inside) for file, inside in there)


def _hand_on(kept: ArtifactRepository, file: Path, inside: str | None) -> None:
    """Make a file an artifact, in the folder `inside`: on the disk that it lies on already, it takes no more room.

    That is for files that are replaced, and never written to again, so that two names can be of one.
    """
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

    if file.suffix not in _GROWING and isinstance(kept, LocalArtifactRepository):
        place = Path(kept.artifact_dir, inside or "", file.name)
        with suppress(OSError):  # another disk, one without links, or an older one is there: it is copied
            place.parent.mkdir(parents=True, exist_ok=True)
            place.hardlink_to(file)
            return
    kept.log_artifact(str(file), inside)


def _search(client: MlflowClient, experiment: str, uid: str | None) -> list[str]:
    """Return the runs that were created for `uid`, oldest first, whether or not anybody heard of it."""
    runs = client.search_runs([experiment], f"tags.`{UID_TAG}` = '{uid}'", order_by=["start_time ASC"])
    return [run.info.run_id for run in runs]


def _delete_twins(client: MlflowClient, experiment: str, run_id: str, uid: str | None) -> None:
    """Delete what a slow server created for a call that was given up, beside the run that became the record."""
    for twin in _search(client, experiment, uid):
        if twin != run_id:
            client.delete_run(twin)
