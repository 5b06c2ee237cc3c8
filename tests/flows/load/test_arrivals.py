"""Arrivals: an open loop hides no stall, a closed one does; what was never sent is a failure."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from flows.load import samples
from flows.load.arrivals import Answered, Arrivals, NotPrepared, Send, Timeline
from flows.load.plan import US, Window
from flows.load.samples import Recorder

STALL_S = 0.6


async def ran(
    folder: Path, send: Send, *, clients: int, rate: float, seconds: float, closed: bool = False
) -> tuple[Arrivals, list[dict[str, Any]]]:
    recorder = Recorder(folder)
    timeline = Timeline(time.monotonic_ns())
    windows = timeline.set(10_000, [Window(phase="main", begin_us=0, end_us=int(seconds * US))])
    arrivals = Arrivals("read", send, clients=clients, rate=rate, timeline=timeline, recorder=recorder)
    await arrivals.run(windows, closed=closed)
    recorder.close()
    rows: list[dict[str, Any]] = samples.settle(folder).to_pylist()
    return arrivals, sorted(rows, key=lambda row: row["intended_us"])


def stalling_once() -> Send:
    """Answers at once, but for a stall of 0.6 s in which nobody is answered, 0.2 s after the first arrival."""
    begun: list[float] = []

    async def send(client: int, number: int) -> Answered:
        now = time.monotonic()
        begun.append(now)
        since = now - begun[0]
        if 0.2 <= since < 0.2 + STALL_S:
            await asyncio.sleep(0.2 + STALL_S - since)
        return Answered(200)

    return send


async def test_an_open_loop_shows_a_stall_to_everybody_who_was_due_in_it(tmp_path: Path) -> None:
    _, rows = await ran(tmp_path, stalling_once(), clients=2, rate=100, seconds=1.2)
    assert len(rows) == 120
    times = [(row["done_us"] - row["intended_us"]) / US for row in rows]
    late = [took for took in times if took > 0.05]
    assert 50 <= len(late) <= 75  # 60 arrivals were due in the stall, less those of its last 50 ms, and a few after it
    assert max(times) == pytest.approx(STALL_S, abs=0.1)
    service = [(row["done_us"] - row["sent_us"]) / US for row in rows]
    assert sum(took > 0.05 for took in service) == 2  # one a client: all that a closed loop would have seen


async def test_a_closed_loop_hides_it(tmp_path: Path) -> None:
    async def send(client: int, number: int) -> Answered:
        await asyncio.sleep(0.3 if number == 40 else 0.005)
        return Answered(200)

    _, rows = await ran(tmp_path, send, clients=2, rate=0, seconds=0.8, closed=True)
    assert sum(row["done_us"] - row["intended_us"] > 100_000 for row in rows) == 1


async def test_each_arrival_is_due_at_its_own_time_whatever_the_number_of_clients(tmp_path: Path) -> None:
    async def send(client: int, number: int) -> Answered:
        return Answered(200)

    _, rows = await ran(tmp_path, send, clients=3, rate=50, seconds=0.4)
    assert [row["intended_us"] for row in rows] == [10_000 + number * 20_000 for number in range(20)]
    assert {row["client"] for row in rows} == {0, 1, 2}
    assert all(row["sent_us"] >= row["intended_us"] for row in rows)


async def test_what_a_hanging_server_kept_from_being_sent_is_a_failure_and_not_the_generator_s_fault(
    tmp_path: Path,
) -> None:
    async def send(client: int, number: int) -> Answered:
        await asyncio.sleep(3600)
        return Answered(200)

    arrivals, rows = await ran(tmp_path, send, clients=2, rate=50, seconds=0.4)
    assert [row["error"] for row in rows].count("unanswered") == 2
    assert [row["error"] for row in rows].count("never_sent") == 18
    assert all(row["done_us"] == -1 for row in rows)
    assert (arrivals.tally.due, arrivals.tally.errors, arrivals.tally.own_fault) == (20, 20, 0)


async def test_an_arrival_for_which_nothing_was_prepared_is_the_generator_s_fault(tmp_path: Path) -> None:
    async def send(client: int, number: int) -> Answered:
        raise NotPrepared

    arrivals, rows = await ran(tmp_path, send, clients=1, rate=50, seconds=0.2)
    assert {row["error"] for row in rows} == {"not_prepared"}
    assert arrivals.tally.own_fault == 10
