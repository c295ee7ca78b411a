"""Map pixel values of more than 8 bits to 0..255: the choice of black and white."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import isfinite

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.unsignedinteger | np.signedinteger | np.floating]

TOP = 65535
"""Default white of 16-bit images."""
PERCENTILES = {"minmax": (0.0, 100.0), "percentile": (0.5, 99.5)}
"""Percentiles of the values that become black and white. nnU-Net clips intensities at 0.5 and 99.5
(doi:10.1038/s41592-020-01008-z), so that a few hot pixels do not darken all others."""

_GRID = np.linspace(0, 100, 201)  # percentiles; 0.5 and 99.5 are among them
_REMEDY = "whose range of brightness is unknown: set data.range=minmax, percentile or [low,high]"


@dataclass(frozen=True)
class Levels:
    """The values of an image that become black and white: linear in between, clipped beyond."""

    low: float | None = None
    high: float | None = None
    """Both None for the range of the type, 0 to 65535, which floating point numbers lack."""
    of_image: bool = False
    """Whether `low` and `high` are percentiles (0 to 100) of each image's own values, instead of values."""

    def __call__(self, values: Values) -> NDArray[np.uint8]:
        """Return `values` mapped to 0..255, NaN to 0; `ValueError` if white is unknown."""
        low, high = self._ends(values)
        if high <= low:  # a constant image
            return np.zeros(values.shape, np.uint8)
        exact = np.float64 if values.dtype.itemsize > 2 else np.float32
        clipped = np.clip(values.astype(exact), low, high)
        clipped -= low
        clipped /= high - low
        clipped *= 255
        return np.nan_to_num(clipped, copy=False, nan=0).round().astype(np.uint8)

    def _ends(self, values: Values) -> tuple[float, float]:
        if self.low is None or self.high is None:
            if values.dtype.kind == "f":
                raise ValueError(f"floating point numbers, {_REMEDY}")
            if values.min() < 0 or values.max() > TOP:
                raise ValueError(f"numbers of more than 16 bits, {_REMEDY}")
            return 0, TOP
        if not self.of_image:
            return self.low, self.high
        known = finite(values)
        low, high = np.percentile(known, (self.low, self.high)).tolist()
        return (low, high) if low < high else (float(known.min()), float(known.max()))  # nearly constant


FULL = Levels()


def of_record(said: object) -> Levels:
    """Return the levels in the record of a run, a mapping of their fields; `ValueError` for anything else."""
    match said:
        case {"low": None, "high": None, "of_image": False}:
            return FULL
        case {"low": int() | float() as low, "high": int() | float() as high, "of_image": bool(of_image)}:
            if isfinite(low) and isfinite(high) and (not of_image or 0 <= low <= high <= 100):
                return Levels(float(low), float(high), of_image)
    raise ValueError("no levels of images")


def of_range(chosen: str | list[float], of: str) -> Levels | None:
    """Return the levels for `data.range` and `data.range_of`; None if they depend on the set's values (`of_set`)."""
    if isinstance(chosen, list):
        low, high = chosen
        return Levels(float(low), float(high))
    if chosen == "full":
        return FULL
    return Levels(*PERCENTILES[chosen], of_image=True) if of == "image" else None


def finite(values: Values) -> Values:
    """Return the finite values `(N,)`; `ValueError` if there are none."""
    known = values[np.isfinite(values)] if values.dtype.kind == "f" else values.ravel()
    if not known.size:
        raise ValueError("no finite number in it")
    return known


def summary(values: Values) -> NDArray[np.float64]:
    """Return `(201,)`: the percentiles 0, 0.5, ..., 100 of an image's values, the input of `of_set`."""
    ordered = np.sort(finite(values), kind="stable")  # radix sort for 16 bits
    return ordered[np.round(_GRID / 100 * (ordered.size - 1)).astype(np.int64)].astype(np.float64)


def of_set(summaries: Iterable[NDArray[np.float64]], chosen: str) -> Levels:
    """Return the levels of a set of images from their summaries, with equal weights; `FULL` if there are none.

    `minmax` is exact; percentiles are computed from 201 values per image.
    """
    if not (together := list(summaries)):
        return FULL
    pooled = np.concatenate(together)
    low, high = np.percentile(pooled, PERCENTILES[chosen]).tolist()
    return Levels(low, high) if low < high else Levels(float(pooled.min()), float(pooled.max()))
