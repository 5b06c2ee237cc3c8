"""What a project's policy asks for, over HTTP: several approvals, each answered with the document."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssot.store import Store
from tests import builders
from tests.api.scene import EXECUTOR, TASK_ID, api, bearer, bring_to, post, task


@pytest.fixture
def at_gate(home: Path, store: Store) -> Store:
    """A task at the gate of a project that wants two approvals of three people, none of whom asked for it."""
    builders.projects_file(home, quorum=2, approvers=["alice", "bob", "tests"], four_eyes=True)
    task(store, metadata={"project": "shop"})
    bring_to(store, "needs_review")
    return store


async def test_each_approval_is_answered_with_the_document(home: Path, at_gate: Store) -> None:
    async with api(home) as client:
        detail = (await client.get(f"/api/tasks/{TASK_ID}")).json()
        body = {"reason": "read", "review_digest": detail["review_digest"]}
        first = await post(client, "approve", body, **{"Idempotency-Key": "k-1"})
        again = await post(client, "approve", body, **{"Idempotency-Key": "k-1"})
        twice = await post(client, "approve", body)
        second = await post(client, "approve", body, **bearer("bob", "approver"))
        now = (await client.get(f"/api/tasks/{TASK_ID}")).json()
    assert (first.status_code, first.json()["status"]) == (200, "needs_review")
    (approval,) = first.json()["attempts"][0]["approvals"]
    assert (approval["by"], approval["review_digest"]) == ("alice", detail["review_digest"])
    assert again.content == first.content
    assert (twice.status_code, twice.json()["code"]) == (409, "already_approved")
    assert (second.status_code, second.json()["status"]) == (200, "approved")
    assert second.json() == now
    assert now["attempts"][0]["decision"]["by"] == "bob"


@pytest.mark.parametrize(
    ("sub", "behalf", "code"),
    [
        ("carol", None, "not_an_approver"),
        ("tests", None, "four_eyes"),
        ("alice", EXECUTOR, "self_approval"),
        ("carol", "alice", "not_an_approver"),
        ("bob", "tests", "four_eyes"),
    ],
)
async def test_who_may_not_is_told_why(home: Path, at_gate: Store, sub: str, behalf: str | None, code: str) -> None:
    async with api(home) as client:
        answer = await post(client, "approve", **bearer(sub, "approver", on_behalf_of=behalf))
    assert (answer.status_code, answer.json()["code"]) == (403, code)
    at_gate.refresh()
    assert at_gate.task(TASK_ID).attempts[0].approvals == ()


async def test_a_delegates_approval_says_for_whom(home: Path, at_gate: Store) -> None:
    async with api(home) as client:
        answer = await post(client, "approve", **bearer("alice", "approver", on_behalf_of="dora"))
    (approval,) = answer.json()["attempts"][0]["approvals"]
    assert (approval["by"], approval["on_behalf_of"]) == ("alice", "dora")
