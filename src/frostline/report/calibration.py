"""Calibration of predictions: reliability diagrams and the expected calibration error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from frostline.report.statistics import Bools, Floats

_BINS = 15  # of the reliability diagram, as in Guo et al. 2017 (arXiv:1706.04599)


@dataclass(frozen=True)
class Calibration:
    """A reliability diagram and its expected calibration error."""

    ece: float
    """Expected calibration error: the mean over images of their bin's gap between confidence and accuracy."""
    counts: tuple[int, ...]
    """Images per bin; the bins divide confidences 0..1 into equal widths."""
    confidence: tuple[float, ...]
    """Mean confidence per bin; nan where there are no images."""
    accuracy: tuple[float, ...]
    """Accuracy per bin; nan where there are no images."""


def calibration(confidence: Floats, right: Bools) -> Calibration:
    """Return the reliability diagram of predictions, and its expected calibration error.

    Both arguments are `(N,)`: the probability of the predicted class, and whether that class is the true one.
    """
    which = np.clip(np.ceil(confidence * _BINS).astype(int) - 1, 0, _BINS - 1)  # bins are open below, as in the paper
    counts = np.bincount(which, minlength=_BINS)
    sums = [np.bincount(which, weights=values, minlength=_BINS) for values in (confidence, right.astype(float))]
    ece = float(np.abs(sums[1] - sums[0]).sum() / len(right))
    with np.errstate(invalid="ignore"):
        means = [tuple((values / counts).tolist()) for values in sums]
    return Calibration(ece, tuple(counts.tolist()), *means)
