"""Refusals are counted exactly and written seldom."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from api.app import create_app
from api.refusals import OTHER, RefusalCounter, RefusalWriter
from audit.event import Draft
from audit.files import StorageFailed
from ssot.store import Store
from tests.api.scene import AS_EXECUTOR, client_of, lifespan, settings_for, task


async def test_refused_requests_are_in_the_log_once_per_address_and_route_with_their_count(
    home: Path, store: Store
) -> None:
    task(store)
    door = create_app(settings_for(home))
    async with lifespan(door), client_of(door) as here, client_of(door, "192.0.2.9") as there:
        for _ in range(5):
            await here.post("/api/tasks/T-1/approve")
        await here.post("/api/tasks/T-2/approve", headers=AS_EXECUTOR)
        await here.post("/api/tasks/T-1/reject")
        await there.post("/api/tasks/T-1/approve", headers={"X-Forwarded-For": "10.0.0.1"})
    found = {(e.data["address"], e.data["route"]): e.data for e in store.events() if e.type == "auth_denied"}
    approve, reject = "/api/tasks/{task_id}/approve", "/api/tasks/{task_id}/reject"
    assert {key: data["count"] for key, data in found.items()} == {
        ("127.0.0.1", approve): 6,
        ("127.0.0.1", reject): 1,
        ("192.0.2.9", approve): 1,
    }
    data = found["127.0.0.1", approve]
    assert data["codes"] == {"unauthenticated": 5, "forbidden": 1}
    assert data["first_at"] <= data["last_at"]


@given(st.lists(st.tuples(st.integers(0, 200), st.sampled_from("ab"), st.sampled_from(["x", "y"])), max_size=300))
def test_the_sum_of_counts_is_the_number_of_refusals(refusals: list[tuple[int, str, str]]) -> None:
    counter = RefusalCounter("auth_denied")
    for address, route, code in refusals:
        counter.count(str(address), route, code)
    taken = counter.drain()
    assert sum(tally.count for tally in taken.values()) == len(refusals) == counter.total
    addresses = {address for address, _ in taken}
    assert len(addresses - {OTHER}) <= 64
    counter.put_back(taken)
    assert sum(tally.count for tally in counter.drain().values()) == len(refusals)
    assert counter.drain() == {}


async def test_what_the_disk_refuses_stays_counted_and_is_written_later() -> None:
    counter = RefusalCounter("auth_denied", window_s=0.01)
    written: list[Draft] = []
    full = True

    async def note(drafts: Sequence[Draft]) -> None:
        if full:
            raise StorageFailed("no room", full=True)
        written.extend(drafts)

    writer = RefusalWriter([counter], note)
    counter.count("a", "/x", "unauthenticated")
    await writer.flush()
    counter.count("a", "/x", "forbidden")
    full = False
    await writer.flush()
    assert [draft.data["count"] for draft in written] == [2]
    assert written[0].data["codes"] == {"unauthenticated": 1, "forbidden": 1}


async def test_the_writer_ends_with_everything_written() -> None:
    counter = RefusalCounter("auth_denied", window_s=60)
    written: list[Draft] = []

    async def note(drafts: Sequence[Draft]) -> None:
        written.extend(drafts)

    stop = asyncio.Event()
    running = asyncio.create_task(RefusalWriter([counter], note).run(stop))
    counter.count("a", "/x", "unauthenticated")
    stop.set()
    await running
    assert len(written) == 1
