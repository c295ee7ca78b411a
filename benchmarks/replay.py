"""Replay searches on recorded grids: how often a few trials find the best run of a whole grid.

Samplers and pruners run in the program's own studies; a run is the line of a table with the nearest learning rate. A
grid counts as found if most searches, over several seeds, choose a run within one standard error of its best run.
"""

from __future__ import annotations

import math
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState

import frostline
from bench import Bench
from frostline.core.config import Config
from frostline.records.trial_tags import Decision
from frostline.sweeps.search_budget import Spent
from frostline.sweeps.study import Study
from frostline.sweeps.study_storage import storage_of
from grids import DECAYS, EPOCHS, GRIDS, LRS, Grid
from table import Row

TRIALS = 12
_SEEDS = 10
_LR, _DECAY = "lr", "optimizer.weight_decay"
_SPACE: dict[str, BaseDistribution] = {
    _LR: FloatDistribution(LRS[0], LRS[-1], log=True),
    _DECAY: CategoricalDistribution(DECAYS),
}
_WAYS = (
    ("grids found", ("search=tpe",), 1.0),
    ("grids found", ("search=tpe", "search.prune=hyperband"), 0.5),
    ("grids found otherwise", ("search=qmc",), 1.0),
    ("grids found otherwise", ("search=tpe", "search.prune=median"), 0.5),
    ("grids found otherwise", ("search=random", "search.prune=hyperband"), 0.5),
    ("grids found otherwise", ("search=gp", "search.prune=hyperband"), 0.5),
)
"""A measure, its overrides, and its budget as a share of the epochs of twelve trials."""
_PUBLIC = "FROSTLINE_OPTUNA_SWEEPER"
"""Variable with a Python interpreter for hydra-optuna-sweeper, which needs older libraries than ours."""


def replay(bench: Bench) -> Iterator[Row]:
    """Measure how many recorded grids our searches find, against random search and the public plugin."""
    quick = bench.scale.rounds == 1
    grids, seeds, ways = (GRIDS[:1], range(1), _WAYS[:2]) if quick else (GRIDS, range(_SEEDS), _WAYS)
    chance = {share: _found(grids, seeds, _ours("search=random", share=share)) for share in (1.0, 0.5)}
    public = _found(grids, seeds, _public) if _PUBLIC in os.environ else None
    for measure, typed, share in ways:
        found = _found(grids, seeds, _ours(*typed, share=share))
        theirs = f"random: {_told(chance[share])}"
        if public is not None and share == 1.0:
            theirs += f"; hydra-optuna-sweeper: {_told(public)}"
        note = f"of {len(grids)}, {len(seeds)} searches each; in brackets the share of all searches"
        setting = f"{' '.join(typed)}, {share * TRIALS * EPOCHS:.0f} epochs"
        number = float(sum(part > 0.5 for part in found))
        yield bench.row(measure, setting, number, ours=_told(found), theirs=theirs, note=note)


def _told(found: list[float]) -> str:
    return f"{sum(share > 0.5 for share in found)} ({sum(found) / len(found):.0%})"


def _found(grids: tuple[Grid, ...], seeds: range, search: Callable[[Grid, int], float]) -> list[float]:
    """Return for each grid the share of searches that choose a run as good as its best one."""
    return [sum(search(grid, seed) >= grid.best - grid.standard_error for seed in seeds) / len(seeds) for grid in grids]


def _ours(*typed: str, share: float) -> Callable[[Grid, int], float]:
    """Return a function that searches as the program does, with this `share` of the epochs."""
    config = frostline.compose(f"epochs={EPOCHS}", *typed)

    def search(grid: Grid, seed: int) -> float:
        seeded = replace(config, search=replace(config.search, seed=seed))
        return _search(grid, seeded, int(share * TRIALS * EPOCHS))

    return search


def _search(grid: Grid, config: Config, epochs: int) -> float:
    """Return the accuracy of the best trial of a search that trains so many epochs."""
    study = Study(storage_of(config.search, None), grid.name, config, _SPACE)
    found = 0.0
    while epochs > 0:
        number = next((number for number, _ in study.rungs.promote(1)), None)
        number = study.ask()[0] if number is None else number
        values, had = study.asked(number), len(study.trials()[number].intermediate_values)
        curve = grid.run(values[_LR], values[_DECAY])[: had + epochs]
        judge, decision = study.judge(number), Decision.CONTINUE
        for epoch in range(had + 1, len(curve) + 1):  # as `runs.train` asks
            epochs -= 1
            if (
                epoch < EPOCHS and (decision := judge(epoch, curve[epoch - 1])) is not Decision.CONTINUE
            ):  # as `runs.train`
                break
        if decision is Decision.PAUSE:
            study.rungs.pause(number, curve[:epoch], Spent(epoch, 0.0))
        elif decision is Decision.STOP or len(curve) < EPOCHS:  # or it diverged, or nothing is left for the rest of it
            study.tell(number, None, TrialState.PRUNED)
            epochs -= not curve  # what diverges in its first epoch costs one
        else:
            found = max(found, *curve)
            study.tell(number, [max(curve)], TrialState.COMPLETE, curve)
    return found


def _public(grid: Grid, seed: int) -> float:
    """Return the choice of the public Optuna plugin for Hydra, run in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(
                os.environ[_PUBLIC],
                "-I",  # without our PYTHONPATH, on which Hydra would find our own plugin
                str(Path(__file__).with_name("public_sweeper.py")),
                "-m",
                f"hydra.sweep.dir={folder}",
            ),
            *(f"grid={grid.file}", f"lr=tag(log, interval({LRS[0]}, {LRS[-1]}))"),
            *(f"weight_decay=choice({','.join(map(str, DECAYS))})", f"hydra.sweeper.n_trials={TRIALS}"),
            *("hydra.sweeper.direction=maximize", f"hydra.sweeper.sampler.seed={seed}"),
        ]
        subprocess.run(command, check=True, capture_output=True, cwd=folder)
        said = (Path(folder) / "optimization_results.yaml").read_text()
    best = next(line for line in said.splitlines() if line.startswith("best_value"))
    value = float(best.partition(":")[2])
    return 0.0 if math.isnan(value) else value
