"""Plans: what is asked for wrongly is refused, and load stays on this machine."""

from __future__ import annotations

import itertools

import pytest
from pydantic import ValidationError

from flows.load.plan import BadPlan, plan_for, seconds_of, sizes_of

HERE = "http://127.0.0.1:8000"


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org:8000",
        "http://10.0.0.7:8000",
        "http://0.0.0.0:8000",
        "https://127.0.0.1:8000",
        "http://127.0.0.1.example.org",
        "http://127.0.0.1@example.org",
        "http://127.0.0.1:8000/api",
        "http://127.0.0.1:99999",
        "127.0.0.1:8000",
        "",
    ],
)
def test_load_goes_to_this_machine_only(url: str) -> None:
    with pytest.raises(BadPlan):
        plan_for("soak", url)


@pytest.mark.parametrize("url", [HERE, HERE + "/", "http://localhost:8000", "http://[::1]:8000", "http://127.3.2.1:1"])
def test_every_loopback_address_will_do(url: str) -> None:
    assert plan_for("soak", url).base_url == url.rstrip("/")


def test_a_flood_comes_between_a_before_and_an_after_again_and_again() -> None:
    windows = plan_for("flood", HERE, duration_s=90.0).windows
    assert [one.phase for one in windows] == ["before", "during", "after"] * 3
    assert all(one.end_us == two.begin_us for one, two in itertools.pairwise(windows))
    assert (windows[0].begin_us, windows[-1].end_us) == (0, 90_000_000)


def test_every_other_run_is_one_window() -> None:
    (window,) = plan_for("stress", HERE, duration_s=3.0).windows
    assert (window.phase, window.begin_us, window.end_us) == ("main", 0, 3_000_000)


@pytest.mark.parametrize(("text", "seconds"), [("120s", 120), ("2h", 7200), ("1.5m", 90), ("7d", 604800)])
def test_durations(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "10", "0s", "-1s", "8d", "1h30m", "inf s", "1 s", "٣s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(BadPlan, match="no duration"):
        seconds_of(text)


def test_sizes() -> None:
    assert sizes_of("1KB, 1MB,17B") == (1024, 1048576, 17)
    with pytest.raises(BadPlan, match="no size"):
        sizes_of("1GB")


@pytest.mark.parametrize("wish", [{"duration_s": 0.0}, {"readers": -1}, {"read_rate": float("nan")}])
def test_figures_out_of_range_are_refused(wish: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        plan_for("soak", HERE, **wish)


def test_a_rate_without_clients_and_a_run_without_load_are_refused() -> None:
    with pytest.raises(BadPlan, match="at least one client"):
        plan_for("soak", HERE, readers=0)
    with pytest.raises(BadPlan, match="nothing would be sent"):
        plan_for("stress", HERE, read_rate=0.0, write_rate=0.0, streams=0)
