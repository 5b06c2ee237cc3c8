"""A workspace with one task at the stage that a test needs, and the API over it, in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx
import orjson
from pydantic import SecretStr

from api import examples
from api.app import create_app
from api.auth import make_token
from api.door import Door
from ssot.intents import Create, Dispatch, Intent, Reject, SendAck, SendResult, SendVerdict
from ssot.settings import Settings
from ssot.store import Store
from ssot.task import AckBody, Criterion, Issue, ResultBody, VerdictBody, parse_part

SECRET = "a secret for tests, long enough for HS256"
TASK_ID = examples.TASK_ID
EXECUTOR, REVIEWER, APPROVER = "remote-executor", "remote-reviewer", "alice"


def settings_for(home: Path, **more: Any) -> Settings:
    return Settings(home=home, jwt_secret=SecretStr(SECRET), _env_file=None, **more)


def bearer(sub: str, *roles: str, secret: str = SECRET, on_behalf_of: str | None = None) -> dict[str, str]:
    return {"Authorization": f"Bearer {make_token(secret, sub, roles, 3600, on_behalf_of=on_behalf_of)}"}


AS_APPROVER = bearer(APPROVER, "approver")
AS_EXECUTOR = bearer(EXECUTOR, "executor")
AS_REVIEWER = bearer(REVIEWER, "reviewer")
HEADERS_OF = {
    "ack": AS_EXECUTOR,
    "heartbeat": AS_EXECUTOR,
    "result": AS_EXECUTOR,
    "verdict": AS_REVIEWER,
    "approve": AS_APPROVER,
    "reject": AS_APPROVER,
    "unlock": AS_APPROVER,
}
BODY_OF = {
    "ack": examples.ACK,
    "heartbeat": examples.HEARTBEAT,
    "result": examples.RESULT,
    "verdict": examples.VERDICT,
    "approve": examples.APPROVE,
    "reject": examples.REJECT,
    "unlock": examples.UNLOCK,
}


def task(store: Store, task_id: str = TASK_ID, **more: Any) -> None:
    """A task that was never dispatched."""
    given: dict[str, Any] = {
        "request_text": "let greet() say hello",
        "acceptance_criteria": (Criterion(**examples.CRITERION),),
        "scope": tuple(examples.SCOPE),
        **more,
    }
    store.commit(task_id, Create(**given), actor="tests")


def dispatched(
    store: Store,
    dispatch_id: str = examples.DISPATCH_ID,
    task_id: str = TASK_ID,
    agents: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """To agents that come with a token, but for those named in `agents`."""
    given = Dispatch(dispatch_id, **{"executor": "remote", "reviewer": "remote", **agents})
    store.commit(task_id, given, actor="dispatcher")


def part(model: Any, example: dict[str, Any], **more: Any) -> Any:
    return parse_part(model, orjson.dumps({**example, **more}))


def at_stage(
    store: Store,
    stage: str,
    *,
    dispatch_id: str = examples.DISPATCH_ID,
    task_id: str = TASK_ID,
    agents: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """A new task, taken to a stage."""
    task(store, task_id)
    bring_to(store, stage, dispatch_id=dispatch_id, task_id=task_id, agents=agents)


def bring_to(
    store: Store,
    stage: str,
    *,
    dispatch_id: str = examples.DISPATCH_ID,
    task_id: str = TASK_ID,
    agents: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """An existing task, dispatched and taken to a stage."""
    if stage == "new":
        return
    dispatched(store, dispatch_id, task_id, agents)
    issues = tuple(i.model_dump() for i in store.task(task_id).attempts[-1].dispatch.issues)  # type: ignore[union-attr]
    steps: list[tuple[str, Intent, str]] = [
        ("acknowledged", SendAck(part(AckBody, examples.ACK, dispatch_id=dispatch_id, issues=issues)), EXECUTOR),
        ("delivered", SendResult(part(ResultBody, examples.RESULT, dispatch_id=dispatch_id)), EXECUTOR),
        ("needs_review", SendVerdict(part(VerdictBody, examples.VERDICT, dispatch_id=dispatch_id)), REVIEWER),
    ]
    stages = ["dispatched", *(name for name, _, _ in steps)]
    for name, intent, actor in steps:
        if stages.index(name) <= stages.index(stage):
            store.commit(task_id, intent, actor=actor)


def locked(store: Store) -> None:
    """A task that was rejected until it locked."""
    task(store)
    for number in range(3):
        bring_to(store, "needs_review", dispatch_id=f"d-{number}")
        issue = Issue(issue_id="D-1", criterion_ref="AC-1", op_refs=("OP-1",), severity="major", text="again")
        store.commit(TASK_ID, Reject(reason="no", issues=(issue,)), actor=APPROVER)


@asynccontextmanager
async def lifespan(door: Door) -> AsyncIterator[None]:
    """What the server does around the requests."""
    app: Any = door.app
    async with app.router.lifespan_context(app):
        yield


@asynccontextmanager
async def api(
    home: Path, store: Store | None = None, *, host: str = "127.0.0.1", body_timeout_s: float = 10.0, **more: Any
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the API over a workspace."""
    door = create_app(settings_for(home, **more), store, host=host, body_timeout_s=body_timeout_s)
    async with lifespan(door), client_of(door) as client:
        yield client


def client_of(door: Door, address: str = "127.0.0.1") -> httpx.AsyncClient:
    transport = httpx.ASGITransport(door, client=(address, 50000))
    return httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=30)


async def post(client: httpx.AsyncClient, name: str, body: Any = None, task_id: str = TASK_ID, **more: Any) -> Any:
    """Send one move with the right token and, without another body, the documented example."""
    headers = {"Content-Type": "application/json", **HEADERS_OF[name], **more}
    raw = body if isinstance(body, bytes) else orjson.dumps(BODY_OF[name] if body is None else body)
    return await client.post(f"/api/tasks/{task_id}/{name}", content=raw, headers=headers)


def event_types(store: Store) -> list[str]:
    return [event.type for event in store.events()]
