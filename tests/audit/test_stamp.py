"""The one clock and the one source of ids."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.stamp import Clock, later, random_id, rfc3339, seconds_of


@given(st.integers(min_value=0, max_value=4_000_000_000_000_000))
def test_a_timestamp_survives_the_way_there_and_back(microseconds: int) -> None:
    moment = rfc3339(microseconds / 1_000_000)
    assert rfc3339(seconds_of(moment)) == moment


def test_timestamps_have_one_form() -> None:
    assert rfc3339(0) == "1970-01-01T00:00:00.000000Z"
    assert later("2026-12-31T23:59:59.500000Z", 0.75) == "2027-01-01T00:00:00.250000Z"
    assert later("2026-12-31T23:59:59Z", 30) == "2027-01-01T00:00:29.000000Z"


def test_a_time_without_offset_is_none() -> None:
    with pytest.raises(ValueError, match="no UTC offset"):
        seconds_of("2026-01-31T09:00:00")


def test_a_stamp_is_never_before_the_one_before_it() -> None:
    assert Clock(lambda: 1.0).stamp(rfc3339(5.0)).now == rfc3339(5.0)
    assert Clock(lambda: 9.0).stamp(rfc3339(5.0)).now == rfc3339(9.0)


def test_ids_differ() -> None:
    found = {random_id("d") for _ in range(1000)}
    assert len(found) == 1000
    assert all(name.startswith("d-") and len(name) == 26 for name in found)
