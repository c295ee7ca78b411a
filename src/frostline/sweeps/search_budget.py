"""What each cell of a search gets: as many trials as any other, or as many epochs or seconds of training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from frostline.core.config import Config
from frostline.records.result import EPOCHS, SECONDS, Result


@dataclass(frozen=True)
class Spent:
    """What a trial took that is over."""

    epochs: float
    seconds: float

    @classmethod
    def of(cls, result: Result) -> Spent:
        """Return what a run took; nothing of what it does not say."""
        return cls(result.metrics.get(EPOCHS, 0.0), result.metrics.get(SECONDS, 0.0))

    def part(self, epochs: int) -> Spent:
        """Return what the first so many epochs of it took, each alike."""
        return Spent(epochs, self.seconds * epochs / self.epochs) if self.epochs > epochs else self


NOTHING = Spent(0, 0)


@dataclass(frozen=True)
class Budget:
    """So much of one thing for a cell."""

    unit: str
    """`trials`, `epochs` or `seconds`."""
    amount: float
    whole: float
    """What a trial takes at most, as far as that is known before; 0 where it is not."""

    @classmethod
    def of(cls, config: Config, *, searched: bool) -> Budget:
        """Return that of a cell; where nothing is searched, as its head is solved, one run is all there is."""
        unit, amount = config.search.budget, config.search.amount
        if not searched:
            return cls("trials", 1, 1)
        if unit == "trials":
            return cls(unit, config.trials, 1)
        if unit == "epochs":
            return cls(unit, amount or config.trials * config.epochs, config.epochs)
        assert amount is not None
        return cls(unit, amount, 0)

    def __str__(self) -> str:
        """Say it for people, e.g. `60 epochs`."""
        return f"{self.amount:g} {self.unit}"

    def room(self, trials: Sequence[Spent | None]) -> float:
        """Return how many further trials may begin, given those that did, each as long as something is left then.

        What goes on (None) and what begins is taken to need all of a trial, or as much as any needed before.
        """
        known = [one for one in trials if one is not None]
        over = [{"trials": 1.0, "epochs": one.epochs, "seconds": one.seconds}[self.unit] for one in known]
        each = self.whole or max(over, default=0.0)
        left = self.amount - sum(over) - each * (len(trials) - len(over))
        return 0 if left <= 0 else math.ceil(left / each) if each else math.inf
