"""Figures, histograms and files of samples: checked against numpy and HdrHistogram, and against figures by hand."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from hdrh.histogram import HdrHistogram

from flows.load import measure, samples
from flows.load.samples import CODES, Recorder

READ, WRITE = CODES["read"], CODES["write"]


def recorded(folder: Path, rows: list[tuple[int, int, int]], kind: int = READ) -> pa.Table:
    """Samples of (intended, sent, done)."""
    recorder = Recorder(folder)
    for client, (intended, sent, done) in enumerate(rows):
        recorder.add(kind, 0, client, intended, sent, done, 200 if done >= 0 else 0, "" if done >= 0 else "unanswered")
    recorder.close()
    return samples.settle(folder)


def random_rows(count: int = 5_000) -> list[tuple[int, int, int]]:
    chance = random.Random(7)
    found = []
    for number in range(count):
        intended = number * 1_000
        sent = intended + int(chance.expovariate(1 / 300))
        found.append((intended, sent, sent + int(chance.lognormvariate(8, 1.2))))
    return found


def test_figures_worked_out_by_hand(tmp_path: Path) -> None:
    rows = [(0, 0, number * 1_000) for number in range(1, 101)]
    results, phases = measure.results_of(recorded(tmp_path, [*rows, (0, 0, -1), (0, -1, -1)]))
    read = results["read"]
    assert (read.count, read.errors, read.never_sent, read.never_done) == (102, 2, 1, 2)
    assert (read.p50_ms, read.p95_ms, read.p99_ms, read.max_ms) == (50.0, 95.0, 99.0, 100.0)
    assert phases == {}


def test_percentiles_agree_with_numpy_and_with_an_hdr_histogram(tmp_path: Path) -> None:
    rows = random_rows()
    read = measure.results_of(recorded(tmp_path, rows))[0]["read"]
    histogram = HdrHistogram(1, 3_600_000_000, 3)
    for intended, _, done in rows:
        histogram.record_value(done - intended)
    for share, value in ((50, read.p50_ms), (95, read.p95_ms), (99, read.p99_ms)):
        assert value is not None
        exact = float(np.percentile([done - intended for intended, _, done in rows], share, method="inverted_cdf"))
        assert value == round(exact / 1000, 3)
        assert abs(value * 1000 - histogram.get_value_at_percentile(share)) <= 0.002 * exact
    service = [done - sent for _, sent, done in rows]
    assert read.service_p95_ms == round(float(np.percentile(service, 95, method="inverted_cdf")) / 1000, 3)


def test_histograms_over_time_add_up_to_the_whole(tmp_path: Path) -> None:
    rows = random_rows()
    table = recorded(tmp_path, rows)
    measure.write_histograms(tmp_path, table, duration_s=5.0)
    written = orjson.loads((tmp_path / "histograms.json").read_bytes())
    parts = written["kinds"]["read"]
    assert written["interval_s"] == 1
    assert [part["at_s"] for part in parts] == [0, 1, 2, 3, 4]
    whole = HdrHistogram(1, 3_600_000_000, 3)
    for part in parts:
        whole.add(HdrHistogram.decode(part["hdr"]))
    assert whole.get_total_count() == len(rows) == sum(part["count"] for part in parts)
    p99 = measure.results_of(table)[0]["read"].p99_ms
    assert p99 is not None
    assert abs(whole.get_value_at_percentile(99) / 1000 - p99) <= 0.002 * p99


def test_samples_have_the_columns_that_others_read(tmp_path: Path) -> None:
    recorded(tmp_path, random_rows(10))
    schema = pq.read_schema(tmp_path / "samples.parquet")
    words = [name for name in schema.names if pa.types.is_dictionary(schema.field(name).type)]
    assert schema.names == ["kind", "phase", "client", "intended_us", "sent_us", "done_us", "status", "error", "seq"]
    assert words == ["kind", "phase", "error"]
    assert [str(schema.field(name).type) for name in ("client", "intended_us", "status", "seq")] == [
        "int32",
        "int64",
        "int16",
        "int64",
    ]
    assert not (tmp_path / samples.STREAMED).exists()


def test_what_a_kill_tore_off_costs_only_the_last_batch(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    for batch in range(3):
        for number in range(100):
            recorder.add(READ, 0, batch, number, number, number, 200)
        recorder.flush()
    stream = tmp_path / samples.STREAMED
    torn = stream.read_bytes()[:-200]
    stream.write_bytes(torn)
    assert samples.settle(tmp_path).num_rows == 200
    recorder.close()


def test_a_run_that_never_began_has_an_empty_table(tmp_path: Path) -> None:
    table = samples.settle(tmp_path)
    assert table.num_rows == 0
    assert measure.results_of(table) == ({}, {})


def test_phases_are_told_apart(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    for phase, took in ((1, 1_000), (2, 9_000), (3, 1_000)):
        recorder.add(READ, phase, 0, 0, 0, took, 200)
    recorder.add(WRITE, 0, 0, 0, 0, 5_000, 409, "http_409")
    recorder.close()
    results, phases = measure.results_of(samples.settle(tmp_path))
    assert {phase: of.p50_ms for phase, of in phases["read"].items()} == {"before": 1.0, "during": 9.0, "after": 1.0}
    named = measure.measured(results, phases, {"stream_gaps": 0.0})
    assert (named["read_during_p95"], named["write_error_rate"], named["stream_gaps"]) == (9.0, 1.0, 0.0)
