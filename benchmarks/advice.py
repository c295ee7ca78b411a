"""Accuracy of the advice: its ranking of backbones against that of real sweeps, and its times against real ones.

Nothing is downloaded. The backbones are the embedded weights, unchanged and with randomised stages, networks trained
on letters for a while, and untrained networks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

import ours
from bench import Bench
from frostline.models.build import build
from frostline.models.weights import GLYPHS
from frostline.records import layout
from frostline.records.result import TEST, VAL
from frostline.report.advice import standings
from frostline.sweeps.advice import BackboneComparison, advise
from table import Row

_SHUFFLENET, _SIDE = "shufflenet_v2_x0_5", 64
_SPOILED = {
    "random stem": ("stem",),
    "random stage1": ("stage1",),
    "random stage2": ("stage2",),
    "random stage3": ("stage3",),
    "random stem and stage1": ("stem", "stage1"),
    "random stage2 and stage3": ("stage2", "stage3"),
}
_LEARNT = {
    "shufflenet_v2_x0_5": (20, 80),
    "mobilenet_v3_small": (80,),
    "mnasnet0_5": (80,),
}
"""Training images per letter of networks from scratch, over five epochs."""
_LRS = {"head": (1e-1, 1e-2, 1e-3), "full": (1e-2, 1e-3)}
"""Learning rates of each mode; a head alone needs more."""
_DRAWS = 2000


@dataclass(frozen=True)
class _Trial:
    """The advice on a backbone, and the results of its sweep."""

    advised: BackboneComparison
    accuracy: Mapping[str, float]
    """Test accuracy at the best learning rate by validation, by mode."""
    seconds: Mapping[str, float]
    """Seconds of a run from its config to its record, by mode."""

    def scores(self) -> dict[str, float]:
        """Return the scores in the advice that could rank backbones."""
        (one,) = standings(self.advised.backbones)
        top = one.top.border
        return {
            "best probe": one.best.border.probe,
            "probe under the head": top.probe,
            "kNN under the head": top.knn,
            "LogME under the head": top.logme,
        }


def advice(bench: Bench) -> Iterator[Row]:
    """Measure rank correlations of advice with test accuracies, and its times against those of the runs."""
    quick = bench.scale.rounds == 1
    data: dict[str, Any] = {"data": "digits", "data.test_fraction": 0.5, "data.limit": 200}
    data |= {"epochs": 1 if quick else 10, "device": bench.device.type, "store.path": str(bench.folder())}
    chosen = _backbones(bench, few=quick)
    trials = []
    for name, backbone in chosen.items():
        trials.append(trial := _trial(bench, {**data, **backbone}))
        print(f"    {name}: {trial.scores()}, test {trial.accuracy}, seconds {trial.seconds}", flush=True)
    setting = f"{len(chosen)} backbones, 200 digits for training"
    for mode in _LRS:
        yield from _correlation(bench, setting, mode, trials)
    for mode in _LRS:
        ratios = [_cost(trial, mode) / trial.seconds[mode] for trial in trials]
        low, high = np.quantile(ratios, [0.1, 0.9])
        yield bench.row(
            *("time of a run as advised, against it", mode, median(ratios)),
            unit="x",
            note=f"median over backbones; four in five lie in {low:.2f} to {high:.2f}",
        )


def _correlation(bench: Bench, setting: str, mode: str, trials: Sequence[_Trial]) -> Iterator[Row]:
    real = [trial.accuracy[mode] for trial in trials]
    for name in trials[0].scores():
        value, low, high = _spearman([trial.scores()[name] for trial in trials], real)
        yield bench.row(
            *(f"rank correlation of the {name} with {mode}", setting, value),
            note=f"Spearman; 95% of bootstraps over backbones {low:.2f} to {high:.2f}; test accuracies from "
            f"{100 * min(real):.1f}% to {100 * max(real):.1f}%",
        )


def _spearman(scores: Sequence[float], real: Sequence[float]) -> tuple[float, float, float]:
    """Return the rank correlation and its 95% interval under resampled backbones."""
    pairs, random = np.array([scores, real]), np.random.default_rng(0)
    drawn = (pairs[:, random.integers(0, len(real), len(real))] for _ in range(_DRAWS))
    values = [spearmanr(*each).statistic for each in drawn if all(len(set(row)) > 1 for row in each)]
    low, high = np.quantile(values, [0.025, 0.975])
    return float(spearmanr(*pairs).statistic), float(low), float(high)


def _trial(bench: Bench, chosen: dict[str, Any]) -> _Trial:
    typed = [f"{key}={ours.said(value)}" for key, value in chosen.items()]
    advised = advise([*typed, f"freeze={','.join(_LRS)}"], images=2000, screen=ours.silent())
    accuracy, seconds = {}, {}
    for mode, lrs in _LRS.items():
        runs = ours.sweep([{**chosen, "freeze_mode": mode, "lr": lr} for lr in lrs], bench.folder(), mlflow=False).runs
        accuracy[mode] = max(runs, key=lambda run: run.metrics[VAL]).metrics[TEST]
        seconds[mode] = runs[0].seconds
    return _Trial(advised, accuracy, seconds)


def _cost(trial: _Trial, mode: str) -> float:
    return next(cost.run for cost in trial.advised.backbones[0].costs if cost.mode == mode)


def _backbones(bench: Bench, *, few: bool) -> dict[str, dict[str, Any]]:
    """Return the overrides of each backbone, by a description of it."""
    own: dict[str, Any] = {"model": _SHUFFLENET, "model.image_size": _SIDE, "threads": 1}
    found = {"embedded": {**own, "model.weights": str(GLYPHS)}}
    for name, stages in _SPOILED.items():
        found[name] = {**own, "model.weights": str(_spoiled(bench.folder(), stages))}
    for model in _LEARNT:
        found[f"{model} from scratch"] = {**own, "model": model, "model.weights": None}
    if few:
        return dict(list(found.items())[:3])
    for model, counts in _LEARNT.items():
        for count in counts:
            chosen = {**own, "model": model, "model.weights": str(_learnt(bench, model, count))}
            found[f"{model} after {count} images of each letter"] = chosen
    return found


def _spoiled(folder: Path, stages: Sequence[str]) -> Path:
    """Write the embedded weights with some randomised stages, and return the file."""
    model, new = (
        build(_SHUFFLENET, weights=weights, num_classes=2, seed=0, image_size=_SIDE) for weights in ("glyphs", None)
    )
    state, random = model.module.state_dict(), new.module.state_dict()
    mixed = {n: random[n] if model.structure.stage_of(n) in stages else tensor for n, tensor in state.items()}
    folder.mkdir(parents=True)
    file = folder / "weights.pt"
    torch.save({name: tensor for name, tensor in mixed.items() if not name.startswith("fc.")}, file)
    return file


def _learnt(bench: Bench, model: str, count: int) -> Path:
    """Return the weights of a network trained on letters, with `count` images of each."""
    run = {
        **{"data": "glyphs", "data.options.images_per_class": count, "model": model, "model.weights": None},
        **{"model.image_size": _SIDE, "freeze_mode": "full", "optimizer": "adamw", "schedule": "onecycle", "lr": 4e-3},
        **{"batch_size": 64, "epochs": 5, "threads": 1, "device": bench.device.type, "store.path": str(bench.folder())},
    }
    ours.sweep([run], folder := bench.folder(), mlflow=False)
    return folder / "0" / layout.BEST
