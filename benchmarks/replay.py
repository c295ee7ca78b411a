"""Searches on the recorded grids: whether twelve trials find what the whole grid knows.

Optuna's samplers are asked through the program's own studies; a run is a line of a table, that of the nearest learning
rate. Found is what a search chose, with one standard error of the grid's best to spare.
"""

from __future__ import annotations

import csv
import json
import math
import subprocess
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState

import frostline
from bench import Bench
from grids import DECAYS, EPOCHS, FOLDER, GRIDS, LRS, Grid
from frostline.sweeps.study import Study, storage_of
from table import Row, Target

TRIALS = 12
SEEDS = range(10)
_LR, _DECAY = "lr", "optimizer.weight_decay"
_SPACE: dict[str, BaseDistribution] = {
    _LR: FloatDistribution(LRS[0], LRS[-1], log=True),
    _DECAY: CategoricalDistribution(DECAYS),
}


def run(grid: Grid, lr: float, decay: float) -> list[float]:
    """Return the epochs of the run that is the nearest of a grid."""
    nearest = min(LRS, key=lambda one: abs(math.log(one / lr)))
    return grid.curves[nearest, decay]


def search(grid: Grid, seed: int, *typed: str, epochs: int = TRIALS * EPOCHS) -> float:
    """Return the accuracy of the best trial of a search that trains at most so many epochs."""
    config = frostline.compose(f"epochs={EPOCHS}", f"search.seed={seed}", *typed)
    study = Study(storage_of(config.search, None), grid.name, config, _SPACE)
    used, found = 0, 0.0
    while used < epochs:
        number, values = study.ask()
        curve = run(grid, values[_LR], values[_DECAY])
        judge = study.judge(number) if config.search.prune != "none" else None
        seen = list[float]()
        for epoch, accuracy in enumerate(curve[: epochs - used], 1):
            seen.append(accuracy)
            if judge and judge(epoch, max(seen)):
                break
        used += len(seen)
        whole = len(seen) == len(curve)
        best = max(seen)
        study.tell(number, best if whole else None, TrialState.COMPLETE if whole else TrialState.PRUNED)
        found = max(found, best if whole else 0.0)
    return found
if __name__ == "__main__":
    import sys
    for grid in GRIDS:
        if not (FOLDER / f"{grid.name}.csv").exists(): continue
        out=[]
        for typed, ep in ((("search=random",),108),(("search=tpe",),108),(("search=qmc",),108),(("search=gp",),108),(("search=tpe","search.prune=hyperband"),54),(("search=random","search.prune=hyperband"),54),(("search=tpe","search.prune=median"),54)):
            hits=[search(grid,s,*typed,epochs=ep) >= grid.best-grid.standard_error for s in SEEDS]
            out.append(f"{' '.join(typed)[7:]}:{sum(hits)}")
        above=sum(v>=grid.best-grid.standard_error for v in (max(c) if c else 0 for c in grid.curves.values()))
        print(grid.name, f"{above}/55 good", *out, flush=True)
