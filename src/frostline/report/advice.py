"""Advice on backbones before a sweep: ranking by linear probes, scores per stage, costs, and the next command."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from frostline.records.result import number_of
from frostline.report import command_line, statistics
from frostline.report.paired_difference import paired
from frostline.report.statistics import Interval, Ints
from frostline.report.tables import duration

if TYPE_CHECKING:
    from frostline.runs.appraisal import Border
    from frostline.runs.costs import Cost
    from frostline.sweeps.advice import BackboneComparison, CellSearch, ComparedBackbone

_GRID = "1e-4,1e-3,1e-2"  # decades around the default: `head` and `full` want learning rates of their own
_LRS = _GRID.count(",") + 1
_RANGE = "auto"  # the range of each freeze mode, for a search
MEASURED = (
    "on 14 small backbones and 200 digits (benchmarks/advice.py) Spearman's rank correlation of the best probe with "
    "test accuracies of real runs was 0.82 for `full` (95% interval 0.46 to 0.97) and 0.62 for `head` (0.10 to 0.95)"
)
"""The rows of benchmarks/RESULTS.md."""


@dataclass(frozen=True)
class Rank:
    """The rank of a backbone among all, by the accuracy of one of its probes."""

    border: Border
    interval: Interval
    """95% interval of the probe's accuracy (Wilson; images in groups count as many as they are worth)."""
    behind: float
    """Accuracy of the first backbone's probe minus that of this one."""
    behind_interval: Interval | None
    """Simultaneous 95% interval of `behind`, over the same images or their groups: all of them hold 95 times in 100.

    None for the first backbone, which is first partly by chance: of 14 equal backbones, the truly best one would be
    clearly behind it 15 to 19 times in 100 by intervals of 95% each, and is 2 times in 100 by these.
    """

    @property
    def tied(self) -> bool:
        """Whether the backbone is first, or cannot be told apart from the first."""
        return self.behind_interval is None or 0 in self.behind_interval


@dataclass(frozen=True)
class Standing:
    """The ranks of a backbone by two probes."""

    backbone: ComparedBackbone
    best: Rank
    """By its best probe of any stage, which correlates with the accuracy of fine-tuning."""
    top: Rank
    """By the probe on the input of its head, which correlates with the accuracy of feature extraction."""

    @property
    def left(self) -> bool:
        """Whether the backbone stays a candidate: by one of its probes it cannot be told apart from the first."""
        return self.best.tied or self.top.tied


def standings(backbones: Sequence[ComparedBackbone]) -> list[Standing]:
    """Return the standing of each backbone, the best linear probe first; of equals the one with fewer parameters."""
    groups = _groups(backbones)
    best = _ranks([max(one.appraisal.borders, key=lambda border: border.probe) for one in backbones], groups)
    top = _ranks([one.appraisal.borders[-1] for one in backbones], groups)
    found = [Standing(*each) for each in zip(backbones, best, top, strict=True)]
    return sorted(found, key=lambda one: (-one.best.border.probe, one.backbone.appraisal.parameters))


def _groups(backbones: Sequence[ComparedBackbone]) -> Ints | None:
    """Return the groups of the validation images, the same for all backbones; None where images have no groups."""
    found = backbones[0].appraisal.groups
    return None if found is None or len({*found}) == len(found) else np.array(found)


def _ranks(borders: Sequence[Border], groups: Ints | None) -> list[Rank]:
    first = max(borders, key=lambda border: border.probe)
    level = statistics.bonferroni_level(len(borders) - 1)
    return [_rank(border, first, groups, level) for border in borders]


def _rank(border: Border, first: Border, groups: Ints | None, level: float) -> Rank:
    one, other = (np.array(each.right, dtype=np.bool_) for each in (first, border))
    right, total = float(other.sum()), float(len(other))
    if groups is not None:
        total = statistics.effective_images(other, groups)
        right = float(other.mean()) * total
    within = statistics.wilson(right, total) if total else Interval(0.0, 1.0)
    difference = None if border is first else paired(one, other, groups, level)[0] or Interval(-1.0, 1.0)
    return Rank(border, within, first.probe - border.probe, difference)


def next_sweep(advice: BackboneComparison) -> str:
    """Return the command of the next sweep: the backbones that are not clearly worse, and the modes that fit in memory.

    No mode is left out because of a probe: frozen features are no evidence against training a backbone.
    """
    left = _left(advice)
    mode = "freeze_mode" if "freeze_mode" in advice.typed else "freeze"
    lr = {} if "lr" in advice.typed else {"lr": _RANGE if advice.search else _GRID}
    varied = {key: ",".join(dict.fromkeys(one.typed[key] for one in left)) for key in left[0].typed}
    modes = dict.fromkeys(cost.mode for one in left for cost in one.costs) | dict.fromkeys(advice.solved)
    return command_line.of_sweep({**advice.typed, **varied, mode: ",".join(modes), **lr})


