"""The thread that writes: commits that wait go together, and nobody's hurry or departure costs the others anything."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from api.desk import Writer
from audit.files import Busy, FileLock
from ssot import replay
from ssot.intents import Approve
from ssot.rules import Refused
from ssot.store import Committed, Store, Wish
from tests import builders
from tests.builders import a_store, walk_to

pytestmark = pytest.mark.anyio


def at_the_gate(home: Path, count: int) -> Store:
    store = a_store(home)
    for number in range(count):
        walk_to(store, f"T-{number}", "needs_review")
    return store


async def approve(writer: Writer, store: Store, name: str) -> str:
    def wish(left_s: float) -> Wish:
        return Wish(name, Approve("fine"), "alice")

    def told(committed: Committed) -> str:
        return committed.task.status

    return await writer.commit(store, name, wish, told)


async def test_commits_that_came_while_it_was_busy_go_together(tmp_path: Path) -> None:
    store, writer = at_the_gate(tmp_path, 6), Writer(30)
    with FileLock(tmp_path / "audit" / ".lock").hold():
        waiting = [asyncio.create_task(approve(writer, store, f"T-{number}")) for number in (0, 1, 2, 3, 4, 1, 5)]
        await asyncio.sleep(0.2)
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert [one for one in answers if isinstance(one, str)] == ["approved"] * 6
    assert isinstance(answers[5], Refused), "the second one on a task is judged behind the first"
    approved = builders.events(tmp_path, "task_approved")
    assert [event.subject for event in approved] == [f"T-{number}" for number in range(6)]
    assert len({event.time for event in approved[1:5]}) == 1, "one moment, one lock, one sync"
    assert replay.check(tmp_path).ok
    writer.close()


async def test_who_went_away_is_passed_by(tmp_path: Path) -> None:
    store, writer = at_the_gate(tmp_path, 3), Writer(30)
    with FileLock(tmp_path / "audit" / ".lock").hold():
        waiting = [asyncio.create_task(approve(writer, store, f"T-{number}")) for number in range(3)]
        await asyncio.sleep(0.1)
        waiting[1].cancel()
        await asyncio.sleep(0.1)
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert (answers[0], answers[2]) == ("approved", "approved")
    assert isinstance(answers[1], asyncio.CancelledError)
    store.refresh()
    assert store.task("T-1").status == "needs_review"
    writer.close()


async def test_what_one_cannot_ask_costs_the_others_nothing(tmp_path: Path) -> None:
    store, writer = at_the_gate(tmp_path, 2), Writer(30)

    def wrong(left_s: float) -> Wish:
        raise KeyError("no such thing")

    def fail(committed: Committed) -> str:
        raise ZeroDivisionError

    answers = await asyncio.gather(
        approve(writer, store, "T-0"),
        writer.commit(store, "T-7", wrong, fail),
        writer.commit(store, "T-1", lambda left_s: Wish("T-1", Approve(), "alice"), fail),
        return_exceptions=True,
    )
    assert [type(one).__name__ for one in answers] == ["str", "KeyError", "ZeroDivisionError"]
    assert store.task("T-1").status == "approved", "it was done, only not told"
    writer.close()


@pytest.mark.slow
async def test_who_has_no_time_left_costs_the_others_nothing(tmp_path: Path) -> None:
    store, writer = at_the_gate(tmp_path, 3), Writer(1.0)
    with FileLock(tmp_path / "audit" / ".lock").hold():
        early = [asyncio.create_task(approve(writer, store, f"T-{number}")) for number in (0, 1)]
        await asyncio.sleep(0.8)
        late = asyncio.create_task(approve(writer, store, "T-2"))
        await asyncio.sleep(0.5)
    answers = await asyncio.gather(*early, late, return_exceptions=True)
    assert [type(one) for one in answers] == [Busy, Busy, str]
    writer.close()
