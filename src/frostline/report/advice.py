"""Advice on backbones before a sweep: ranking by linear probes, scores per stage, costs, and the next command."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from frostline.records.result import number_of, percent, size
from frostline.report import command_line, statistics
from frostline.report.paired_difference import paired
from frostline.report.statistics import Interval, Ints
from frostline.report.tables import duration

if TYPE_CHECKING:
    from frostline.report.terminal import Screen
    from frostline.runs.appraisal import Border
    from frostline.sweeps.advice import Advice, Backbone

_GRID = "1e-4,1e-3,1e-2"  # decades around the default: `head` and `full` want learning rates of their own
_LRS = _GRID.count(",") + 1
MEASURED = (
    "on 14 small backbones and 200 digits (benchmarks/advice.py) Spearman's rank correlation of the best probe with "
    "test accuracies of real runs was 0.82 for `full` (95% interval 0.46 to 0.97) and 0.62 for `head` (0.10 to 0.95)"
)
"""The rows of benchmarks/RESULTS.md."""


@dataclass(frozen=True)
class Place:
    """The place of a backbone among all, by the accuracy of one of its probes."""

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
    """The places of a backbone by two probes."""

    backbone: Backbone
    best: Place
    """By its best probe of any stage, which correlates with the accuracy of fine-tuning."""
    top: Place
    """By the probe on the input of its head, which correlates with the accuracy of feature extraction."""

    @property
    def left(self) -> bool:
        """Whether the backbone stays a candidate: by one of its probes it cannot be told apart from the first."""
        return self.best.tied or self.top.tied


def standings(backbones: Sequence[Backbone]) -> list[Standing]:
    """Return the standing of each backbone, the best linear probe first; of equals the one with fewer parameters."""
    groups = _groups(backbones)
    best = _places([max(one.appraisal.borders, key=lambda border: border.probe) for one in backbones], groups)
    top = _places([one.appraisal.borders[-1] for one in backbones], groups)
    found = [Standing(*each) for each in zip(backbones, best, top, strict=True)]
    return sorted(found, key=lambda one: (-one.best.border.probe, one.backbone.appraisal.parameters))


def _groups(backbones: Sequence[Backbone]) -> Ints | None:
    """Return the groups of the validation images, the same for all backbones; None where images have no groups."""
    found = backbones[0].appraisal.groups
    return None if found is None or len({*found}) == len(found) else np.array(found)


def _places(borders: Sequence[Border], groups: Ints | None) -> list[Place]:
    first = max(borders, key=lambda border: border.probe)
    level = statistics.bonferroni_level(len(borders) - 1)
    return [_place(border, first, groups, level) for border in borders]


def _place(border: Border, first: Border, groups: Ints | None, level: float) -> Place:
    one, other = (np.array(each.right, dtype=np.bool_) for each in (first, border))
    right, total = float(other.sum()), float(len(other))
    if groups is not None:
        total = statistics.effective_images(other, groups)
        right = float(other.mean()) * total
    within = statistics.wilson(right, total) if total else Interval(0.0, 1.0)
    difference = None if border is first else paired(one, other, groups, level)[0] or Interval(-1.0, 1.0)
    return Place(border, within, first.probe - border.probe, difference)


def next_sweep(advice: Advice) -> str:
    """Return the command of the next sweep: the backbones that are not clearly worse, and the modes that fit in memory.

    No mode is left out because of a probe: frozen features are no evidence against training a backbone.
    """
    left = _left(advice)
    mode = "freeze_mode" if "freeze_mode" in advice.typed else "freeze"
    lr = {} if "lr" in advice.typed else {"lr": _GRID}
    varied = {key: ",".join(dict.fromkeys(one.typed[key] for one in left)) for key in left[0].typed}
    modes = dict.fromkeys(cost.mode for one in left for cost in one.costs) | dict.fromkeys(advice.solved)
    return command_line.of_sweep({**advice.typed, **varied, mode: ",".join(modes), **lr})


def seconds_of_next(advice: Advice) -> float:
    """Return an estimate of that sweep's duration on this machine, run after run; cached features count once."""
    points = advice.points * (1 if "lr" in advice.typed else _LRS)
    return sum(cost.once + points * cost.epochs * cost.epoch for one in _left(advice) for cost in one.costs)


def _left(advice: Advice) -> list[Backbone]:
    """Return the backbones that are not clearly worse than the first, the best linear probe first."""
    return [standing.backbone for standing in standings(advice.backbones) if standing.left]