def seconds_of_next(advice: BackboneComparison) -> float:
    """Return an estimate of that sweep's duration on this machine, run after run; cached features count once."""
    points = advice.points * (1 if "lr" in advice.typed or advice.search else _LRS)
    costs = [cost for one in _left(advice) for cost in one.costs]
    return sum(cost.once + points * _seconds_of_cell(cost, advice.search) for cost in costs)


def _seconds_of_cell(cost: Cost, search: CellSearch | None) -> float:
    """Return the seconds of training of one point of the grid: of its run, or of the runs that a search makes of it."""
    run = cost.epochs * cost.epoch
    if search is None:
        return run
    unit = {"trials": run, "epochs": cost.epoch, "seconds": 1.0}[search.budget.unit]
    return search.budget.amount * unit + search.confirm * run


def _left(advice: BackboneComparison) -> list[ComparedBackbone]:
    """Return the backbones that are not clearly worse than the first, the best linear probe first."""
    return [standing.backbone for standing in standings(advice.backbones) if standing.left]


def sample_sentence(advice: BackboneComparison) -> str:
    """Return the sentence on the sample of the data on which the backbones were probed."""
    parts = [f"{advice.sample[name]:,} of {advice.images[name]:,} {name}" for name in ("train", "val")]
    where = f"{advice.data}, {advice.sample['classes']} classes: {' and '.join(parts)} images"
    some = number_of(len(advice.backbones), "backbone")
    return f"{some} on {where}, the same stratified sample for all, without test images"


def sentences(advice: BackboneComparison) -> Iterator[str]:
    """Yield the sentences on the ranking, the next command, and the limits of these estimates."""
    ranked = standings(advice.backbones)
    if len(ranked) > 1:
        yield _first("the best probe of any stage", [(one.backbone.name, one.best) for one in ranked])
        yield _first("the probe under the head", [(one.backbone.name, one.top) for one in ranked])
    runs = f"about {duration(seconds_of_next(advice))} on this machine, one run after the other"
    yield f"Next ({runs}): `{next_sweep(advice)}`."
    groups = _groups(advice.backbones)
    over = "the images" if groups is None else f"the {len(np.unique(groups)):,} groups of images"
    yield (
        "Limits: stage, k and L2 strength are the best of several on these same validation images, so the accuracies "
        f"are slightly too high; the intervals cover the choice of {over} alone."
    )
    yield (
        "A probe measures frozen features, not what training would make of them; "
        f"{MEASURED}. So no mode is left out because of a probe."
    )
    steps = "extrapolated from a few timed steps, without compiling, the final test and the files of a run"
    solved = f"; {', '.join(advice.solved)}: the one-time cost of `head`" if advice.solved else ""
    yield f"Costs: {steps}; memory is the peak of this process during these steps{solved}."


def _first(by: str, ranks: Sequence[tuple[str, Rank]]) -> str:
    tied = [name for name, rank in ranks if rank.tied]
    ahead = next(name for name, rank in ranks if rank.behind_interval is None)
    return f"By {by}, these cannot be told apart: {', '.join(tied)}." if tied[1:] else f"By {by}, {ahead} is first."


def facts(advice: BackboneComparison) -> dict[str, Any]:
    """Return the advice as plain values for JSON: accuracies are fractions in 0..1, times seconds, memory bytes."""
    return {
        "data": advice.data,
        "images": dict(advice.images),
        "sample": dict(advice.sample),
        "notes": list(advice.notes),
        "backbones": [_facts(standing) for standing in standings(advice.backbones)],
        "next": next_sweep(advice),
        "next_seconds": seconds_of_next(advice),
        "limits": list(sentences(advice))[-3:],
    }


def _facts(one: Standing) -> dict[str, Any]:
    borders = [asdict(border) for border in one.backbone.appraisal.borders]
    for border in borders:
        del border["right"]
    return {
        "name": one.backbone.name,
        "parameters": one.backbone.appraisal.parameters,
        "best": _rank_facts(one.best),
        "under_head": _rank_facts(one.top),
        "left": one.left,
        "borders": borders,
        "relative_gradient_norms": dict(one.backbone.appraisal.gradients),
        "seconds_per_image": one.backbone.appraisal.seconds,
        "costs": [{**asdict(cost), "run": cost.run} for cost in one.backbone.costs],
        "too_large": list(one.backbone.too_large),
    }


def _rank_facts(rank: Rank) -> dict[str, Any]:
    within = rank.behind_interval
    return {
        "stage": rank.border.stage,
        "probe": rank.border.probe,
        "interval": [rank.interval.low, rank.interval.high],
        "behind": rank.behind,
        "behind_interval": within and [within.low, within.high],
        "tied": rank.tied,
    }
