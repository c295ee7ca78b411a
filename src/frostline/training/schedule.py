"""When what happens in a run: which steps belong to which phase, and which samples to which batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Span:
    """The steps `start` to `end` (exclusive) of a run that belong to one phase."""

    phase: int
    start: int
    end: int


def spans(shares: Sequence[float], *, epochs: int, steps_per_epoch: int) -> tuple[Span, ...]:
    """Return where the phases lie: whole epochs, at least one each, in proportion to `shares`.

    With fewer epochs than phases they are cut by steps instead; a phase too short for a step is left out.
    """
    unit, length = (steps_per_epoch, epochs) if epochs >= len(shares) else (1, epochs * steps_per_epoch)
    bounds = [round(length * sum(shares[:i]) / sum(shares)) for i in range(len(shares) + 1)]
    if length >= len(shares):
        for i in range(1, len(shares)):  # at least one for each of those before and after
            bounds[i] = min(max(bounds[i], bounds[i - 1] + 1), length - (len(shares) - i))
    parts = [Span(i, unit * a, unit * b) for i, (a, b) in enumerate(pairwise(bounds))]
    return tuple(part for part in parts if part.end > part.start)


def span_of(timeline: Sequence[Span], step: int) -> Span:
    """Return the span that `step` lies in."""
    return next(span for span in timeline if span.start <= step < span.end)


def pieces(timeline: Sequence[Span], start: int, end: int) -> Iterator[tuple[Span, range]]:
    """Yield the spans that the steps `start` to `end` (exclusive) lie in, and which of the steps lie there."""
    for span in timeline:
        here = range(max(span.start, start), min(span.end, end))
        if here:
            yield span, here


def batches(count: int, size: int, *, drop_last: bool = False) -> list[slice]:
    """Return the slices that cut `count` samples into batches of `size`, the last one smaller unless it is dropped.

    A last batch of one sample joins the one before it, since batch norm cannot learn from a single value.
    """
    edges = [*range(0, count, size), count]
    rest = count - edges[-2]
    if len(edges) > 2 and drop_last and rest < size:
        edges.pop()
    elif len(edges) > 2 and rest == 1 < size:
        edges.pop(-2)
    return [slice(a, b) for a, b in pairwise(edges)]
