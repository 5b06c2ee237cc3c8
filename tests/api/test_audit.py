"""The log over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from api.audit import SCAN_LINES, Filter, page
from audit.event import Draft
from audit.stamp import Clock
from ssot.intents import Create
from ssot.store import Store
from tests.api.scene import api, at_stage, task


async def _all(client: Any, query: str = "", limit: int = 2) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    after: int | None = 0
    while after is not None:
        body = (await client.get(f"/api/audit?after={after}&limit={limit}&{query}")).json()
        found += body["events"]
        after = body["next_after"]
    return found


async def test_the_pages_are_the_lines_of_the_file(home: Path, store: Store) -> None:
    at_stage(store, "needs_review")
    async with api(home) as client:
        whole = await client.get("/api/audit")
        paged = await _all(client)
    lines = (home / "audit" / "events.jsonl").read_bytes().splitlines()
    assert whole.content == b'{"events":[' + b",".join(lines) + b'],"next_after":null}'
    assert [event["seq"] for event in paged] == list(range(1, len(lines) + 1))


async def test_a_page_that_ends_the_log_has_no_next(home: Path, store: Store) -> None:
    for number in range(4):
        task(store, f"T-{number}")
    async with api(home) as client:
        first = (await client.get("/api/audit?limit=2")).json()
        last = (await client.get("/api/audit?limit=2&after=2")).json()
        beyond = (await client.get("/api/audit?after=99")).json()
    assert (first["next_after"], last["next_after"]) == (2, None)
    assert beyond == {"events": [], "next_after": None}


async def test_events_are_filtered_by_type_and_subject(home: Path, store: Store) -> None:
    at_stage(store, "needs_review")
    task(store, "T-2")
    async with api(home) as client:
        assert [e["subject"] for e in await _all(client, "type=task_created", 1)] == ["T-1", "T-2"]
        assert [e["type"] for e in await _all(client, "subject=T-2", 1)] == ["task_created"]
        assert await _all(client, "type=task_approved") == []


async def test_events_are_filtered_by_time(tmp_path: Path) -> None:
    now = iter(range(1_800_000_000, 1_900_000_000))
    store = Store.open(tmp_path, source="kircerta/tests", clock=Clock(seconds=lambda: float(next(now))))
    for number in range(20):
        task(store, f"T-{number}")
    times = [event.time for event in store.events()]
    async with api(tmp_path) as client:
        for since in (0, 7, 19):
            for until in (0, 7, 8, 19):
                found = await _all(client, f"since={times[since]}&until={times[until]}")
                assert [e["time"] for e in found] == times[since:until]
        offset = times[5].replace("Z", "%2B00:00")
        assert len(await _all(client, f"since={offset}")) == 15
    store.close()


@pytest.mark.parametrize(
    ("query", "parameter"),
    [("after=-1", "after"), ("after=1e3", "after"), ("limit=1001", "limit"), ("type=nope", "type"),
     ("subject=../x", "subject"), ("since=yesterday", "since"), ("until=2026-01-31", "until"), ("seq=1", "seq"),
     ("since=2026-13-01T00:00:00Z", "since"), ("after=1&after=2", "after")],
)  # fmt: skip
async def test_a_parameter_that_cannot_be_used_is_named(home: Path, store: Store, query: str, parameter: str) -> None:
    async with api(home) as client:
        answer = await client.get(f"/api/audit?{query}")
    assert (answer.status_code, answer.json()["parameter"]) == (422, parameter)


@pytest.mark.slow
def test_one_request_looks_at_a_bounded_number_of_lines_and_says_where_to_go_on(home: Path, store: Store) -> None:

    store.commit_many([(f"T-{n}", Create(request_text="x")) for n in range(SCAN_LINES + 10)], actor="tests")
    store.note(Draft("alert", "tests", {"what": "here"}))
    folder, last = store.audit_folder, store.last_seq()
    empty = page(folder, last, Filter(type="alert"))
    assert empty == b'{"events":[],"next_after":%d}' % SCAN_LINES
    assert b'"alert"' in page(folder, last, Filter(type="alert", after=SCAN_LINES))


async def test_an_edited_log_is_a_503(home: Path, store: Store) -> None:
    task(store)
    task(store, "T-2")
    async with api(home) as client:
        path = home / "audit" / "events.jsonl"
        edited = path.with_name("edited")
        edited.write_bytes(path.read_bytes().replace(b"let greet", b"let hello"))
        edited.rename(path)
        answer = await client.get("/api/audit")
    assert (answer.status_code, answer.json()["code"]) == (503, "log_corrupt")
