"""Numbers as the page's scripts read them: short, yet with far more digits than are shown."""

from __future__ import annotations

import math

from frostline.report.statistics import Interval


def shortened(value: float | None, digits: int = 9) -> float | int | None:
    """Return `value` with so many significant digits; None for what is not a number.

    They are far more than are shown: 342 of 359, rounded to five and then to two of a percentage, is 95.27%.
    """
    if value is None or not math.isfinite(value):
        return None
    short = float(f"{value:.{digits}g}")
    return int(short) if short.is_integer() else short


def ends(interval: Interval | None) -> list[float | None]:
    """Return both ends of an interval, None where there is none."""
    return [shortened(interval.low), shortened(interval.high)] if interval else [None, None]
