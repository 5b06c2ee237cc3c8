"""Whether a series grows: Theil–Sen, which a few outliers do not move, with Sen's interval. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from flows.load.plan import US
from ssot.runs import Slope, warm_up

MOST_POINTS: Final = 300
LEAST_POINTS: Final = 8
_Z: Final = 1.96
_HOUR_US: Final = 3_600_000_000
UNITS: Final[dict[str, tuple[str, float]]] = {
    "rss_bytes": ("MiB/h", 1 / (1024 * 1024)),
    "fds": ("1/h", 1.0),
    "loop_lag_ms": ("ms/h", 1.0),
    "log_bytes": ("MiB/h", 1 / (1024 * 1024)),
}
"""The series that are tested, the unit of their slope, and what a value is multiplied with to be in it."""


def slope_of(name: str, rows: Sequence[tuple[int, float]]) -> Slope | None:
    """The slope of (µs, value) rows an hour; None where there are too few of them."""
    unit, factor = UNITS[name]
    begin, end = (rows[0][0], rows[-1][0]) if rows else (0, 0)
    lasted = end - begin
    kept = [(at, value) for at, value in rows if at >= begin + warm_up(lasted / US) * lasted]
    if len(kept) < LEAST_POINTS:
        return None
    hours, values = _thinned(kept)
    slope, low, high = theil_sen(hours, values * factor)
    return Slope(name=name, unit=unit, per_hour=round(slope, 6), low=round(low, 6), high=round(high, 6), grows=low > 0)


def _thinned(rows: Sequence[tuple[int, float]]) -> tuple[np.ndarray, np.ndarray]:
    """At most `MOST_POINTS` of them: medians of neighbours, which are less alike than the values themselves."""
    table = np.array(rows, dtype=float)
    parts = np.array_split(table, min(MOST_POINTS, len(table)))
    medians = np.array([np.median(part, axis=0) for part in parts])
    return medians[:, 0] / _HOUR_US, medians[:, 1]


def theil_sen(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """The median of the slopes of all pairs, and a 95 % interval around it (Sen 1968, by ranks of Kendall's S)."""
    first, second = np.triu_indices(len(x), k=1)
    apart = x[second] - x[first]
    usable = apart != 0
    slopes = np.sort((y[second] - y[first])[usable] / apart[usable])
    count, n = len(slopes), len(x)
    if count == 0:
        return 0.0, 0.0, 0.0
    width = _Z * math.sqrt(n * (n - 1) * (2 * n + 5) / 18)
    low = max(0, round((count - width) / 2) - 1)
    high = min(count - 1, round((count + width) / 2))
    return float(np.median(slopes)), float(slopes[low]), float(slopes[high])
