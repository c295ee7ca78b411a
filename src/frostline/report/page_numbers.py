"""Numbers for the page's scripts: shortened, but with more digits than are shown."""

from __future__ import annotations

import math

from frostline.report.statistics import Interval


def shortened(value: float | None, digits: int = 9) -> float | int | None:
    """Return `value` with so many significant digits; None for None, nan and infinity.

    Nine digits avoid double rounding: 342 of 359, rounded to five digits and then to a percentage, would be 95.27%.
    """
    if value is None or not math.isfinite(value):
        return None
    short = float(f"{value:.{digits}g}")
    return int(short) if short.is_integer() else short


def ends(interval: Interval | None) -> list[float | None]:
    """Return both ends of an interval; twice None where there is no interval."""
    return [shortened(interval.low), shortened(interval.high)] if interval else [None, None]
