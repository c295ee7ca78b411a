"""Mirror of one run's journal in MLflow: sends every entry that MLflow does not have yet, once.

Sending can fail anywhere, and an answer can be lost after the server did its work. So nothing is assumed after an
error: the run is searched by an id of our own before it is created, and metrics are compared with those that MLflow
has. Everything else can be sent twice without harm.
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

_GROWING = (".log",)  # appended to in place; all other files are replaced, `metrics.jsonl` when a run resumes


class Mirror:
    """The mirror of the record in one folder. Not for several threads or processes at once."""

    def __init__(self, folder: Path, *, fresh: bool = False) -> None:
        """Mirror the record in `folder`; a `fresh` one began in this process, and no other process mirrored it."""
        self.folder = folder
        self._fresh = fresh
        self._doubt = True
        """Whether the state of MLflow must be checked before anything is sent."""
        self._elsewhere = False
        """Whether the run was resumed in another folder, whose journal now decides its status and tags."""
        self._artifacts: str | None = None
        """URI of the run's artifacts in MLflow, once it is known."""
        self._journal, self._mirrored = str(folder / layout.RECORD), str(folder / layout.MIRRORED)
        self._complete: tuple[object, object] | None = None
        """State of both files on disk when MLflow had everything."""

    def pending(self) -> bool:
        """Return whether the journal has entries that MLflow does not have; cheap enough to call often."""
        state = (facts := files.facts(self._journal)), files.facts(self._mirrored)
        if not facts or state == self._complete:
            return False
        if facts[0] > journal.position(self.folder).offset:
            return True
        self._complete = state
        return False

    def sync(self, client: MlflowClient, experiment: str, parent: str | None) -> None:
        """Send what MLflow lacks of this run, in `experiment` under the run `parent`; errors of MLflow propagate.

        The position in the journal is saved, so that the next call continues from there, in any process.
        """
        try:
            at = self._trusted_position(client)
            news, offset = unsent_of(self.folder, at.offset)
            run_id = at.run_id or self._open(client, experiment, parent, news)
            if run_id is not None:
                if news.guessed and (run := query.known(client, run_id)) and run.info.status == "FINISHED":
                    news.without_end()  # MLflow has the true end, which a damaged journal lost
                self._send(client, run_id, news)
                sure = journal.position(self.folder).sure
                if news.ended is not None and not sure:
                    _delete_twins(client, experiment, run_id, journal.uid(self.folder))
                journal.set_position(self.folder, journal.MirrorPosition(run_id, offset, sure))
        except BaseException:
            self._doubt = True
            raise
        self._doubt = False

    def is_unsent(self) -> bool:
        """Return whether nothing of a run that began under this sweep was ever sent to MLflow."""
        return self._fresh and not journal.begun(self.folder)

    def begin(self, client: MlflowClient, experiment: str, parent: str | None) -> None:
        """Create a run that `is_unsent` in MLflow, so that its files can state its id; `sync` sends the rest."""
        try:
            news, _ = unsent_of(self.folder, 0)
            if news.start is not None and not news.start.get("run_id"):
                self._open(client, experiment, parent, news)
        except BaseException:
            self._doubt = True
            raise

    def _trusted_position(self, client: MlflowClient) -> journal.MirrorPosition:
        """Return how far the journal was sent; the beginning if MLflow lost the run, the end if the run was deleted."""
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
        """Return the id of the run, created unless it exists; None where the journal has no readable beginning."""
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
        """Yield functions that copy the run's files to MLflow; files outside its folder are skipped, for security."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        top = self.folder.resolve()
        there = [((top / path).resolve(), inside) for path, inside in artifacts]
        there = [(file, inside) for file, inside in there if file.is_relative_to(top) and file.is_file()]
        if not there:
            return
        # Not client.log_artifact, which caches a broken answer for the life of the process.
        self._artifacts = self._artifacts or query.named(client.get_run(run_id)).info.artifact_uri
        kept = get_artifact_repository(self._artifacts, tracking_uri=client.tracking_uri)
        yield from (partial(_log_artifact, kept, file, inside) for file, inside in there)


def _log_artifact(kept: ArtifactRepository, file: Path, inside: str | None) -> None:
    """Make a file an artifact in the folder `inside`; on the same local disk as a hard link, which takes no space.

    A hard link is safe for files that are replaced but never modified in place.
    """
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

    if file.suffix not in _GROWING and isinstance(kept, LocalArtifactRepository):
        place = Path(kept.artifact_dir, inside or "", file.name)
        with suppress(OSError):  # another disk, no hard links, or an older artifact: copy it
            place.parent.mkdir(parents=True, exist_ok=True)
            place.hardlink_to(file)
            return
    kept.log_artifact(str(file), inside)


def _search(client: MlflowClient, experiment: str, uid: str | None) -> list[str]:
    """Return the ids of the runs that were created for `uid`, oldest first, even if the answers were lost."""
    runs = client.search_runs([experiment], f"tags.`{UID_TAG}` = '{uid}'", order_by=["start_time ASC"])
    return [run.info.run_id for run in runs]


def _delete_twins(client: MlflowClient, experiment: str, run_id: str, uid: str | None) -> None:
    """Delete duplicates that a slow server created for calls that timed out, and keep the run `run_id`."""
    for twin in _search(client, experiment, uid):
        if twin != run_id:
            client.delete_run(twin)
