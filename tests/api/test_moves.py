"""What changes a task over HTTP: decisions and agents' messages, each refusal with its code."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from api import examples
from api.app import create_app
from audit.stamp import Clock
from ssot.intents import EndAttempt
from ssot.settings import Settings
from ssot.store import Store
from tests.api.scene import (
    APPROVER,
    AS_APPROVER,
    AS_EXECUTOR,
    AS_REVIEWER,
    EXECUTOR,
    TASK_ID,
    api,
    at_stage,
    bearer,
    bring_to,
    client_of,
    dispatched,
    event_types,
    lifespan,
    locked,
    post,
    task,
)

STAGE_FOR = {
    "ack": "dispatched",
    "heartbeat": "acknowledged",
    "result": "acknowledged",
    "verdict": "delivered",
    "approve": "needs_review",
    "reject": "needs_review",
}
STATUS_AFTER = {
    "ack": "pending",
    "heartbeat": "pending",
    "result": "pending",
    "verdict": "needs_review",
    "approve": "approved",
    "reject": "rejected",
}


@pytest.mark.parametrize("name", STAGE_FOR)
async def test_each_documented_example_runs(home: Path, store: Store, name: str) -> None:
    at_stage(store, STAGE_FOR[name])
    async with api(home) as client:
        paths = (await client.get("/openapi.json")).json()["paths"]
        body = paths[f"/api/tasks/{{task_id}}/{name}"]["post"]["requestBody"]["content"]["application/json"]
        answer = await post(client, name, body["example"])
        detail = await client.get(f"/api/tasks/{TASK_ID}")
    assert (answer.status_code, answer.json()["status"]) == (200, STATUS_AFTER[name]), answer.text
    assert answer.content == detail.content
    assert answer.headers["etag"] == detail.headers["etag"]


async def test_the_example_of_unlock_runs_on_a_locked_task(home: Path, store: Store) -> None:
    locked(store)
    async with api(home) as client:
        assert (await client.get(f"/api/tasks/{TASK_ID}")).json()["locked"] is True
        answer = await post(client, "unlock")
    assert (answer.status_code, answer.json()["locked"]) == (200, False)


async def test_a_task_goes_through_the_whole_loop_over_http(home: Path, store: Store) -> None:
    task(store)
    dispatched(store)
    async with api(home) as client:
        for name in ("ack", "heartbeat", "result", "verdict", "approve"):
            answer = await post(client, name)
            assert answer.status_code == 200, answer.text
    attempt = answer.json()["attempts"][0]
    assert (attempt["ack"]["by"], attempt["result"]["by"], attempt["decision"]["by"]) == (EXECUTOR, EXECUTOR, APPROVER)
    assert attempt["result"]["work_log"][0]["at"] == "2026-01-31T09:00:00Z", "an operation keeps its own time"


async def test_an_approval_may_come_without_a_body(home: Path, store: Store) -> None:
    at_stage(store, "needs_review")
    async with api(home) as client:
        answer = await client.post(f"/api/tasks/{TASK_ID}/approve", headers=AS_APPROVER)
    assert (answer.status_code, answer.json()["status"]) == (200, "approved")


@pytest.mark.parametrize(
    ("stage", "name", "body", "headers", "expected"),
    [
        ("new", "approve", None, {}, (409, "invalid_transition")),
        ("acknowledged", "ack", None, {}, (409, "invalid_transition")),
        ("new", "ack", None, {}, (409, "invalid_transition")),
        ("needs_review", "unlock", None, {}, (409, "invalid_transition")),
        ("dispatched", "ack", {**examples.ACK, "dispatch_id": "d-other"}, {}, (409, "wrong_dispatch")),
        ("needs_review", "approve", {"review_digest": "sha256:" + "0" * 64}, {}, (409, "stale_review")),
        ("needs_review", "approve", {"review_digest": "nonsense"}, {}, (409, "stale_review")),
        ("new", "approve", {"reason": None, "review_digest": None}, {}, (409, "invalid_transition")),
        ("needs_review", "approve", None, bearer(EXECUTOR, "approver"), (403, "self_approval")),
        ("delivered", "verdict", None, bearer(EXECUTOR, "reviewer"), (403, "self_review")),
        ("acknowledged", "result", None, bearer("another", "executor"), (403, "not_the_executor")),
        ("acknowledged", "heartbeat", None, bearer("another", "executor"), (403, "not_the_executor")),
        ("dispatched", "ack", {**examples.ACK, "echo": []}, {}, (422, "ack_mismatch")),
        ("acknowledged", "result", {**examples.RESULT, "work_log": []}, {}, (422, "result_refused")),
        (
            "delivered",
            "verdict",
            {**examples.VERDICT, "decision": "reject", "issues": []},
            {},
            (422, "verdict_refused"),
        ),
        ("needs_review", "reject", {"reason": " "}, {}, (422, "reason_required")),
        (
            "needs_review",
            "reject",
            {"reason": "no", "issues": [{"criterion_ref": "AC-9", "text": "?"}]},
            {},
            (422, "invalid_issues"),
        ),
    ],
)
async def test_each_refusal_has_its_status_and_code(
    home: Path, store: Store, stage: str, name: str, body: Any, headers: dict[str, str], expected: tuple[int, str]
) -> None:
    at_stage(store, stage)
    before = store.document(TASK_ID)
    async with api(home) as client:
        answer = await post(client, name, body, **headers)
    problem = answer.json()
    assert (answer.status_code, problem["code"], problem["status"]) == (expected[0], expected[1], expected[0])
    assert answer.headers["content-type"] == "application/problem+json"
    assert {"type", "title", "detail"} <= problem.keys()
    store.refresh()
    assert store.document(TASK_ID) == before, "a refusal changes nothing"


@pytest.mark.parametrize("local", ["executor", "reviewer"])
@pytest.mark.parametrize(
    ("name", "stage", "role"),
    [
        ("ack", "dispatched", "executor"),
        ("heartbeat", "acknowledged", "executor"),
        ("result", "acknowledged", "executor"),
        ("verdict", "delivered", "reviewer"),
    ],
)
async def test_a_token_speaks_for_no_agent_that_is_started_here(
    home: Path, store: Store, name: str, stage: str, role: str, local: str
) -> None:
    """Nor does one in the very name of that agent; the other role, left to remote agents, takes it as ever."""
    at_stage(store, stage, agents={local: "coder"})
    by = EXECUTOR if role == "executor" else "coder"
    before = store.document(TASK_ID)
    async with api(home) as client:
        answer = await post(client, name, **bearer(by, role))
    store.refresh()
    if role == local:
        assert (answer.status_code, answer.json()["code"]) == (403, f"not_the_{role}")
        assert store.document(TASK_ID) == before
        assert [e.data["code"] for e in store.events() if e.type == "move_refused"] == [f"not_the_{role}"]
    else:
        assert answer.status_code == 200


async def test_where_agents_only_play_a_token_may_speak(home: Path, store: Store) -> None:
    at_stage(store, "dispatched", agents={"executor": "fake", "reviewer": "fake"})
    async with api(home) as client:
        for name, by, role in (
            ("ack", EXECUTOR, "executor"),
            ("result", EXECUTOR, "executor"),
            ("verdict", "rev", "reviewer"),
        ):
            assert (await post(client, name, **bearer(by, role))).status_code == 200, name
    store.refresh()
    assert store.task(TASK_ID).status == "needs_review"


async def test_a_result_outside_the_scope_is_a_scope_violation(home: Path, store: Store) -> None:
    at_stage(store, "acknowledged")
    operation = {**examples.RESULT["work_log"][0], "target": "docs/secret.md"}
    async with api(home) as client:
        answer = await post(client, "result", {**examples.RESULT, "work_log": [operation]})
        again = await post(client, "result")
    assert (answer.status_code, answer.json()["code"]) == (422, "scope_violation")
    assert answer.json()["paths"] == ["docs/secret.md"]
    assert again.status_code == 200, "a corrected message is taken"


async def test_an_invalid_transition_names_the_state_the_task_is_in(home: Path, store: Store) -> None:
    task(store)
    async with api(home) as client:
        problem = (await post(client, "approve")).json()
    assert (problem["task_status"], problem["stage"]) == ("pending", "new")
    assert "pending" in problem["detail"]


async def test_an_attempt_that_came_inside_a_file_cannot_be_approved(home: Path, store: Store) -> None:
    at_stage(store, "needs_review", task_id="T-1")
    document = json.loads(store.document("T-1") or b"")
    keep = ("source", "request_text", "created_at", "acceptance_criteria", "scope", "attempts")
    brought = {"task_id": "T-2", **{name: document[name] for name in keep}}
    (home / "ssot" / "tasks" / "T-2.json").write_text(json.dumps(brought))
    store.scan()
    async with api(home) as client:
        answer = await post(client, "approve", task_id="T-2")
    assert (answer.status_code, answer.json()["code"]) == (409, "unwitnessed")
    async with api(home, trust_history=True) as client:
        assert (await post(client, "approve", task_id="T-2")).status_code == 200


async def test_a_message_to_an_attempt_that_ended_is_a_409(home: Path, store: Store) -> None:

    at_stage(store, "acknowledged")
    store.commit(TASK_ID, EndAttempt(examples.DISPATCH_ID, "orphaned"), actor="watchdog")
    async with api(home) as client:
        answer = await post(client, "result")
    assert (answer.status_code, answer.json()["code"]) == (409, "attempt_ended")


async def test_a_locked_task_says_so(home: Path, store: Store) -> None:
    locked(store)
    async with api(home) as client:
        answer = await post(client, "approve")
    assert (answer.status_code, answer.json()["code"]) == (409, "invalid_transition")


@pytest.mark.parametrize(
    ("name", "stage", "event"),
    [
        ("ack", "dispatched", "ack_mismatch"),
        ("result", "acknowledged", "result_refused"),
        ("verdict", "delivered", "verdict_refused"),
    ],
)
@pytest.mark.parametrize("raw", [b"", b"{", b'{"dispatch_id":1}', b'{"dispatch_id":"d-example","surprise":1}', b"[]"])
async def test_an_agents_malformed_message_is_refused_and_in_the_log(
    home: Path, store: Store, name: str, stage: str, event: str, raw: bytes
) -> None:
    at_stage(store, stage)
    async with api(home) as client:
        answer = await post(client, name, raw)
        corrected = await post(client, name)
    assert (answer.status_code, answer.json()["code"]) == (422, event)
    found = [e for e in store.events() if e.type == event]
    assert [(e.subject, e.data["code"]) for e in found] == [(TASK_ID, event)]
    assert corrected.status_code == 200


@pytest.mark.parametrize(
    ("name", "raw", "field"),
    [
        ("approve", b'{"reason": 1}', "reason"),
        ("approve", b'{"surprise": 1}', "surprise"),
        ("approve", b'{"reason": "a", "reason": "b"}', ""),
        ("approve", b'{"reason": NaN}', ""),
        ("approve", b"[" * 100 + b"]" * 100, ""),
        ("approve", b'{"reason": "\\ud800"}', ""),
        ("approve", b'{"reason": "\xff"}', ""),
        ("reject", b"", "reason"),
        ("reject", b'{"reason": "no", "issues": [{"text": "?"}]}', "issues[0].criterion_ref"),
        (
            "reject",
            b'{"reason": "no", "issues": [{"criterion_ref":"AC-1","text":"?","severity":"bad"}]}',
            "issues[0].severity",
        ),
        ("unlock", b"{}", "reason"),
        ("heartbeat", b"{}", "dispatch_id"),
    ],
)
async def test_a_malformed_body_is_a_422_that_names_the_field(
    home: Path, store: Store, name: str, raw: bytes, field: str
) -> None:
    at_stage(store, "needs_review")
    last = store.last_seq()
    async with api(home) as client:
        answer = await post(client, name, raw)
    assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (422, "invalid_body", field)
    store.refresh()
    assert store.last_seq() == last, "nothing is written"


@pytest.mark.parametrize("name", [*STAGE_FOR, "unlock"])
async def test_an_unknown_task_is_a_404_whatever_the_body(home: Path, store: Store, name: str) -> None:
    async with api(home) as client:
        for body in (None, b"{"):
            answer = await post(client, name, body, task_id="T-404")
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert event_types(store) == []


async def test_issues_of_a_rejection_get_ids_and_go_with_the_next_dispatch(home: Path, store: Store) -> None:
    at_stage(store, "needs_review")
    issues = [
        {"criterion_ref": "AC-1", "op_refs": ["OP-1"], "text": "first"},
        {"issue_id": "D-2", "criterion_ref": "AC-1", "op_refs": ["OP-2"], "severity": "blocker", "text": "second"},
        {"criterion_ref": "AC-1", "op_refs": ["OP-1"], "text": "third"},
    ]
    async with api(home) as client:
        answer = await post(client, "reject", {"reason": "not yet", "issues": issues})
    written = answer.json()["attempts"][0]["decision"]["issues"]
    assert [(i["issue_id"], i["severity"]) for i in written] == [("D-1", "major"), ("D-2", "blocker"), ("D-3", "major")]
    store.refresh()
    bring_to(store, "dispatched", dispatch_id="d-2")
    forwarded = store.task(TASK_ID).attempts[1].dispatch
    assert forwarded is not None
    assert [i.issue_id for i in forwarded.issues] == ["IS-1", "D-1", "D-2", "D-3"]


# --------------------------------------------------------------------------------------- Idempotency-Key


async def test_the_same_key_and_body_give_the_first_answer_again_across_a_restart(home: Path, store: Store) -> None:
    at_stage(store, "needs_review")
    key = {"Idempotency-Key": "k-1"}
    async with api(home) as client:
        first = await post(client, "reject", **key)
    bring_to(store, "needs_review", dispatch_id="d-2")
    async with api(home) as client:
        again = await post(client, "reject", **key)
        current = await client.get(f"/api/tasks/{TASK_ID}")
    assert (again.status_code, again.content) == (200, first.content)
    assert again.headers["etag"] == first.headers["etag"]
    assert (again.headers["idempotency-replayed"], "idempotency-replayed" in first.headers) == ("true", False)
    assert current.json()["status"] == "needs_review", "nothing was decided twice"


async def test_the_same_key_with_another_body_is_refused(home: Path, store: Store) -> None:
    at_stage(store, "needs_review")
    key = {"Idempotency-Key": "k-1"}
    async with api(home) as client:
        await post(client, "approve", **key)
        for other in ({"reason": "another"}, b"{"):
            answer = await post(client, "approve", other, **key)
            assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_mismatch")


async def test_a_refusal_is_repeated_like_any_first_answer(home: Path, store: Store) -> None:
    task(store)
    key = {"Idempotency-Key": "k-1"}
    async with api(home) as client:
        first = await post(client, "approve", **key)
        bring_to(store, "needs_review")
        again = await post(client, "approve", **key)
        fresh = await post(client, "approve", **{"Idempotency-Key": "k-2"})
    assert (again.status_code, again.content) == (409, first.content)
    assert again.headers["idempotency-replayed"] == "true"
    assert fresh.status_code == 200


async def test_a_malformed_message_uses_up_its_key(home: Path, store: Store) -> None:
    at_stage(store, "dispatched")
    key = {"Idempotency-Key": "k-1"}
    async with api(home) as client:
        first = await post(client, "ack", b"{", **key)
        again = await post(client, "ack", b"{", **key)
        other = await post(client, "ack", **key)
    assert (first.status_code, again.status_code) == (422, 422)
    assert other.json()["code"] == "idempotency_mismatch"
    assert event_types(store).count("ack_mismatch") == 1


@pytest.mark.parametrize(("name", "stage"), [("reject", "needs_review"), ("heartbeat", "acknowledged")])
async def test_a_malformed_body_uses_up_its_key_whoever_sent_it(
    home: Path, store: Store, name: str, stage: str
) -> None:
    at_stage(store, stage)
    key = {"Idempotency-Key": "k-1"}
    async with api(home) as client:
        without = await post(client, name, b'{"surprise": 1}')
        assert "move_refused" not in event_types(store), "who gives no key leaves no trace"
        first = await post(client, name, b'{"surprise": 1}', **key)
    async with api(home) as client:
        again = await post(client, name, b'{"surprise": 1}', **key)
        other = await post(client, name, **key)
    assert (first.status_code, first.json()["code"]) == (422, "invalid_body")
    assert without.content == first.content == again.content
    assert other.json()["code"] == "idempotency_mismatch"
    assert event_types(store).count("move_refused") == 1


async def test_a_refusal_is_forgotten_after_24_hours(home: Path) -> None:
    key = {"Idempotency-Key": "k-1"}
    a_day_ago = Store.open(home, source="kircerta/tests", clock=Clock(lambda: time.time() - 24 * 3600 - 60))
    task(a_day_ago)
    async with api(home, a_day_ago) as client:
        assert (await post(client, "approve", **key)).json()["code"] == "invalid_transition"
        assert (await post(client, "approve", {}, **key)).json()["code"] == "idempotency_mismatch"
    a_day_ago.close()
    async with api(home) as client:
        assert (await post(client, "approve", {}, **key)).json()["code"] == "invalid_transition"


async def test_a_key_belongs_to_its_principal_and_route(home: Path, store: Store) -> None:
    at_stage(store, "needs_review")
    key = {"Idempotency-Key": "k-1"}
    async with api(home) as client:
        assert (await post(client, "approve", **key)).status_code == 200
        other = await post(client, "approve", **key, **bearer("bob", "approver"))
        route = await post(client, "reject", **key)
    assert [other.json()["code"], route.json()["code"]] == ["invalid_transition", "invalid_transition"]


@pytest.mark.parametrize("key", ["", "x" * 256, "with space", "ü"])
async def test_a_key_that_cannot_be_used_is_a_400(home: Path, store: Store, key: str) -> None:
    at_stage(store, "needs_review")
    async with api(home) as client:
        headers: Any = [*AS_APPROVER.items(), ("Idempotency-Key", key.encode())]
        answer = await client.post(f"/api/tasks/{TASK_ID}/approve", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_idempotency_key")


# -------------------------------------------------------------------------------------------- the others


async def test_heartbeats_are_logged_at_most_once_in_five_seconds_and_keep_a_private_sign(
    home: Path, store: Store
) -> None:
    at_stage(store, "acknowledged")
    sign = home / ".kircerta" / "beats" / examples.DISPATCH_ID
    async with api(home) as client:
        for _ in range(3):
            assert (await post(client, "heartbeat")).status_code == 200
        assert sign.exists()
        await post(client, "result")
    assert event_types(store).count("heartbeat") == 1
    assert not sign.exists(), "a delivered attempt needs no signs of life"


async def test_a_busy_workspace_is_a_503_with_retry_after(home: Path, store: Store) -> None:
    at_stage(store, "needs_review")
    async with api(home, lock_timeout_s=0.1) as client:
        with store.log._lock.hold():
            answer = await post(client, "approve")
        assert (answer.status_code, answer.json()["code"], answer.headers["retry-after"]) == (503, "busy", "1")
        assert (await post(client, "approve")).status_code == 200


async def test_of_many_who_decide_at_once_one_wins(home: Path, store: Store) -> None:
    at_stage(store, "needs_review")
    async with api(home) as one, api(home) as other:
        answers = await asyncio.gather(
            *(post(client, name) for name in ("approve", "reject") for client in (one, other) for _ in range(3))
        )
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 11
    assert {a.json()["code"] for a in answers if a.status_code == 409} == {"invalid_transition"}


async def test_roles_are_asked_for(home: Path, store: Store) -> None:
    at_stage(store, "needs_review")
    wrong = {
        "approve": AS_EXECUTOR,
        "reject": AS_REVIEWER,
        "unlock": bearer("v", "viewer"),
        "ack": AS_APPROVER,
        "heartbeat": AS_REVIEWER,
        "result": AS_REVIEWER,
        "verdict": AS_EXECUTOR,
    }
    async with api(home) as client:
        for name, headers in wrong.items():
            answer = await post(client, name, **headers)
            assert (answer.status_code, answer.json()["code"]) == (403, "forbidden"), name
        assert (await post(client, "approve", **bearer("root", "admin"))).status_code == 200


async def test_without_a_secret_nothing_is_open(home: Path, store: Store) -> None:

    at_stage(store, "needs_review")
    door = create_app(Settings(home=home, jwt_secret=None, _env_file=None))
    async with lifespan(door), client_of(door) as client:
        answer = await post(client, "approve")
        assert (answer.status_code, answer.json()["code"]) == (503, "not_configured")
        assert (await client.get("/api/tasks")).status_code == 200


async def test_the_rejection_that_locks_is_repeated_with_its_lock(home: Path, store: Store) -> None:
    task(store)
    async with api(home) as client:
        for number in range(3):
            store.refresh()
            bring_to(store, "needs_review", dispatch_id=f"d-{number}")
            key = {"Idempotency-Key": f"k-{number}"}
            first = await post(client, "reject", **key)
        again = await post(client, "reject", **key)
    assert first.json()["locked"] is True
    assert again.content == first.content
