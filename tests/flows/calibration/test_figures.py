"""Shares of small counts, worked out by hand, and what is made of them."""

from __future__ import annotations

import pytest

from flows.calibration.figures import Judged, by_defect, calibrated, share


def judged(*, good: bool, decision: str | None, says: bool = True, defect: str = "") -> Judged:
    return Judged("n", "case-001", good, defect, decision, says, 0, 0.1, "")


def some(count: int, **more: object) -> list[Judged]:
    return [judged(**more)] * count  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("count", "of", "low", "high"),
    [
        (0, 10, 0.0, 0.2775),
        (1, 10, 0.0179, 0.4042),
        (5, 10, 0.2366, 0.7634),
        (10, 10, 0.7225, 1.0),
        (15, 50, 0.1910, 0.4375),
    ],
)
def test_an_interval_is_wilsons(count: int, of: int, low: float, high: float) -> None:
    found = share([True] * count + [False] * (of - count))
    assert (found.count, found.of, found.rate) == (count, of, count / of)
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)


def test_of_nothing_there_is_no_rate() -> None:
    assert share([]).rate is None


def test_misses_and_false_blocks_are_counted_over_what_was_judged() -> None:
    cases = [
        *some(3, good=False, decision="approve"),
        *some(1, good=False, decision="reject"),
        *some(2, good=False, decision=None),
        *some(4, good=True, decision="approve", says=False),
        *some(1, good=True, decision="reject"),
    ]
    found = calibrated(cases)
    assert (found.miss.count, found.miss.of) == (3, 4)
    assert (found.false_block.count, found.false_block.of) == (1, 5)
    assert (found.rubber_stamp.count, found.rubber_stamp.of) == (4, 7)
    assert (found.unanswered.count, found.unanswered.of) == (2, 11)
    assert not found.irrespective


@pytest.mark.parametrize("decision", ["approve", "reject"])
def test_a_reviewer_that_decides_all_alike_is_named(decision: str) -> None:
    found = calibrated([*some(9, good=True, decision=decision), *some(9, good=False, decision=decision)])
    assert found.irrespective
    assert not found.told_apart


def test_a_reviewer_that_is_always_right_tells_work_apart() -> None:
    found = calibrated([*some(9, good=True, decision="approve"), *some(9, good=False, decision="reject")])
    assert found.told_apart
    assert found.measures() == {"miss": 0.0, "false_block": 0.0, "rubber_stamp": 0.0, "unanswered": 0.0}


def test_without_a_verdict_nothing_is_claimed() -> None:
    found = calibrated(some(5, good=True, decision=None))
    assert found.measures() == {"unanswered": 1.0}
    assert not found.told_apart


def test_misses_are_told_by_defect() -> None:
    cases = [
        *some(1, good=False, decision="approve", defect="off by one"),
        *some(1, good=False, decision="reject", defect="off by one"),
        *some(1, good=False, decision="reject", defect="test skipped"),
    ]
    assert {name: (one.count, one.of) for name, one in by_defect(cases).items()} == {
        "off by one": (1, 2),
        "test skipped": (0, 1),
    }
