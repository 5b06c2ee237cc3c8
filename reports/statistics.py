"""Percentiles with honest intervals, slopes, and whether two groups of runs differ. Pure.

Percentiles are nearest-rank: the smallest value that at least so much of all values do not exceed, as HdrHistogram has
them. Samples of one run come in clusters (a stall hits all that are under way), so intervals come from whole blocks of
time, and a difference between runs is judged by runs: one run is one observation.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from ssot.runs import warm_up

Floats = npt.NDArray[np.float64]
BLOCK_S: Final = 10.0
"""Length of the blocks. With clustered stalls an interval of 95 % held in 80 % of trials; drawn by sample, in 13 %."""
LEAST_BLOCKS: Final = 12
P99_NEEDS: Final = 10_000
"""Samples below which a p99 hangs on a handful of them."""
LEAST_RUNS: Final = 5
ROUNDS: Final = 1000
_GRID: Final = 4096


def percentile(values: Sequence[float] | Floats | pd.Series, q: float) -> float:
    """The nearest-rank percentile, `q` in percent; NaN without values."""
    found = _clean(values)
    if not len(found):
        return math.nan
    rank = max(1, math.ceil(round(len(found) * q / 100, 9)))
    return float(np.partition(found, rank - 1)[rank - 1])


def _clean(values: Sequence[float] | Floats | pd.Series) -> Floats:
    found = np.asarray(values, dtype=np.float64)
    return found[~np.isnan(found)]


# -------------------------------------------------------------------------------------------- one run


@dataclass(frozen=True, slots=True)
class Interval:
    """A percentile with its 95 % interval, from so many blocks of so many seconds."""

    value: float
    low: float
    high: float
    blocks: int
    block_s: float


def interval(
    values: pd.Series, at_us: pd.Series, q: float, *, block_s: float = BLOCK_S, rounds: int = ROUNDS, seed: int = 7
) -> Interval:
    """A percentile and its interval by block bootstrap: whole blocks of time are drawn, with replacement.

    Args:
        values: with the moment `at_us` (µs) of each; NaN are left out.
        block_s: seconds; shorter where fewer than twelve blocks would come out.
    """
    kept = values.notna().to_numpy()
    found, times = values.to_numpy(dtype=np.float64)[kept], at_us.to_numpy()[kept]
    if not len(found):
        return Interval(math.nan, math.nan, math.nan, 0, block_s)
    span_s = (float(times.max() - times.min()) + 1) / 1e6
    block_s = min(block_s, span_s / LEAST_BLOCKS)
    block = np.minimum((times - times.min()) / (block_s * 1e6), math.ceil(span_s / block_s) - 1).astype(np.int64)
    _, block = np.unique(block, return_inverse=True)
    grid = _grid_of(found)
    counts = _counts(np.searchsorted(grid, found), block, len(grid))
    drawn = np.random.default_rng(seed).multinomial(len(counts), np.full(len(counts), 1 / len(counts)), rounds)
    told = _percentiles_of(drawn.astype(np.float64) @ counts, grid, q)
    low, high = np.quantile(told, [0.025, 0.975])
    return Interval(percentile(found, q), float(low), float(high), len(counts), block_s)


def _grid_of(values: Floats) -> Floats:
    """Values to count by: the values themselves where they are few, else steps of less than half a percent."""
    unique = np.unique(values)
    if len(unique) <= _GRID:
        return unique
    low, high = max(float(unique[0]), float(unique[-1]) / 1e8, 1e-9), float(unique[-1])
    steps = np.geomspace(low, high, _GRID)
    steps[-1] = high
    return steps


def _counts(where: npt.NDArray[np.int64], block: npt.NDArray[np.int64], width: int) -> Floats:
    """How often each grid value occurs in each block."""
    size = int(block.max()) + 1
    flat = np.bincount(block * width + np.minimum(where, width - 1), minlength=size * width)
    return flat.reshape(size, width).astype(np.float64)


def _percentiles_of(counts: Floats, grid: Floats, q: float) -> Floats:
    summed = counts.cumsum(axis=1)
    ranks = np.maximum(1, np.ceil(np.round(summed[:, -1] * q / 100, 9)))
    return np.asarray(grid[(summed < ranks[:, None]).sum(axis=1)])


def by_kind(found: pd.DataFrame, column: str = "response_ms", *, block_s: float = BLOCK_S) -> pd.DataFrame:
    """Percentiles of each kind of operation (and phase, where there is more than one).

    Columns: kind, [phase,] count, errors (with an error, or never answered), p50, p95, p99 (of those answered),
    p95_low, p95_high, p99_low, p99_high (95 % interval, block bootstrap), max, note (where a p99 says little).
    """
    keys = ["kind", "phase"] if found["phase"].nunique() > 1 else ["kind"]
    rows = []
    for key, group in found.groupby(keys, sort=False):
        rows.append({**dict(zip(keys, key, strict=True)), **_figures(group, column, block_s)})
    columns = [
        *keys,
        "count",
        "errors",
        "p50",
        "p95",
        "p95_low",
        "p95_high",
        "p99",
        "p99_low",
        "p99_high",
        "max",
        "note",
    ]
    return pd.DataFrame(rows, columns=columns)


def _figures(group: pd.DataFrame, column: str, block_s: float) -> dict[str, object]:
    values = group[column]
    p95, p99 = (interval(values, group["intended_us"], q, block_s=block_s) for q in (95, 99))
    answered = int(values.notna().sum())
    few = "few answers" if answered < P99_NEEDS else ""
    return {
        "count": len(group),
        "errors": int((group["error"].notna() | group["done_us"].lt(0)).sum()),
        "p50": percentile(values, 50),
        "p95": p95.value,
        "p95_low": p95.low,
        "p95_high": p95.high,
        "p99": p99.value,
        "p99_low": p99.low,
        "p99_high": p99.high,
        "max": percentile(values, 100),
        "note": few,
    }


# --------------------------------------------------------------------------------------------- slopes


@dataclass(frozen=True, slots=True)
class Slope:
    """How fast something grows: per hour, with its 95 % interval; `grows` where the interval lies above zero."""

    name: str
    first: float
    last: float
    per_hour: float
    low: float
    high: float
    points: int

    @property
    def grows(self) -> bool:
        return self.low > 0


def slope(found: pd.DataFrame, name: str, *, windows: int = 60) -> Slope:
    """Theil and Sen's slope of a series: the median of the slopes between all pairs of windows.

    One outlier does not move it. Windows' medians are taken first, so that neighbours are not counted as independent;
    Sen's interval (1968) is by Kendall's variance. The beginning, while caches fill, is left out (`ssot.runs.warm_up`).
    """
    rows = found[found["name"] == name]
    if rows.empty:
        return Slope(name, math.nan, math.nan, math.nan, math.nan, math.nan, 0)
    at_h = rows["at_us"].to_numpy() / 3.6e9
    lasted_h = at_h.max() - at_h.min()
    begin = at_h.min() + lasted_h * warm_up(lasted_h * 3600)
    kept = rows[at_h >= begin].assign(at_h=at_h[at_h >= begin])
    width = max((kept["at_h"].max() - begin) / windows, 1e-12)
    medians = kept.groupby(((kept["at_h"] - begin) // width).astype("int64"))[["at_h", "value"]].median()
    times, values = medians["at_h"].to_numpy(), medians["value"].to_numpy()
    low, middle, high = _theil_sen(times, values)
    return Slope(name, float(values[0]), float(values[-1]), middle, low, high, len(values))


def slopes(found: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """The slopes of several series.

    Columns: what, unit (bytes are told in MiB), first, last, per_hour, low, high (95 % interval), grows (bool).
    """
    rows = []
    for one in (slope(found, name) for name in names):
        unit, size = ("MiB", 1024 * 1024) if one.name.endswith("_bytes") else (one.name.rpartition("_")[2], 1)
        figures = (value / size for value in (one.first, one.last, one.per_hour, one.low, one.high))
        rows.append((one.name, unit, *figures, one.grows))
    return pd.DataFrame(rows, columns=["what", "unit", "first", "last", "per_hour", "low", "high", "grows"])


def _theil_sen(times: Floats, values: Floats) -> tuple[float, float, float]:
    first, second = np.triu_indices(len(times), 1)
    if not len(first):
        return math.nan, math.nan, math.nan
    slopes = np.sort((values[second] - values[first]) / (times[second] - times[first]))
    n = len(times)
    reach = 1.96 * math.sqrt(n * (n - 1) * (2 * n + 5) / 18)
    low = max(0, round((len(slopes) - reach) / 2) - 1)
    high = min(len(slopes) - 1, round((len(slopes) + reach) / 2))
    return float(slopes[low]), float(np.median(slopes)), float(slopes[high])


# ----------------------------------------------------------------------------------------- two groups


@dataclass(frozen=True, slots=True)
class Difference:
    """Two groups of runs by one figure of each run: medians, what changed, how likely by chance, what that means."""

    before: float
    after: float
    change: float
    """Relative: 0.1 is a tenth more."""
    p: float
    runs: tuple[int, int]
    says: str
    """``slower``, ``faster``, ``no difference shown``, or ``too few runs``."""


def difference(
    before: Sequence[float], after: Sequence[float], *, least: float = 0.1, alpha: float = 0.05, seed: int = 7
) -> Difference:
    """Whether a figure of runs (say, each run's p99) differs between two groups: a permutation test.

    A difference counts only where it is both unlikely by chance and large enough to matter: of equal groups of single
    runs, the p99 moved by more than a tenth in 73 % of cases.

    Args:
        least: the least relative change that counts.
        alpha: the probability by chance below which it counts.
    """
    one, two = _clean(before), _clean(after)
    middle, new = (float(np.median(group)) if len(group) else math.nan for group in (one, two))
    change = (new - middle) / middle if middle else math.nan
    if min(len(one), len(two)) < LEAST_RUNS:
        return Difference(middle, new, change, math.nan, (len(one), len(two)), "too few runs")
    # logarithms: a change is a ratio, and one run with a stall must not drown the others
    p = permutation_p(np.log(np.maximum(one, 1e-9)), np.log(np.maximum(two, 1e-9)), seed=seed)
    real = p <= alpha and abs(change) >= least
    says = ("slower" if change > 0 else "faster") if real else "no difference shown"
    return Difference(middle, new, change, p, (len(one), len(two)), says)


def permutation_p(one: Floats, two: Floats, *, most: int = 20_000, seed: int = 7) -> float:
    """How often chance alone (any split of all runs) moves the means at least so far apart; two-sided.

    Every split is looked at where there are at most `most`; else so many random ones.
    """
    together, size = np.concatenate([one, two]), len(one)
    seen = abs(float(one.mean() - two.mean())) * (1 - 1e-12)
    if math.comb(len(together), size) <= most:
        splits = np.array(list(itertools.combinations(range(len(together)), size)))
        sums = together[splits].sum(axis=1)
        return float((_gaps(sums, together, size) >= seen).mean())
    draw = np.random.default_rng(seed)
    sums = np.array([draw.permutation(together)[:size].sum() for _ in range(most)])
    return float((1 + (_gaps(sums, together, size) >= seen).sum()) / (1 + most))


def _gaps(sums: Floats, together: Floats, size: int) -> Floats:
    return np.asarray(np.abs(sums / size - (together.sum() - sums) / (len(together) - size)))
