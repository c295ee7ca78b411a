"""What the first process of a run tells the others to do, through a pipe; see `ranks`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from frostline.training.process_group import Described


@dataclass(frozen=True)
class Join:
    """Become part of the group that meets in a file."""

    meeting: str
    ranks: int


@dataclass(frozen=True)
class TakeOver:
    """Receive a state, of which this is said beforehand."""

    tensors: Described
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class MakeSteps:
    """Make so many steps of an epoch, the first of which has this number in the run."""

    epoch: int
    first: int
    count: int


@dataclass(frozen=True)
class Compute:
    """Compute a share of the features of a split, as it is seen in an epoch, below the line of a phase."""

    phase: int
    split: str
    epoch: int


@dataclass(frozen=True)
class Evaluate:
    """Score a share of a split with the network as it is, above the line of a phase.

    Validation is scored with its average, where it has one.
    """

    phase: int
    split: str
    keep: bool
    """See `frost_line.draw`."""


@dataclass(frozen=True)
class TakeBest:
    """Receive the tensors of the best epoch, with adapters merged into the network before where it `merges`."""

    tensors: Described
    """See `TakeOver`."""
    merges: bool


@dataclass(frozen=True)
class PutTogether:
    """Help to put together what lies in shares: the network's tensors, perhaps with their `optimizer`'s."""

    optimizer: bool


Order = PutTogether | Join | TakeOver | MakeSteps | Compute | Evaluate | TakeBest
