"""Checkpoints of a run: what they hold besides the training state, which of them are its own, and when it resumes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from frostline.core import project
from frostline.models.freeze_guard import Guard
from frostline.records import journal, layout
from frostline.records.recording import Record
from frostline.runs.run_context import RunContext
from frostline.runs.setup import Setup
from frostline.store import hashing
from frostline.training import checkpoint, state
from frostline.training.state import Learner, Progress


def origin_of(setup: Setup, learner: Learner) -> dict[str, str]:
    """Return what the training of a run starts from besides its config, as digests by name."""
    return {
        "data": setup.data.fingerprint,
        "source": project.source_sha256(),
        "frozen weights": hashing.of_tensors(learner.immutable),
    }


def capture(
    setup: Setup, learner: Learner, progress: Progress, whose: Mapping[str, str], guard: Guard
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and JSON-serialisable facts that `resume` needs."""
    tensors, facts = state.capture(learner, progress)
    counts = [*(views.seen for views in setup.views.train_and_val), guard.compared]
    return tensors, {"whose": whose, "counts": counts, **facts}


def resume(setup: Setup, learner: Learner, whose: Mapping[str, str], guard: Guard, run: RunContext) -> Progress:
    """Restore the newest checkpoint that is intact and of this run; return its progress, or an empty one."""
    say = run.screen.say
    for place in filter(None, (run.folder, run.previous)):
        for tensors, facts in checkpoint.intact(place / layout.CHECKPOINT, say):
            try:
                then = facts.get("whose") or {}
                if other := [key for key, value in whose.items() if then.get(key) != value]:
                    raise state.CheckpointMismatch(f"it was made with different {' and '.join(other)}")
                progress = state.restore(learner, tensors, facts)
                if setup.ranks is not None:
                    setup.ranks.send_checkpoint(tensors, facts)
            except state.CheckpointMismatch as problem:
                say(f"  skipped: the checkpoint in {place}: {problem}")
                continue
            *seen, guard.compared = facts["counts"]
            for views, count in zip(setup.views.train_and_val, seen, strict=True):
                views.seen = count
            at = progress.position
            say(f"  resumes after {f'step {at.steps} of ' if at.steps else ''}epoch {at.epoch - (not at.steps)}")
            return progress
    return Progress()


def rewind_record(progress: Progress, folder: Path, record: Record) -> None:
    """Rewrite the journal and the record to the epochs of the checkpoint, and drop later ones."""
    journal.rewrite_epochs(folder, progress.epochs)
    for line in progress.epochs:
        record.metrics({key: value for key, value in line.items() if "/" in key}, step=line["epoch"])


@contextmanager
def checkpoint_on_failure(folder: Path, record: Record) -> Iterator[None]:
    """Add the newest checkpoint to the record if the block fails, so that another machine can resume from it.

    A run that is `Paused` keeps its checkpoint only in its folder: many pause, few resume.
    """
    try:
        yield
    except (Exception, KeyboardInterrupt, SystemExit):
        with suppress(Exception):  # the original exception matters more
            for path in checkpoint.newest(folder / layout.CHECKPOINT):
                record.artifact(path, layout.CHECKPOINT)
        raise
