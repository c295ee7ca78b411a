"""Hyperparameter search: each cell gets the same budget of trials, and its best trial is confirmed on fresh seeds.

A cell is a combination of the listed values. A trial is a run like any other, but its values depend on the results of
earlier trials. So runs are planned in rounds (`search_rounds`), which a sweep carries out like the runs of a grid.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain

from hydra.core.override_parser.types import Override

from frostline.core import files
from frostline.core.config import Config
from frostline.core.objectives import several
from frostline.report import terminal
from frostline.sweeps import hydra_overrides, samplers, search_space, sweep, unused_keys
from frostline.sweeps.composer import Composer
from frostline.sweeps.executor import Executor
from frostline.sweeps.hydra_overrides import Overrides
from frostline.sweeps.search_budget import Budget
from frostline.sweeps.search_cells import SearchCell, cells_of
from frostline.sweeps.search_rounds import Search
from frostline.sweeps.study_storage import Storage, in_one_line, storage_of


def run_search(
    overrides: Sequence[Override],
    *,
    compose: Composer,
    executor: Executor,
    folder_named: bool,
    notes: Sequence[str] = (),
) -> int:
    """Search, confirm the best trials, write the results, and return the exit status as `sweep.run_sweep` does.

    Raises `UserError` before any run starts.
    """
    listed, ranges = hydra_overrides.split(overrides)
    jobs = hydra_overrides.points(listed)
    first = compose.job(jobs[0], 0)
    executor.start(first.config)
    cells = cells_of(jobs, ranges, compose)
    configs = [cell.known.config for cell in cells]
    samplers.check_options(first.config.search)
    lines, search = unused_keys.check(_typed(jobs, ranges), configs), Search(cells, _storage(first.config))
    for line in [*notes, *lines, *describe(cells)]:
        terminal.say(line)
    planned, folder = [run for cell in cells for run in cell.corners()], files.absolute(first.sweep)
    with in_one_line(first.config.search):
        return sweep.run_planned(planned, executor=executor, folder=folder, folder_named=folder_named, search=search)


def describe(cells: Sequence[SearchCell]) -> Iterator[str]:
    """Yield lines about the search space and budget of the cells."""
    config = cells[0].config
    alike: dict[str, list[str]] = {}
    for cell in cells:
        what = ", ".join(search_space.words(key, one) for key, one in cell.space.items())
        alike.setdefault(what, []).append(cell.name)
        known, mode = cell.known, cell.config.freeze_mode.name
        if known.jobs > 1:
            yield f"{cell.name}: one cell, not {known.jobs}, since {mode} ignores {', '.join(known.unread)}"
    budget = Budget.of(config, searched=True)
    gets = f"trials={config.trials}" if budget.unit == "trials" else f"search.budget={budget} each"
    for what, names in alike.items():
        way = f"search={config.search.name} {gets}" if what else "without a search"
        yield ": ".join(filter(None, (way, ", ".join(names), what)))
    if found := several(config.search.objective):
        each = ", ".join(f"{one.name} ({one.direction})" for one in found)
        first = f"the best of it by {found[0].name} is confirmed" if config.search.confirm else "nothing is confirmed"
        yield f"search.objective: the Pareto front of {each}; {first}"


def _storage(config: Config) -> Storage | None:
    """Open `search.storage` before anything is created; None without one. UserError if it cannot be opened."""
    return None if config.search.storage is None or config.dry_run else storage_of(config.search, None)


def _typed(jobs: Sequence[Overrides], ranges: Mapping[str, Override]) -> dict[str, str]:
    """Return the typed values by key, without ranges for a single freeze mode, which have their own check."""
    fixed = hydra_overrides.typed_values(chain.from_iterable(jobs))
    wide = {key: hydra_overrides.typed_value(one) for key, one in ranges.items()}
    return fixed | {key: value for key, value in wide.items() if not key.startswith(hydra_overrides.OF_MODE)}
