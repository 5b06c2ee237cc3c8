"""The list and the detail."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest

from api.messages import TaskDetail
from ssot.store import Store
from ssot.task import parse_part, review_digest
from tests.api.scene import AS_APPROVER, TASK_ID, api, at_stage, post, task


async def test_the_list_is_ordered_and_paged(home: Path, store: Store) -> None:
    for number in (3, 1, 2):
        task(store, f"T-{number}", created_at=f"2026-01-0{number}T09:00:00Z")
    async with api(home) as client:
        first = (await client.get("/api/tasks?limit=2")).json()
        second = (await client.get("/api/tasks", params={"limit": 2, "cursor": first["next_cursor"]})).json()
    assert [row["task_id"] for row in first["tasks"] + second["tasks"]] == ["T-1", "T-2", "T-3"]
    assert (first["total"], second["next_cursor"]) == (3, None)


async def test_the_list_is_filtered_by_status_source_and_text(home: Path, store: Store) -> None:
    task(store, "T-2", title="Write the manual", source="import")
    at_stage(store, "needs_review")
    async with api(home) as client:
        for query, expected in (
            ("status=needs_review", [TASK_ID]),
            ("source=import", ["T-2"]),
            ("q=MANUAL", ["T-2"]),
            ("status=approved", []),
        ):
            found = (await client.get(f"/api/tasks?{query}")).json()
            assert [row["task_id"] for row in found["tasks"]] == expected, query


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("status=done", "status"),
        ("source=jira", "source"),
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=+5", "limit"),
        ("limit=٣", "limit"),
        ("limit=1&limit=2", "limit"),
        ("cursor=%%%", "cursor"),
        ("cursor=bm9uc2Vuc2U", "cursor"),
        ("page=2", "page"),
        ("q=" + "x" * 300, "q"),
        ("q=%00", "q"),
        ("q=%ff", "the query string"),
    ],
)
async def test_a_parameter_that_cannot_be_used_is_named(home: Path, query: str, parameter: str) -> None:
    home.mkdir()
    async with api(home) as client:
        answer = await client.get(f"/api/tasks?{query}")
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_query")
    assert answer.json()["parameter"] == parameter


async def test_an_unchanged_list_is_a_304_until_a_task_changes(home: Path, store: Store) -> None:
    task(store)
    async with api(home) as client:
        first = await client.get("/api/tasks")
        tag = {"If-None-Match": first.headers["etag"]}
        assert (await client.get("/api/tasks", headers=tag)).status_code == 304
        assert (
            await client.get("/api/tasks", headers={"If-None-Match": f'"x", W/{tag["If-None-Match"]}'})
        ).content == b""
        task(store, "T-2")
        again = await client.get("/api/tasks", headers=tag)
    assert (again.status_code, again.json()["total"]) == (200, 2)


async def test_the_detail_is_the_document_with_its_review_digest(home: Path, store: Store) -> None:
    at_stage(store, "needs_review")
    async with api(home) as client:
        answer = await client.get(f"/api/tasks/{TASK_ID}")
    body = answer.json()
    assert body["review_digest"] is not None
    assert body["review_digest"] == review_digest(store.task(TASK_ID))
    assert {k: v for k, v in body.items() if k != "review_digest"} == json.loads(store.document(TASK_ID) or b"")
    parse_part(TaskDetail, answer.content)


async def test_ten_reads_in_a_row_give_the_same_bytes(home: Path, store: Store) -> None:
    at_stage(store, "needs_review")
    async with api(home) as client:
        reads = [await client.get(f"/api/tasks/{TASK_ID}") for _ in range(10)]
    assert len({(read.content, read.headers["etag"]) for read in reads}) == 1
    assert not reads[0].headers["etag"].startswith("W/")


async def test_long_texts_are_put_back_in_the_detail_and_served_as_blobs(home: Path, store: Store) -> None:
    text = "a long request. " * 4000
    task(store, request_text=text, title="long")
    async with api(home) as client:
        detail = (await client.get(f"/api/tasks/{TASK_ID}")).json()
        blob = await client.get(f"/api/blobs/{detail['blob'].removeprefix('sha256:')}")
        same = await client.get(blob.request.url, headers={"If-None-Match": blob.headers["etag"]})
        missing = await client.get("/api/blobs/" + "0" * 64)
        odd = await client.get("/api/blobs/..")
    assert detail["request_text"] == blob.text == text
    assert blob.headers["content-type"] == "text/plain; charset=utf-8"
    assert blob.headers["x-content-type-options"] == "nosniff"
    assert "immutable" in blob.headers["cache-control"]
    assert [same.status_code, missing.status_code, odd.status_code] == [304, 404, 404]


@pytest.mark.parametrize(
    "task_id",
    ["T-9", "..%2f..%2fetc%2fpasswd", "T-1%00", "T-1%0a", "%2e%2e", ".T-1", "T-1%2f", "-T", "T 1", "ß", "T-1%0d%0a"],
)
async def test_what_is_no_task_is_a_404(home: Path, store: Store, task_id: str) -> None:
    task(store)
    async with api(home) as client:
        for answer in (
            await client.get(f"/api/tasks/{task_id}"),
            await post(client, "reject", task_id=task_id),
        ):
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_a_trailing_newline_in_a_path_decides_nothing(home: Path, store: Store) -> None:
    at_stage(store, "needs_review")
    async with api(home) as client:
        answer = await client.post(f"/api/tasks/{TASK_ID}/approve%0a", headers=AS_APPROVER)
    assert answer.status_code == 404
    assert store.task(TASK_ID).status == "needs_review"


async def test_a_decision_on_one_replica_is_read_on_the_other_at_once(home: Path, store: Store) -> None:
    at_stage(store, "needs_review")
    async with api(home) as one, api(home) as other:
        assert (await other.get(f"/api/tasks/{TASK_ID}")).json()["status"] == "needs_review"
        decided = await post(one, "approve")
        detail, listed = await asyncio.gather(other.get(f"/api/tasks/{TASK_ID}"), other.get("/api/tasks"))
    assert decided.status_code == 200
    assert detail.content == decided.content
    assert detail.headers["etag"] == decided.headers["etag"]
    assert listed.json()["tasks"][0]["status"] == "approved"


async def test_a_hand_edit_is_served_within_a_second(home: Path, store: Store) -> None:
    task(store)
    path = home / "ssot" / "tasks" / f"{TASK_ID}.json"
    async with api(home) as client:
        document = json.loads(path.read_bytes())
        path.write_text(json.dumps({**document, "title": "edited by hand"}))
        begun = time.monotonic()
        while (await client.get(f"/api/tasks/{TASK_ID}")).json()["title"] != "edited by hand":
            assert time.monotonic() - begun < 1.0, "not adopted within 1 s"
            await asyncio.sleep(0.01)


async def test_every_answer_is_as_new_as_the_log_when_it_was_asked_for(home: Path, store: Store) -> None:
    """Another process writes while many clients read: after each write, the next read shows it."""
    task(store)
    async with api(home) as client:
        for number in range(2, 12):
            noise = [asyncio.create_task(client.get("/api/tasks")) for _ in range(5)]
            await asyncio.to_thread(task, store, f"T-{number}")
            assert (await client.get("/api/tasks")).json()["total"] == number
            await asyncio.gather(*noise)
