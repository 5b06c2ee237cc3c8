"""The tools for agents, as the protocol's own client sees them: over stdio, over HTTP, and in this process."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
from mcp import StdioServerParameters
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client

from api import examples
from api.auth import make_token
from api.mcp_server import make_app
from api.mcp_tools import make_server
from ssot.store import Store
from tests.api.running import ROOT, server
from tests.api.scene import EXECUTOR, REVIEWER, SECRET, TASK_ID, api, at_stage, bring_to, task


def token(sub: str, *roles: str) -> str:
    return make_token(SECRET, sub, roles, 3600)


@asynccontextmanager
async def tools(home: Path, sub: str, *roles: str) -> AsyncIterator[Client]:
    """The protocol's client, connected to tools that work with this principal's token, over the API in this process."""
    async with api(home) as client, Client(make_server(client, lambda ctx: token(sub, *roles))) as connected:
        yield connected


async def called(client: Client, name: str, **given: Any) -> dict[str, Any]:
    """What a tool answered."""
    answer = await client.call_tool(name, given)
    assert isinstance(answer.structured_content, dict)
    if answer.is_error:
        assert "code" in answer.structured_content
    return answer.structured_content


async def names(client: Client) -> set[str]:
    return {tool.name for tool in (await client.list_tools()).tools}


async def test_each_role_has_its_own_tools_and_no_other(home: Path, store: Store) -> None:
    reading = {"list_tasks", "read_task"}
    sending = {"send_ack", "send_heartbeat", "send_result"}
    for roles, expected in (
        (("executor",), reading | sending),
        (("reviewer",), reading | {"send_verdict"}),
        (("approver",), {"read_task"}),
        (("admin",), reading | sending | {"send_verdict"}),
        (("viewer",), {"read_task"}),
    ):
        async with tools(home, "somebody", *roles) as client:
            assert await names(client) == expected


async def test_an_executor_goes_from_its_list_to_its_result(home: Path, store: Store) -> None:
    at_stage(store, "dispatched")
    async with tools(home, EXECUTOR, "executor") as client:
        (row,) = (await called(client, "list_tasks"))["tasks"]
        assert (row["task_id"], row["dispatch_id"]) == (TASK_ID, examples.DISPATCH_ID)
        read = await called(client, "read_task", task_id=TASK_ID)
        assert read["attempts"][-1]["dispatch"]["acceptance_criteria"] == [examples.CRITERION]
        assert (await called(client, "send_ack", task_id=TASK_ID, **examples.ACK))["attempts"][-1]["ack"]
        await called(client, "send_heartbeat", task_id=TASK_ID, **examples.HEARTBEAT)
        result = await called(client, "send_result", task_id=TASK_ID, **examples.RESULT)
    assert result["attempts"][-1]["result"]["by"] == EXECUTOR
    async with tools(home, REVIEWER, "reviewer") as client:
        (row,) = (await called(client, "list_tasks"))["tasks"]
        verdict = await called(client, "send_verdict", task_id=row["task_id"], **examples.VERDICT)
        assert (await called(client, "list_tasks"))["tasks"] == []
    assert verdict["status"] == "needs_review"


async def test_refusals_have_the_codes_of_the_api(home: Path, store: Store) -> None:
    at_stage(store, "dispatched")
    task(store, "T-9")
    wrong = {**examples.ACK, "echo": [{"criterion_ref": "AC-1", "text": "something else"}]}
    async with tools(home, EXECUTOR, "executor") as client:
        assert (await called(client, "send_ack", task_id=TASK_ID, **wrong))["code"] == "ack_mismatch"
        assert (await called(client, "send_result", task_id=TASK_ID, **examples.RESULT))["code"] == "invalid_transition"
        late = {**examples.ACK, "dispatch_id": "d-of-yesterday"}
        assert (await called(client, "send_ack", task_id=TASK_ID, **late))["code"] == "wrong_dispatch"
        assert (await called(client, "send_ack", task_id="../T-1", **examples.ACK))["code"] == "not_found"
        assert (await called(client, "send_ack", task_id="T-9", **examples.ACK))["code"] == "invalid_transition"
        assert (await called(client, "send_verdict", task_id=TASK_ID, **examples.VERDICT))["code"] == "forbidden"
        assert (await called(client, "approve", task_id=TASK_ID))["code"] == "forbidden"


async def test_an_executor_cannot_review_its_own_work_with_both_roles(home: Path, store: Store) -> None:
    at_stage(store, "delivered")
    async with tools(home, EXECUTOR, "executor", "reviewer") as client:
        assert (await called(client, "list_tasks"))["tasks"] == [], "it is nothing for this reviewer"
        assert (await called(client, "send_verdict", task_id=TASK_ID, **examples.VERDICT))["code"] == "self_review"


async def test_the_same_message_again_gets_the_first_answer(home: Path, store: Store) -> None:
    at_stage(store, "dispatched")
    async with tools(home, EXECUTOR, "executor") as client:
        first = await called(client, "send_ack", task_id=TASK_ID, **examples.ACK)
        assert await called(client, "send_ack", task_id=TASK_ID, **examples.ACK) == first
    assert sum(event.type == "ack_received" for event in store.events()) == 1


async def test_tasks_of_others_are_not_listed(home: Path, store: Store) -> None:
    at_stage(store, "acknowledged")
    task(store, "T-new")
    async with tools(home, "another-executor", "executor") as client:
        assert (await called(client, "list_tasks"))["tasks"] == []


async def test_a_server_that_is_gone_is_told(home: Path) -> None:
    async with (
        httpx.AsyncClient(base_url="http://127.0.0.1:9") as nobody,
        Client(make_server(nobody, lambda ctx: token(EXECUTOR, "executor"))) as client,
    ):
        assert (await called(client, "read_task", task_id=TASK_ID))["code"] == "unreachable"


async def test_over_http_each_request_brings_its_own_token(home: Path, store: Store) -> None:
    at_stage(store, "dispatched")
    with server(home) as (_, port):
        app = make_app(f"http://127.0.0.1:{port}", "127.0.0.1", ())
        transport = httpx2.ASGITransport(app=app)
        async with _lifespan(app):
            for sub, roles, tool in ((EXECUTOR, ("executor",), "send_ack"), (REVIEWER, ("reviewer",), "send_verdict")):
                headers = {"Authorization": f"Bearer {token(sub, *roles)}"}
                async with (
                    httpx2.AsyncClient(transport=transport, headers=headers) as http,
                    Client(streamable_http_client("http://127.0.0.1:8010/mcp", http_client=http)) as client,
                ):
                    assert tool in await names(client)
                    if tool == "send_ack":
                        assert (await called(client, tool, task_id=TASK_ID, **examples.ACK))["attempts"]
            async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1:8010") as http:
                answer = await http.post("/mcp", json={})
                assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
                elsewhere = {"Authorization": "Bearer x", "Host": "evil.example"}
                assert (await http.post("/mcp", json={}, headers=elsewhere)).status_code == 421


@asynccontextmanager
async def _lifespan(app: Any) -> AsyncIterator[None]:
    """What the server does around the requests."""
    import asyncio

    came: asyncio.Queue[dict[str, str]] = asyncio.Queue()
    told: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    running = asyncio.create_task(app({"type": "lifespan", "asgi": {"version": "3.0"}}, came.get, told.put))
    await came.put({"type": "lifespan.startup"})
    assert (await told.get())["type"] == "lifespan.startup.complete"
    yield
    await came.put({"type": "lifespan.shutdown"})
    await running


@pytest.mark.slow
async def test_over_stdio_the_command_is_all_that_an_agent_needs(home: Path, store: Store) -> None:
    at_stage(store, "new")
    with server(home) as (_, port):
        bring_to(store, "dispatched")
        command = StdioServerParameters(
            command=sys.executable,
            args=["-m", "cli.main", "mcp"],
            env={
                "KIRCERTA_HOME": str(home),
                "KIRCERTA_API_URL": f"http://127.0.0.1:{port}",
                "KIRCERTA_TOKEN": token(EXECUTOR, "executor"),
                "PYTHONPATH": str(ROOT),
            },
        )
        async with Client(command) as client:
            assert "send_ack" in await names(client)
            answer = await called(client, "send_ack", task_id=TASK_ID, **examples.ACK)
    assert answer["attempts"][-1]["ack"]["by"] == EXECUTOR
