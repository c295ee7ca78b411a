"""The budget of each cell of a search, the same for all cells, in trials, epochs or seconds of training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from frostline.core.config import Config
from frostline.records.result import EPOCHS, SECONDS, Result


@dataclass(frozen=True)
class Spent:
    """The cost of a finished trial."""

    epochs: float
    seconds: float

    @classmethod
    def of(cls, result: Result) -> Spent:
        """Return the cost of a run; 0 for a metric that it lacks."""
        return cls(result.metrics.get(EPOCHS, 0.0), result.metrics.get(SECONDS, 0.0))

    def part(self, epochs: int) -> Spent:
        """Return the cost of the first `epochs` epochs, with equal seconds for each."""
        return Spent(epochs, self.seconds * epochs / self.epochs) if self.epochs > epochs else self


NO_COST = Spent(0, 0)


@dataclass(frozen=True)
class Budget:
    """An amount of one unit for a cell."""

    unit: str
    """`trials`, `epochs` or `seconds`."""
    amount: float
    whole: float
    """Maximum cost of a trial in this unit; 0 if it is not known before."""

    @classmethod
    def of(cls, config: Config, *, searched: bool) -> Budget:
        """Return the budget of a cell; one run if nothing is `searched`, because its head is solved."""
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
        """Return it as text, e.g. `60 epochs`."""
        return f"{self.amount:g} {self.unit}"

    @property
    def trials(self) -> int | None:
        """The number of trials; None for a budget in another unit."""
        return int(self.amount) if self.unit == "trials" else None

    def room(self, trials: Sequence[Spent | None]) -> float:
        """Return how many further trials may begin; a trial may begin as long as some budget is left for it.

        Running trials (None) and new ones are counted with the maximum cost of a trial, or the highest cost so far.
        """
        known = [one for one in trials if one is not None]
        over = [{"trials": 1.0, "epochs": one.epochs, "seconds": one.seconds}[self.unit] for one in known]
        each = self.whole or max(over, default=0.0)
        left = self.amount - sum(over) - each * (len(trials) - len(over))
        return 0 if left <= 0 else math.ceil(left / each) if each else math.inf
