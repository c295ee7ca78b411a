"""What surrounds a run: where it writes and who is told, and what its sweep knows of other runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from frostline.core.config import Config
from frostline.records.trial_tags import Decision
from frostline.report.terminal import Screen
from frostline.runs.initial_weights import Fetch, no_runs

Judge = Callable[[int, float], Decision]
"""Is told an epoch, from 1, with its value of what is selected by, and says whether a trial goes on there."""


@dataclass(frozen=True)
class RunContext:
    """What a run is told beside its config; one that stands alone has a name, a folder and a screen."""

    name: str
    """What its plan is called."""
    folder: Path
    """What it leaves lies here, as does a checkpoint that it goes on from."""
    screen: Screen
    previous: Path | None = None
    """Where else there may be a checkpoint of it, if none is in its folder."""
    fetch: Fetch = no_runs
    siblings: Callable[[], Sequence[Config]] = tuple
    """Returns runs that this process carries out next and that differ from it in what steps alone read: their heads may
    be trained in lockstep with its own."""
    judge: Judge | None = None
    """May end it before its last epoch: it is finished then, with what it has."""
    sweep: Path | None = None
    """Where what runs with `save_weights=learned` share lies; its own folder where there is no sweep."""
