"""Accuracy against the number of training images: contests on the same data that differ in how much of it is used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from frostline.core.config_keys import differing
from frostline.records.result import choices_text, listed, value_text
from frostline.report.cells import is_of_data
from frostline.report.contest import Contest

_SHRINKING = ("data.shots", "data.limit", "data.fraction")
_ONE_DRAW = (
    " Each size is one draw of training images; `'data.subset_seed=${seed}'` gives each seed its own, so that intervals"
    " contain the luck of the draw."
)
_UNSURE = {"tie": "a tie", "undecided": "undecided", "contradiction": "no clear winner"}


@dataclass(frozen=True)
class TrainSizes:
    """At least two contests that differ in the number of training images alone."""

    key: str
    """The key that shrinks train, e.g. `data.shots`."""
    where: str
    """Other settings of the data that differ within the sweep, e.g. `data=cifar10`; else empty."""
    contests: tuple[Contest, ...]
    """By number of training images, the smallest first; each has several contenders, all values of the same key."""

    @property
    def sentence(self) -> str:
        """The outcome at each size, e.g. `By data.shots: head wins at 1 and 3; undecided at 10.`, and on what draws."""
        sizes, several = dict[str, list[str]](), any(len(contest.contenders) > 2 for contest in self.contests)
        for contest in self.contests:
            size = value_text(contest.results[0].choices[self.key])
            sizes.setdefault(_outcome(contest, several), []).append(size)
        found = [f"{outcome} at {listed(own)}" for outcome, own in sizes.items()]
        where = f"With {self.where}, by" if self.where else "By"
        return f"{where} {self.key}: {'; '.join(found)}.{'' if self._redrawn else _ONE_DRAW}"

    @property
    def _redrawn(self) -> bool:
        return any(one.cell.redrawn for contest in self.contests for one in contest.contenders)


def train_sizes(contests: Sequence[Contest]) -> list[TrainSizes]:
    """Return the series of contests of one key that differ in the number of training images alone."""
    fit = [contest for contest in contests if len(contest.contenders) > 1 and images(contest)]
    choices = [contest.results[0].choices for contest in fit]
    settings = [name for name in differing(choices) if name == "select" or is_of_data(name)]
    shrinking = [name for name in settings if name in _SHRINKING]
    if len(shrinking) != 1:
        return []
    (key,), groups = shrinking, dict[tuple[str, str], list[Contest]]()
    for contest, chosen in zip(fit, choices, strict=True):
        if key in chosen:  # else the config of its runs cannot be read any more
            where = choices_text(chosen, [name for name in settings if name != key])
            groups.setdefault((where, contest.key), []).append(contest)
    return [
        TrainSizes(key, where, tuple(sorted(group, key=images)))
        for (where, _), group in groups.items()
        if len(group) > 1
    ]


def images(contest: Contest) -> int:
    """Return the number of training images in a contest; 0 if it is not known."""
    return contest.contenders[0].cell.finished[0].images.get("train", 0)


def _outcome(contest: Contest, several: bool) -> str:
    """Return the outcome in words; an undecided one names the two if there are `several` that they may be."""
    first, second = (one.name for one in contest.contenders[:2])
    if contest.outcome == "win":
        return f"{first} wins"
    if contest.outcome == "ahead":
        return f"{first} is ahead"
    if contest.outcome == "majority":
        return "none surely beats the largest class"
    return f"{_UNSURE[contest.outcome]} between {first} and {second}" if several else _UNSURE[contest.outcome]
