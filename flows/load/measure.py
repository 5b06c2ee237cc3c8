"""Samples to figures: counts, percentiles, histograms over time. Pure, but for the two files it writes beside them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
import pyarrow as pa

from audit.files import replace_file
from flows.load.arrivals import histogram
from flows.load.plan import PHASES, US
from flows.load.samples import KINDS, write_table
from ssot.runs import Figures

SERIES: Final = "series.parquet"
HISTOGRAMS: Final = "histograms.json"
_MOST_INTERVALS: Final = 240
_QUANTILES: Final = (("p50", 50.0), ("p95", 95.0), ("p99", 99.0))


def results_of(table: Any) -> tuple[dict[str, Figures], dict[str, dict[str, Figures]]]:
    """The figures of each kind of operation, and of each of its phases where it has several."""
    columns = _columns(table)
    results: dict[str, Figures] = {}
    phases: dict[str, dict[str, Figures]] = {}
    for code, kind in enumerate(KINDS):
        of_kind = columns["kind"] == code
        if not of_kind.any():
            continue
        results[kind] = figures(columns, of_kind)
        parts: dict[str, Figures] = {
            phase: figures(columns, of_kind & (columns["phase"] == at))
            for at, phase in enumerate(PHASES)
            if phase != "main" and (of_kind & (columns["phase"] == at)).any()
        }
        if parts:
            phases[kind] = parts
    return results, phases


def _columns(table: Any) -> dict[str, np.ndarray]:
    """Numbers to calculate with; kinds and phases by their place in `KINDS` and `PHASES`."""
    found = {name: table[name].to_numpy() for name in ("intended_us", "sent_us", "done_us")}
    for name, words in (("kind", KINDS), ("phase", PHASES), ("error", None)):
        column = table[name].combine_chunks()
        labels = column.dictionary.to_pylist()
        codes = column.indices.to_numpy()
        if words is None:
            found["errors"] = np.array(labels, dtype=object)[codes] if len(codes) else np.array([], dtype=object)
        else:
            found[name] = np.array([words.index(label) for label in labels], dtype=np.int16)[codes]
    return found


def figures(columns: Mapping[str, np.ndarray], chosen: np.ndarray) -> Figures:
    """Of the chosen samples. Percentiles are nearest-rank: each is a time that was measured."""
    intended, sent, done = (columns[name][chosen] for name in ("intended_us", "sent_us", "done_us"))
    errors = columns["errors"][chosen]
    answered = done >= 0
    by_error = Counter(str(one) for one in errors if one)
    return Figures(
        count=int(chosen.sum()),
        errors=sum(by_error.values()),
        never_sent=int((sent < 0).sum()),
        never_done=int((~answered).sum()),
        by_error=dict(by_error.most_common(20)),
        **_quantiles((done - intended)[answered], ""),
        **_quantiles((done - sent)[answered], "service_"),
    )


def _quantiles(times_us: np.ndarray, prefix: str) -> dict[str, Any]:
    if len(times_us) == 0:
        return {}
    ordered = np.sort(times_us)
    found = {
        f"{prefix}{name}_ms": _ms(ordered[max(0, math.ceil(len(ordered) * share / 100) - 1)])
        for name, share in _QUANTILES
    }
    return {**found, f"{prefix}max_ms": _ms(ordered[-1])}


def _ms(us: Any) -> float:
    return round(float(us) / 1000, 3)


def measured(
    results: Mapping[str, Figures], phases: Mapping[str, Mapping[str, Figures]], special: Mapping[str, float]
) -> dict[str, float]:
    """Everything that a threshold may be about, by its name."""
    found: dict[str, float] = dict(special)
    for kind, of_kind in results.items():
        found.update(_named(kind, of_kind))
    for kind, parts in phases.items():
        for phase, part in parts.items():
            found.update(_named(f"{kind}_{phase}", part))
    return found


def _named(prefix: str, of: Figures) -> dict[str, float]:
    found: dict[str, float] = {f"{prefix}_count": of.count, f"{prefix}_errors": of.errors}
    found[f"{prefix}_error_rate"] = of.errors / of.count if of.count else 1.0
    for name in ("p50", "p95", "p99", "max", "service_p50", "service_p95", "service_p99", "service_max"):
        value = getattr(of, f"{name}_ms")
        if value is not None:
            found[f"{prefix}_{name}"] = value
    return found


def write_series(folder: Path, rows: Sequence[tuple[int, str, float]]) -> None:
    """`series.parquet`: `at_us`, `name`, `value`."""
    at, names, values = ([row[column] for row in rows] for column in range(3))
    table = pa.table(
        {
            "at_us": pa.array(at, pa.int64()),
            "name": pa.array(names, pa.string()).dictionary_encode(),
            "value": pa.array(values, pa.float64()),
        }
    )
    write_table(table, folder / SERIES)


def write_histograms(folder: Path, table: Any, duration_s: float) -> None:
    """`histograms.json`: HDR histograms (V2, µs) of response times, by kind, over time."""
    columns = _columns(table)
    interval_s = max(1, math.ceil(duration_s / _MOST_INTERVALS))
    kinds = {}
    for code, kind in enumerate(KINDS):
        chosen = (columns["kind"] == code) & (columns["done_us"] >= 0)
        if chosen.any():
            kinds[kind] = _over_time(columns["intended_us"][chosen], columns["done_us"][chosen], interval_s)
    replace_file(folder / HISTOGRAMS, orjson.dumps({"interval_s": interval_s, "kinds": kinds}))


def _over_time(intended: np.ndarray, done: np.ndarray, interval_s: int) -> list[dict[str, Any]]:
    order = np.argsort(intended, kind="stable")
    slots = intended[order] // (interval_s * US)
    times = (done - intended)[order]
    found = []
    for slot in np.unique(slots):
        begin, end = np.searchsorted(slots, [slot, slot + 1])
        kept = histogram()
        values, counts = np.unique(np.clip(times[begin:end], 1, None), return_counts=True)
        for value, count in zip(values.tolist(), counts.tolist(), strict=True):
            kept.record_value(value, count)
        encoded = kept.encode()
        found.append({"at_s": int(slot) * interval_s, "count": int(end - begin), "hdr": encoded.decode()})
    return found
