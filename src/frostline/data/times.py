"""When pictures were taken, or whatever else orders them: read from a column of dates or numbers."""

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
"""How cameras write a date."""


@dataclass(frozen=True)
class Times:
    """In which order pictures come."""

    column: str
    ranks: Tensor
    """`(N,)` int64: the later the higher, the same for the same time."""
    texts: tuple[str, ...]
    """What stands in the column, by rank."""


def read(column: str, texts: Sequence[str]) -> Times:
    """Return the order of what stands in a column: numbers, or dates as ISO 8601 and cameras have them.

    A date without a zone is taken for UTC. UserError for a text that is neither.
    """
    import pandas as pd

    given = pd.Series(texts, dtype=object)
    numbers = pd.to_numeric(given, errors="coerce")
    iso = given.str.replace(_EXIF, r"\1-\2-\3", regex=True)
    dates = pd.to_datetime(iso, format="ISO8601", utc=True, errors="coerce")
    values = numbers if numbers.count() >= dates.count() else dates  # of years both, and in the same order
    if (odd := given[values.isna()]).size:
        expected = "a column of dates such as 2021-03-04 or 2021-03-04 10:30, or of numbers"
        raise user_error(
            "data.options.time", column, f"{expected}, not of {some(t or '(nothing)' for t in odd.unique())}"
        )
    _, first, ranks = np.unique(values.to_numpy(), return_index=True, return_inverse=True)
    return Times(column, torch.from_numpy(ranks), tuple(given[first]))


def told(times: Times, splits: Mapping[str, Tensor]) -> Finding:
    """Return what is to be told of splits by time, each the indices of its pictures, `(M,)` int64."""
    ranks = {name: times.ranks[splits[name]] for name in SPLITS}
    each = (f"{name} {times.texts[own.min()]} to {times.texts[own.max()]}" for name, own in ranks.items())
    return Finding(f"split by {times.column}: {', '.join(each)}")
