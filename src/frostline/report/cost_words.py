"""Training times of two contenders in words: which one takes longer, how many times, and which is the cheaper."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from frostline.records.result import IMAGES, SECONDS, Result, value_text
from frostline.report.contest import Contender, capital

_ALIKE, _INSTANT = 1.1, 0.25  # times within this factor, or this many seconds, differ by load of the machine alone


def cost_clause(first: Contender, second: Contender, slower: str, faster: str, results: Sequence[Result]) -> str:
    """Return the clause on the training time of the first against the second; empty where a time was not measured.

    The clause begins with `slower` if the first takes longer, and with `faster` if the second does. `results` are all
    runs of the comparison.
    """
    mine, yours = first.cell.mean(SECONDS), second.cell.mean(SECONDS)
    if not (mine > 0 and yours > 0):
        return ""
    if _takes_longer(mine, yours):
        return f"{slower} {_times(mine / yours)} times the training time{_stored(second, results)}"
    if _takes_longer(yours, mine):
        return f"{faster} {_times(yours / mine)} times as fast{_stored(first, results)}"
    return ", for about the same training time"


def _stored(faster: Contender, results: Sequence[Result]) -> str:
    """Return the remark that a time is short because another run had already computed the features.

    Runs in lockstep have equal times, each with its share of the features that the first of them computed.
    """
    shared = {run.metrics.get(SECONDS) for run in results if run.metrics.get(IMAGES)}
    if faster.cell.mean(IMAGES) != 0 or any(run.metrics.get(SECONDS) in shared for run in faster.cell.finished):
        return ""
    return f" ({value_text(faster.value)} found its features in the store)"


def _times(ratio: float) -> str:
    return f"{ratio:.1f}" if ratio < 9.95 else f"{ratio:,.0f}"


def cheaper(first: Contender, second: Contender) -> list[str]:
    """Return the sentence on which of two contenders trains faster; empty if neither clearly does.

    Also empty if the faster found features in the store that the other computed in one pass: it would as well have
    been the other way round.
    """
    one, other = sorted((first, second), key=lambda one: one.cell.mean(SECONDS))
    a_pass = fmean(sum(run.images.values()) for run in other.cell.finished)
    if one.cell.mean(IMAGES) == 0 < other.cell.mean(IMAGES) <= a_pass:
        return []
    clear = one.cell.mean(SECONDS) > 0 and _takes_longer(other.cell.mean(SECONDS), one.cell.mean(SECONDS))
    return [f"{capital(one.name)} is the cheaper."] if clear else []


def _takes_longer(one: float, other: float) -> bool:
    """Return whether the first of two training times, in seconds, is longer by more than noise."""
    return one >= other * _ALIKE and one - other >= _INSTANT
