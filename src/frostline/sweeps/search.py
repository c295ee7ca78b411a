"""A search: each cell of what is listed gets the same budget of trials, and its best one is confirmed on fresh seeds.

A trial is a run like any other, but its values are known only once earlier trials are told: so runs are planned in
rounds (`search_rounds`), which a sweep carries out like those of a grid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING

from hydra.core.override_parser.types import Override

from frostline.core.config import Config
from frostline.sweeps import compose as composing
from frostline.sweeps import hydra_keys, job, search_space, sweep, unused_keys
from frostline.sweeps.compose import Overrides
from frostline.sweeps.compose_cache import Compose
from frostline.sweeps.composed import Jobs
from frostline.sweeps.executor import Executor
from frostline.sweeps.search_cells import GRID, cells_of, said
from frostline.sweeps.search_rounds import Search

if TYPE_CHECKING:
    from frostline.sweeps.study_storage import Storage


def is_asked(overrides: Sequence[Override], compose: Compose) -> bool:
    """Return whether a command line, with what it takes from files, searches."""
    listed, _ = search_space.split(overrides)
    return bool(compose(hydra_keys.points(listed)[0]).search.name != GRID)


def run_search(overrides: Sequence[Override], *, compose: Compose, executor: Executor, folder_named: bool) -> int:
    """Search, confirm what was found, draw the result, and return the exit status as `sweep.run_sweep` does.

    Raises `UserError` before any run starts.
    """
    listed, ranges = search_space.split(overrides)
    jobs = hydra_keys.points(listed)
    of_job = Jobs(compose)
    cells = cells_of(jobs, ranges, compose, of_job, executor.start)
    configs = [cell.known.config for cell in cells]
    lines, rounds = unused_keys.check(_typed(jobs, ranges), configs), Search(cells, of_job, _storage(configs[0]))
    for line in [*lines, *said(cells)]:
        job.screen().say(line)
    folder = composing.sweep_folder(compose, [f"{key}={value}" for key, value in cells[0].setting.items()])
    planned = [run for cell in cells for run in rounds.corners(cell)]
    return sweep.run_planned(planned, executor=executor, folder=folder, folder_named=folder_named, rounds=rounds)


def _storage(config: Config) -> Storage | None:
    """Return the storage that was asked for, before anything else is made; raises UserError where it is none."""
    if config.search.storage is None or config.dry_run:
        return None
    from frostline.sweeps.study_storage import storage_of

    return storage_of(config.search, None)


def _typed(jobs: Sequence[Overrides], ranges: Mapping[str, Override]) -> dict[str, str]:
    """Return what was typed by key, but for ranges of one freeze mode, which has its own check."""
    fixed = hydra_keys.typed_values(chain.from_iterable(jobs))
    wide = {key: str(one.input_line).partition("=")[2] for key, one in ranges.items()}
    return fixed | {key: value for key, value in wide.items() if not key.startswith("search.space.")}
