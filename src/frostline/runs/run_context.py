"""The context of a run: its folder, its screen, and what its sweep knows about other runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from frostline.core.config import Config
from frostline.records.trial_tags import Judge
from frostline.report.terminal import Screen
from frostline.runs.initial_weights import Fetch, no_runs


@dataclass(frozen=True)
class RunContext:
    """Everything that a run gets besides its config; a single run needs only a name, a folder and a screen."""

    name: str
    """Name of its plan."""
    folder: Path
    """Folder of its files, and of a checkpoint from which it resumes."""
    screen: Screen
    previous: Path | None = None
    """Another folder that may hold its checkpoint, if its own does not."""
    fetch: Fetch = no_runs
    siblings: Callable[[], Sequence[Config]] = tuple
    """Returns the runs that this process executes next and that differ only in options of training steps: their heads
    can be trained in lockstep with this run's."""
    judge: Judge | None = None
    """Can end or pause the run as a trial before its last epoch."""
    sweep: Path | None = None
    """Folder of the base weights shared by runs with `save_weights=learned`; None for the run's own folder."""
