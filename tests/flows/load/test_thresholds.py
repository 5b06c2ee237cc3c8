"""Thresholds: strict expressions, and what was not measured does not hold."""

from __future__ import annotations

import pytest

from flows.load import thresholds, verdict
from flows.load.plan import plan_for
from flows.load.runs import asked
from flows.load.thresholds import BadExpression, catalogue, parse, parse_list
from ssot.runs import Bound
from ssot.settings import Settings

KNOWN = catalogue()


@pytest.mark.parametrize(
    ("text", "value", "holds"),
    [
        ("read_p95<200", 199.9, True),
        ("read_p95<200", 200.0, False),
        ("read_p95<=200", 200.0, True),
        ("write_p99 > 1.5", 2.0, True),
        ("stream_gaps==0", 0.0, True),
        ("stream_gaps!=0", 0.0, False),
        ("rss_slope_low>=-3", -3.0, True),
    ],
)
def test_an_expression_is_judged_by_its_measure(text: str, value: float, holds: bool) -> None:
    expression = parse(text, KNOWN)
    assert expression.judge({expression.measure: value}).ok == holds


def test_what_was_not_measured_does_not_hold() -> None:
    bound = parse("read_p95<200", KNOWN).judge({})
    assert (bound.ok, bound.value) == (False, None)


@pytest.mark.parametrize(
    "text",
    ["", "read_p95", "read_p95<", "<200", "read_p95<200ms", "read_p95<1e3", "read_p95<nan", "read_p95=<2", "a<1;b<2"],
)
def test_what_is_no_expression_is_refused(text: str) -> None:
    with pytest.raises(BadExpression, match="is no expression"):
        parse(text, KNOWN)


def test_a_measure_that_does_not_exist_is_refused_by_name() -> None:
    with pytest.raises(BadExpression, match="read_p96 is not measured"):
        parse("read_p96<200", KNOWN)


def test_a_later_expression_replaces_all_of_its_measure() -> None:
    first, then = parse_list("read_p95<200,write_p95<500", KNOWN), parse_list("read_p95<100,read_p95>1", KNOWN)
    assert [str(one) for one in thresholds.laid_over(first, then)] == ["write_p95<500", "read_p95<100", "read_p95>1"]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (
            "soak",
            "read_p95<200 write_p95<500 read_error_rate<0.01 write_error_rate<0.01 stream_silence_max<5 stream_gaps<1 "
            "stream_repeats<1 alarms_missing<1 lost_decisions<1",
        ),
        ("flood", "read_p95<200 read_error_rate<0.01 flood_accepted<1"),
        ("chaos", "stream_gaps<1 stream_repeats<1 lost_decisions<1 chaos_problems<1"),
    ],
)
def test_each_kind_of_run_is_judged_by_what_it_measures(kind: str, expected: str) -> None:
    wishes = {"alarms": False} if kind == "flood" else {}
    found = asked(Settings(_env_file=None), kind, None, wishes)  # type: ignore[arg-type]
    assert [str(one) for one in found.thresholds] == expected.split()


def test_a_wished_threshold_counts_even_where_nothing_measures_it() -> None:
    found = asked(Settings(_env_file=None), "flood", None, {}, ["write_p95<1"])
    assert "write_p95<1" in [str(one) for one in found.thresholds]


def test_a_setting_that_cannot_be_read_is_named() -> None:
    with pytest.raises(BadExpression, match="KIRCERTA_LOAD_THRESHOLDS: reed_p95 is not measured"):
        asked(Settings(_env_file=None, load_thresholds="reed_p95<1"), "soak", None, {})


def test_a_run_without_streams_is_not_judged_by_streams() -> None:
    plan = plan_for("soak", "http://127.0.0.1:1", streams=0)
    assert not thresholds.measured_by(plan)("stream_gaps")
    assert thresholds.measured_by(plan)("read_p95")


@pytest.mark.parametrize(
    ("holds", "valid", "outcome"),
    [(True, True, "pass"), (False, True, "fail"), (True, False, "invalid"), (False, False, "invalid")],
)
def test_where_the_generator_was_the_bottleneck_nothing_is_passed_or_failed(
    holds: bool, valid: bool, outcome: str
) -> None:
    threshold, gate = Bound(expression="read_p95<200", ok=holds), Bound(expression="achieved>=0.99", ok=valid)
    assert verdict.outcome_of([threshold], [gate]) == outcome
