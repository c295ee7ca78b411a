"""Orders that the first process of a run sends to the other ranks through a pipe; see `ranks`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from frostline.training.process_group import TensorSpecs


@dataclass(frozen=True)
class Join:
    """Join the process group that meets through a file."""

    meeting: str
    ranks: int


@dataclass(frozen=True)
class LoadState:
    """Receive a training state: tensors of this description, and these facts."""

    tensors: TensorSpecs
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class RunSteps:
    """Execute `count` steps of an epoch; `first` is the number of the first one in the run."""

    epoch: int
    first: int
    count: int


@dataclass(frozen=True)
class Compute:
    """Compute a share of a split's features in an epoch, below the frost line of a phase."""

    phase: int
    split: str
    epoch: int


@dataclass(frozen=True)
class Evaluate:
    """Compute the logits of a share of a split, above the frost line of a phase.

    For validation, averaged weights are used if there are any.
    """

    phase: int
    split: str
    cache: bool
    """See `frost_line.draw`."""


@dataclass(frozen=True)
class LoadBest:
    """Receive the tensors of the best epoch; if it `merges`, merge adapters into the network first."""

    tensors: TensorSpecs
    """See `LoadState`."""
    merges: bool


@dataclass(frozen=True)
class GatherShards:
    """Take part in gathering sharded tensors: the network's, and with `optimizer` its state's, too."""

    optimizer: bool


Order = GatherShards | Join | LoadState | RunSteps | Compute | Evaluate | LoadBest
