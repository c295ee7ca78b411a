"""The order of images in time, from a column of dates or numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from frostline.core.errors import user_error
from frostline.data.findings import Finding
from frostline.data.layouts import SPLITS
from frostline.data.names import some

_EXIF = re.compile(r"^(\d{4}):(\d\d):(\d\d)")
"""The date format of EXIF."""


@dataclass(frozen=True)
class Times:
    """The order of images in time."""

    column: str
    ranks: Tensor
    """`(N,)` int64: rank in time, ascending; equal for equal times."""
    texts: tuple[str, ...]
    """Text in the column, by rank."""


def read(column: str, texts: Sequence[str]) -> Times:
    """Return the order of the values in a column: numbers, or dates in ISO 8601 or EXIF format.

    A date without a time zone is read as UTC. UserError for a text that is neither.
    """
    import pandas as pd

    given = pd.Series(texts, dtype=object)
    numbers = pd.to_numeric(given, errors="coerce")
    iso = given.str.replace(_EXIF, r"\1-\2-\3", regex=True)
    dates = pd.to_datetime(iso, format="ISO8601", utc=True, errors="coerce")
    values = numbers if numbers.count() >= dates.count() else dates  # years are both, with the same order
    if (odd := given[values.isna()]).size:
        expected = "a column of dates such as 2021-03-04 or 2021-03-04 10:30, or of numbers"
        raise user_error(
            "data.options.time", column, f"{expected}, not of {some(t or '(nothing)' for t in odd.unique())}"
        )
    _, first, ranks = np.unique(values.to_numpy(), return_index=True, return_inverse=True)
    return Times(column, torch.from_numpy(ranks), tuple(given[first]))


def finding(times: Times, splits: Mapping[str, Tensor]) -> Finding:
    """Return the finding about the time span of each split; `splits` has indices of images, `(M,)` int64."""
    ranks = {name: times.ranks[splits[name]] for name in SPLITS}
    each = (f"{name} {times.texts[own.min()]} to {times.texts[own.max()]}" for name, own in ranks.items())
    return Finding(f"split by {times.column}: {', '.join(each)}")
