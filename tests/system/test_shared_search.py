"""Searches that share a study and are killed between ask and tell leave the study of one uninterrupted search."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import pytest

import stores
import warm
from whole_sweeps import (
    KILLED_IN_CALL,
    RANGES,
    TINY_SEARCH,
    end_statuses,
    environment,
    final_results,
    places,
    shared_study,
)

WITHIN_ASK = ("search_space.suggest", 6)
"""The third trial is in the study, without its second value."""
BEFORE_TELL = ("Study.tell", 2)


def search(folder: Path, place: str, *, dies: tuple[str, int] | None = None) -> list[dict[str, Any]]:
    """Search with six trials in a study at `place`; return the results, none if it is killed by `dies`."""
    store = stores.put(folder.parent / "mlflow.db")
    ranges = [*RANGES[:2], "optimizer.weight_decay=interval(0,0.1)"]
    typed = ["-m", *TINY_SEARCH, *ranges, "freeze=head", "trials=6", f"search.storage='{place}'", "resume=true"]
    typed += [*places(folder, store), "hydra/launcher=basic", "epochs=1", "search.confirm=0"]
    typed += [f"store.path={folder.parent}/store"]
    code = KILLED_IN_CALL.format(place=dies[0], number=dies[1]) if dies else "from frostline.cli import main; main()"
    done = warm.run([sys.executable, "-c", code, *typed], env=environment())
    assert done.returncode == (-signal.SIGKILL if dies else 0), done.stdout + done.stderr
    return [] if dies else final_results(folder)


def trials(place: str) -> list[tuple[Any, ...]]:
    return [(trial.number, trial.params, trial.state, trial.value) for trial in shared_study(place).trials]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Any, ...]]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    search(folder / "sweep", f"{folder}/studies.log")
    return trials(f"{folder}/studies.log")


@pytest.mark.parametrize("place", ["{}/studies.log", "sqlite:///{}/studies.db"])
def test_killed_trials_are_taken_over_and_run_once(
    place: str, uninterrupted: list[tuple[Any, ...]], tmp_path: Path
) -> None:
    place = place.format(tmp_path)
    folders = [tmp_path / name for name in ("first", "second", "third")]
    search(folders[0], place, dies=WITHIN_ASK)
    search(folders[1], place, dies=BEFORE_TELL)
    last = search(folders[2], place)
    assert trials(place) == uninterrupted
    assert sorted(run["choices"]["trial"] for run in last if "trial" in run["choices"]) == [*range(6)]
    for number in range(6):
        ends = [status for folder in folders for status in end_statuses(folder / f"head-{number}")]
        assert len(ends) == 1, (number, ends)
