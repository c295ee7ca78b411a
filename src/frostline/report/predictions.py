"""What a run said of the test images, read again from its folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from frostline.records.layout import PREDICTIONS
from frostline.report.statistics import Floats, Ints


@dataclass(frozen=True)
class Predictions:
    """What a run said of the test images."""

    said: Ints
    """`(N,)`: the predicted classes."""
    confidence: Floats
    """`(N,)`: their probabilities, float32."""
    labels: Ints
    """`(N,)`: the true classes."""
    ids: Ints
    """`(N,)`: which image of the split's source each row is."""


def read(folder: str) -> Predictions | None:
    """Return what the run in `folder` predicted, None where that cannot be read."""
    try:
        found = load_file(Path(folder) / PREDICTIONS)
        said, chances = found["top_classes"][:, 0], found["top_log_probabilities"][:, 0]
        return Predictions(said, np.exp(chances), found["labels"], found["ids"])
    except (OSError, SafetensorError, KeyError, IndexError):
        return None