def show(advice: Advice, screen: Screen) -> None:
    """Print the advice: notes, tables and sentences."""
    ranked = standings(advice.backbones)
    for note in advice.notes:
        screen.say(f"  note: {note}")
    screen.say(looked_at(advice))
    screen.show(ranking_table(ranked))
    for standing in ranked:
        screen.say(standing.backbone.name, "bold")
        screen.show(borders_table(standing.backbone))
    screen.say("Costs", "bold")
    screen.show(costs_table(ranked))
    for sentence in sentences(advice):
        screen.say(sentence)


def looked_at(advice: Advice) -> str:
    """Return the sentence on the sample of the data on which the backbones were probed."""
    parts = [f"{advice.sample[name]:,} of {advice.images[name]:,} {name}" for name in ("train", "val")]
    where = f"{advice.data}, {advice.sample['classes']} classes: {' and '.join(parts)} images"
    some = number_of(len(advice.backbones), "backbone")
    return f"{some} on {where}, the same stratified sample for all, without test images"


def ranking_table(ranked: Sequence[Standing]) -> Table:
    """Return a table with a row per backbone: its best probe, the probe under its head, and their gaps to the first."""
    behind = "behind the first"
    table = _table("backbone", "parameters", "best probe", "95%", behind, "above", "under the head", "95%", behind)
    for one in ranked:
        best, top = (
            (percent(place.border.probe), _span(place.interval), _behind(place)) for place in (one.best, one.top)
        )
        parameters = f"{one.backbone.appraisal.parameters:,}"
        table.add_row(one.backbone.name, parameters, *best, one.best.border.stage, *top)
    return table


def _behind(place: Place) -> str:
    if place.behind_interval is None:
        return "-"
    return f"{100 * place.behind:.1f} ({_span(place.behind_interval)}){', a tie' if place.tied else ''}"


def _span(interval: Interval) -> str:
    return f"{100 * interval.low:.1f} to {100 * interval.high:.1f}"


def borders_table(backbone: Backbone) -> Table:
    """Return a table with a row per stage: scores of the activations above it, and its relative gradient norm."""
    table = _table("above", "pooled", "values", "kNN", "probe", "LogME", "gradient")
    pulls = dict(backbone.appraisal.gradients)
    for one in backbone.appraisal.borders:
        scores = (percent(one.knn), percent(one.probe), f"{one.logme:.3f}")
        table.add_row(one.stage, one.pooling, f"{one.dimensions:,}", *scores, _pull(pulls.pop(one.stage, None)))
    for stage, pull in pulls.items():
        table.add_row(stage, "", "", "", "", "", _pull(pull))
    return table


def _pull(norm: float | None) -> str:
    return "-" if norm is None else f"{norm:.2g}"


def costs_table(ranked: Sequence[Standing]) -> Table:
    """Return a table with a row per backbone and mode: time of features, of an epoch and of a run, and peak memory."""
    table = _table("backbone", "mode", "on", "once", "an epoch", "a run", "peak memory")
    for one in ranked:
        for cost in one.backbone.costs:
            times = (duration(cost.once) if cost.once else "-", duration(cost.epoch), duration(cost.run))
            table.add_row(one.backbone.name, cost.mode, cost.device, *times, size(cost.memory))
        for mode in one.backbone.too_large:
            table.add_row(one.backbone.name, mode, "", "-", "-", "-", "more than the GPU has")
    return table


def _table(*headings: str) -> Table:
    table = Table(box=SIMPLE_HEAD, collapse_padding=True)
    for heading in headings:
        words = heading in ("backbone", "above", "pooled", "mode", "on")
        table.add_column(heading, justify="left" if words else "right", no_wrap=not words, overflow="fold")
    return table


def sentences(advice: Advice) -> Iterator[str]:
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


def _first(by: str, places: Sequence[tuple[str, Place]]) -> str:
    tied = [name for name, place in places if place.tied]
    ahead = next(name for name, place in places if place.behind_interval is None)
    return f"By {by}, these cannot be told apart: {', '.join(tied)}." if tied[1:] else f"By {by}, {ahead} is first."


def facts(advice: Advice) -> dict[str, Any]:
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
        "best": _place_facts(one.best),
        "under_head": _place_facts(one.top),
        "left": one.left,
        "borders": borders,
        "relative_gradient_norms": dict(one.backbone.appraisal.gradients),
        "seconds_per_image": one.backbone.appraisal.seconds,
        "costs": [{**asdict(cost), "run": cost.run} for cost in one.backbone.costs],
        "too_large": list(one.backbone.too_large),
    }


def _place_facts(place: Place) -> dict[str, Any]:
    within = place.behind_interval
    return {
        "stage": place.border.stage,
        "probe": place.border.probe,
        "interval": [place.interval.low, place.interval.high],
        "behind": place.behind,
        "behind_interval": within and [within.low, within.high],
        "tied": place.tied,
    }
