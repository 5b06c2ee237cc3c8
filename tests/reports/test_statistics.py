"""Percentiles, intervals, slopes and tests, against values worked out by hand or known from how the data was made."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from reports import statistics
from reports.records import with_times
from reports.statistics import Interval, difference, interval, percentile, permutation_p, slope
from tests.reports import data


@pytest.mark.parametrize(("q", "expected"), [(0, 1), (1, 1), (50, 50), (50.5, 51), (95, 95), (99, 99), (100, 100)])
def test_a_percentile_is_a_value_that_occurred(q: float, expected: float) -> None:
    assert percentile(list(range(100, 0, -1)), q) == expected


def test_a_percentile_agrees_with_hdr_histogram() -> None:
    from hdrh.histogram import HdrHistogram

    values = np.random.default_rng(11).integers(1, 50_000, 20_000)
    histogram = HdrHistogram(1, 100_000, 5)
    for value in values:
        histogram.record_value(int(value))
    for q in (50, 90, 95, 99, 99.9, 100):
        assert percentile(values, q) == histogram.get_value_at_percentile(q)


def test_percentiles_of_nothing_are_missing() -> None:
    assert math.isnan(percentile([], 50))
    assert percentile([math.nan, 3.0], 99) == 3.0


def test_figures_of_a_kind_are_those_worked_out_by_hand() -> None:
    writes = data.unanswered(data.operations([5.0] * 20, kind="write"), [3, 4])
    samples = pd.concat([data.one_to_a_hundred(), writes], ignore_index=True)
    table = statistics.by_kind(with_times(samples)).set_index("kind")
    assert table.loc["read", ["count", "errors", "p50", "p95", "p99", "max", "note"]].tolist() == [
        10_000,
        0,
        50,
        95,
        99,
        100,
        "",
    ]
    assert table.loc["write", ["count", "errors", "p50", "max", "note"]].tolist() == [20, 2, 5, 5, "few answers"]


def test_phases_are_told_apart() -> None:
    samples = pd.concat([data.one_to_a_hundred(1, phase="before"), data.one_to_a_hundred(1, phase="after")])
    assert statistics.by_kind(with_times(samples))["phase"].tolist() == ["before", "after"]


def test_an_interval_holds_what_it_is_of_and_is_the_same_each_time() -> None:
    values, at = (
        pd.Series(range(1, 101)).sample(10_000, replace=True, random_state=3),
        pd.Series(range(10_000)) * 12_000,
    )
    values.index = at.index
    found = interval(values, at, 95)
    assert found.low <= found.value <= found.high
    assert found.high - found.low <= 4
    assert (found.blocks, found) == (12, interval(values, at, 95))


def test_clusters_widen_the_interval() -> None:
    """100 s; in one of them everything takes 1 s. Sample by sample that looks certain, block by block it does not."""
    values = np.ones(10_000)
    values[5000:5200] = 1000.0
    at = pd.Series(np.arange(10_000) * 10_000)
    clustered = interval(pd.Series(values), at, 99)
    spread = interval(pd.Series(np.random.default_rng(5).permutation(values)), at, 99)
    assert (clustered.low, clustered.high) == (1.0, 1000.0)
    assert (spread.low, spread.high) == (1000.0, 1000.0)


def test_the_interval_of_nothing_and_of_one() -> None:
    nothing = interval(pd.Series([math.nan]), pd.Series([0]), 50)
    assert isinstance(nothing, Interval)
    assert nothing.blocks == 0
    one = interval(pd.Series([7.0]), pd.Series([0]), 50)
    assert (one.low, one.value, one.high) == (7.0, 7.0, 7.0)


def test_many_different_values_are_counted_closely_enough() -> None:
    values = pd.Series(np.random.default_rng(1).lognormal(1, 1, 50_000))
    found = interval(values, pd.Series(np.arange(50_000) * 5000), 99)
    assert found.low < found.value < found.high
    assert found.high / found.low < 1.2


def test_a_steady_growth_is_its_slope() -> None:
    """1,000 bytes a second are 3.6 million an hour."""
    found = slope(data.watched("rss_bytes", [1e8 + 1000.0 * at for at in range(600)]), "rss_bytes")
    assert found.per_hour == pytest.approx(3.6e6)
    assert found.grows


def test_noise_and_an_outlier_are_no_growth() -> None:
    values = np.random.default_rng(2).normal(50, 2, 600)
    values[590] = 5000
    found = slope(data.watched("fds", list(values)), "fds")
    assert found.low < 0 < found.high
    assert not found.grows


def test_the_warm_up_does_not_count() -> None:
    values = [float(min(at, 59)) for at in range(600)]
    assert slope(data.watched("rss_bytes", values), "rss_bytes").per_hour == 0
    assert math.isnan(slope(data.watched("rss_bytes", values), "fds").per_hour)


def test_of_a_long_run_the_half_in_which_caches_fill_does_not_count() -> None:
    filling = [float(min(at, 239)) for at in range(720)]  # every 10 s: 40 minutes of two hours
    assert slope(data.watched("rss_bytes", filling, every_us=10_000_000), "rss_bytes").per_hour == 0
    leaking = [value + at * 10 * 512 for at, value in enumerate(filling)]  # half a KiB a second
    found = slope(data.watched("rss_bytes", leaking, every_us=10_000_000), "rss_bytes")
    assert found.per_hour == pytest.approx(3600 * 512)
    assert found.grows


def test_the_chance_of_the_most_extreme_split_is_two_in_252() -> None:
    """Five against five: 252 splits, of which the one seen and its mirror image are the most extreme."""
    assert permutation_p(np.arange(5.0), np.arange(10.0, 15.0)) == pytest.approx(2 / 252)
    assert permutation_p(np.arange(5.0), np.arange(5.0)) == 1.0


def test_many_runs_are_split_at_random_and_the_same_way_each_time() -> None:
    one, two = np.arange(12.0), np.arange(12.0) + 6
    found = permutation_p(one, two, most=2000)
    assert 0 < found < 0.02
    assert found == permutation_p(one, two, most=2000)


def test_a_difference_has_to_be_unlikely_and_large_enough() -> None:
    base = [100.0, 101, 99, 100.5, 99.5]
    assert difference(base, [one * 1.3 for one in base]).says == "slower"
    assert difference(base, [one * 0.7 for one in base]).says == "faster"
    small = difference(base, [one * 1.05 for one in base])
    assert (small.says, small.p) == ("no difference shown", pytest.approx(2 / 252))
    assert difference(base, [60.0, 99, 101, 140, 130]).says == "no difference shown"


def test_under_five_runs_a_side_nothing_is_claimed() -> None:
    found = difference([100.0] * 4, [200.0] * 9)
    assert (found.says, found.runs, found.change) == ("too few runs", (4, 9), 1.0)
    assert math.isnan(found.p)


def test_equal_groups_are_rarely_told_apart() -> None:
    """A against A, 200 times: at 5 % some ten false alarms are due, fewer with a least effect."""
    draw = np.random.default_rng(8)
    alarms = sum(
        difference(list(draw.lognormal(3, 0.3, 6)), list(draw.lognormal(3, 0.3, 6))).says
        not in ("no difference shown",)
        for _ in range(200)
    )
    assert alarms <= 20
