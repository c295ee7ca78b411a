"""Tables of the terminal on advice before a sweep: ranking of backbones, scores per stage, costs per freeze mode."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from frostline.records.result import percent, size
from frostline.report.advice import Rank, Standing, sample_sentence, sentences, standings
from frostline.report.statistics import Interval
from frostline.report.tables import duration, ruled
from frostline.report.terminal import Screen

if TYPE_CHECKING:
    from frostline.sweeps.advice import BackboneComparison, ComparedBackbone

_WORDS = ("backbone", "above", "pooled", "mode", "on")


def show(advice: BackboneComparison, screen: Screen) -> None:
    """Print the advice: notes, tables and sentences."""
    ranked = standings(advice.backbones)
    for note in advice.notes:
        screen.say(f"  note: {note}")
    screen.say(sample_sentence(advice))
    screen.show(ranking_table(ranked))
    for standing in ranked:
        screen.say(standing.backbone.name, "bold")
        screen.show(borders_table(standing.backbone))
    screen.say("Costs", "bold")
    screen.show(costs_table(ranked))
    for sentence in sentences(advice):
        screen.say(sentence)


def ranking_table(ranked: Sequence[Standing]) -> Table:
    """Return a table with a row per backbone: its best probe, the probe under its head, and their gaps to the first."""
    behind = "behind the first"
    heads = ("backbone", "parameters", "best probe", "95%", behind, "above", "under the head", "95%", behind)
    rows = []
    for one in ranked:
        best, top = ((percent(rank.border.probe), _span(rank.interval), _behind(rank)) for rank in (one.best, one.top))
        parameters = f"{one.backbone.appraisal.parameters:,}"
        rows.append([one.backbone.name, parameters, *best, one.best.border.stage, *top])
    return ruled(heads, rows, left=_WORDS)


def _behind(rank: Rank) -> str:
    if rank.behind_interval is None:
        return "-"
    return f"{100 * rank.behind:.1f} ({_span(rank.behind_interval)}){', a tie' if rank.tied else ''}"


def _span(interval: Interval) -> str:
    return f"{100 * interval.low:.1f} to {100 * interval.high:.1f}"


def borders_table(backbone: ComparedBackbone) -> Table:
    """Return a table with a row per stage: scores of the activations above it, and its relative gradient norm."""
    rows, pulls = [], dict(backbone.appraisal.gradients)
    for one in backbone.appraisal.borders:
        scores = (percent(one.knn), percent(one.probe), f"{one.logme:.3f}")
        rows.append([one.stage, one.pooling, f"{one.dimensions:,}", *scores, _pull(pulls.pop(one.stage, None))])
    rows += [[stage, "", "", "", "", "", _pull(pull)] for stage, pull in pulls.items()]
    return ruled(("above", "pooled", "values", "kNN", "probe", "LogME", "gradient"), rows, left=_WORDS)


def _pull(norm: float | None) -> str:
    return "-" if norm is None else f"{norm:.2g}"


def costs_table(ranked: Sequence[Standing]) -> Table:
    """Return a table with a row per backbone and mode: time of features, of an epoch and of a run, and peak memory."""
    rows = []
    for one in ranked:
        for cost in one.backbone.costs:
            times = (duration(cost.once) if cost.once else "-", duration(cost.epoch), duration(cost.run))
            rows.append([one.backbone.name, cost.mode, cost.device, *times, size(cost.memory)])
        for mode in one.backbone.too_large:
            rows.append([one.backbone.name, mode, "", "-", "-", "-", "more than the GPU has"])
    return ruled(("backbone", "mode", "on", "once", "an epoch", "a run", "peak memory"), rows, left=_WORDS)
