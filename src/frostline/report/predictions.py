"""What a run said of the test images, read again from its folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from frostline.records.layout import PREDICTIONS
from frostline.report.measures import Said, log_odds
from frostline.report.statistics import Floats, Ints


@dataclass(frozen=True)
class Predictions:
    """What a run said of the test images."""

    said: Ints
    """`(N,)`: the predicted classes."""
    confidence: Floats
    """`(N,)`: their probabilities, float32."""
    loss: Floats
    """`(N,)`: minus the logarithm of the probability of the true class, float32."""
    logits: Floats | None
    """`(N, classes)` float32; None where they were too many to be kept."""
    labels: Ints
    """`(N,)`: the true classes."""
    ids: Ints
    """`(N,)`: which image of the split's source each row is."""

    @property
    def as_said(self) -> Said:
        """What measures are computed from."""
        return Said(self.labels, self.said, self.loss, None if self.logits is None else log_odds(self.logits))


def read(folder: str) -> Predictions | None:
    """Return what the run in `folder` predicted, None where that cannot be read."""
    try:
        found = load_file(Path(folder) / PREDICTIONS)
        said, chances = found["top_classes"][:, 0], found["top_log_probabilities"][:, 0]
        loss = -found["label_log_probabilities"]
        return Predictions(said, np.exp(chances), loss, found.get("logits"), found["labels"], found["ids"])
    except (OSError, SafetensorError, KeyError, IndexError):
        return None
