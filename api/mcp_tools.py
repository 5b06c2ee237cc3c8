"""The tools that an agent has over the Model Context Protocol: what its role allows over HTTP, and nothing else.

Each call becomes one request to kircerta's API, with the caller's own token: who may do what, and what is refused with
which code, is said in one place. Nothing is kept here. Protocol: https://modelcontextprotocol.io/specification
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Final

import httpx
import mcp_types as types
import orjson
from mcp.server import Server, ServerRequestContext
from pydantic import BaseModel

from api.messages import HeartbeatBody
from ssot.messages import is_remote
from ssot.task import TASK_ID, AckBody, ResultBody, VerdictBody

TIMEOUT_S: Final = 30.0
MOST_TASKS: Final = 100
_AGENTS: Final = frozenset({"executor", "reviewer", "admin"})
_EVERYBODY: Final = frozenset({"executor", "reviewer", "admin", "viewer", "approver"})
_MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
INSTRUCTIONS: Final = (
    "kircerta hands tasks to agents and holds their work at a gate. Executor: list_tasks, read_task; acknowledge with "
    "send_ack by repeating the dispatch's criteria (id and text, in order), scope and issues word for word; then work, "
    "send_heartbeat now and then, and send_result with a work log that points at the criteria. Reviewer: read_task, "
    "then send_verdict; each issue points at a criterion and at operations of the work log. A refusal has a code and "
    "says what differs: correct it and send it again."
)
Schema = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Told:
    """What a tool answers: a JSON object, and whether it is a refusal."""

    body: dict[str, Any]
    is_refusal: bool = False


class Api:
    """kircerta's API as one caller sees it."""

    def __init__(self, client: httpx.AsyncClient, token: str) -> None:
        self._client = client
        self._token = token

    @property
    def roles(self) -> frozenset[str]:
        """The roles that the token claims: they choose which tools are shown. The API checks what they are worth."""
        return _claims(self._token)[1]

    @property
    def name(self) -> str:
        return _claims(self._token)[0]

    async def ask(self, method: str, path: str, body: Any = None, *, once: str | None = None) -> Told:
        """One request. `once` names it, so that a repeat of the same gets the first answer again."""
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        if once is not None:
            headers["Idempotency-Key"] = once
        try:
            answer = await self._client.request(method, path, content=_json(body), headers=headers)
        except httpx.HTTPError as error:
            return _refused("unreachable", f"kircerta's API does not answer ({type(error).__name__}): try again")
        return _told(answer)


def _json(body: Any) -> bytes | None:
    return None if body is None else orjson.dumps(body)


def _told(answer: httpx.Response) -> Told:
    try:
        body = orjson.loads(answer.content) if len(answer.content) <= _MAX_ANSWER_BYTES else None
    except orjson.JSONDecodeError:
        body = None
    if not isinstance(body, dict) or (not answer.is_success and "code" not in body):
        return _refused("unreachable", f"what answers there is not kircerta's API (HTTP {answer.status_code})")
    return Told(body, is_refusal=not answer.is_success)


def _refused(code: str, detail: str) -> Told:
    return Told({"code": code, "detail": detail}, is_refusal=True)


def _claims(token: str) -> tuple[str, frozenset[str]]:
    """Name and roles as a token tells them, unchecked."""
    try:
        payload = token.split(".")[1]
        claims = orjson.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return str(claims["sub"]), frozenset(str(role) for role in claims["roles"])
    except (IndexError, ValueError, KeyError, TypeError):
        return "", frozenset()


# ------------------------------------------------------------------------------------------------- tools

Run = Callable[[Api, dict[str, Any]], Awaitable[Told]]


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool: what it says of itself, which roles have it, what goes in, and what it does."""

    name: str
    says: str
    roles: frozenset[str]
    schema: Schema
    run: Run
    reads_only: bool = False

    def described(self) -> types.Tool:
        return types.Tool(
            name=self.name,
            description=self.says,
            input_schema=self.schema,
            annotations=types.ToolAnnotations(
                read_only_hint=self.reads_only, destructive_hint=False, idempotent_hint=True, open_world_hint=False
            ),
        )


_TASK_ID: Final[Schema] = {"type": "string", "pattern": f"^{TASK_ID.pattern}$", "description": "The task's id."}
_TASK_ALONE: Final[Schema] = {
    "type": "object",
    "properties": {"task_id": _TASK_ID},
    "required": ["task_id"],
    "additionalProperties": False,
}
_NOTHING: Final[Schema] = {"type": "object", "properties": {}, "additionalProperties": False}


def _schema_of(model: type[BaseModel]) -> Schema:
    """A message's schema, with the task beside it; what the server sets itself is left out."""
    found = model.model_json_schema()
    properties = {name: one for name, one in found["properties"].items() if name not in ("at", "by")}
    required = ["task_id", *(name for name in found.get("required", ()) if name in properties)]
    return {**found, "properties": {"task_id": _TASK_ID, **properties}, "required": required}


def _sender(what: str) -> Run:
    """A tool that sends one message of an agent."""

    async def send(api: Api, given: dict[str, Any]) -> Told:
        task_id = given.get("task_id")
        if not isinstance(task_id, str) or not TASK_ID.fullmatch(task_id):
            return _refused("not_found", f"there is no task {task_id!r:.80}")
        body = {name: value for name, value in given.items() if name != "task_id"}
        once = None if what == "heartbeat" else _name_of(what, task_id, body)
        return await api.ask("POST", f"/api/tasks/{task_id}/{what}", body, once=once)

    return send


def _name_of(what: str, task_id: str, body: dict[str, Any]) -> str:
    raw = orjson.dumps([what, task_id, body], option=orjson.OPT_SORT_KEYS)
    return "mcp-" + hashlib.sha256(raw).hexdigest()


async def _read(api: Api, given: dict[str, Any]) -> Told:
    task_id = given.get("task_id")
    if not isinstance(task_id, str) or not TASK_ID.fullmatch(task_id):
        return _refused("not_found", f"there is no task {task_id!r:.80}")
    return await api.ask("GET", f"/api/tasks/{task_id}")


async def _list(api: Api, given: dict[str, Any]) -> Told:
    """The tasks that wait for the caller: an executor's to acknowledge and to work on, a reviewer's to judge."""
    found: list[dict[str, Any]] = []
    for stage in _stages_of(api.roles):
        page = await api.ask("GET", f"/api/tasks?stage={stage}&limit={MOST_TASKS}")
        if page.is_refusal:
            return page
        for row in page.body["tasks"]:
            task = await api.ask("GET", f"/api/tasks/{row['task_id']}")
            if not task.is_refusal and _waits_for(api.name, stage, task.body):
                found.append({**row, "dispatch_id": task.body["attempts"][-1]["dispatch"]["dispatch_id"]})
    return Told({"tasks": found[:MOST_TASKS]})


def _stages_of(roles: Iterable[str]) -> tuple[str, ...]:
    of_role = {
        "executor": ("dispatched", "acknowledged"),
        "reviewer": ("delivered",),
        "admin": ("dispatched", "acknowledged", "delivered"),
    }
    return tuple(dict.fromkeys(stage for role in sorted(roles) for stage in of_role.get(role, ())))


def _waits_for(name: str, stage: str, task: Mapping[str, Any]) -> bool:
    """Whether an open attempt is left to agents that come by themselves, and to this one where it has begun."""
    attempt = task["attempts"][-1] if task["attempts"] else None
    if attempt is None or attempt["dispatch"] is None:
        return False
    role = "reviewer" if stage == "delivered" else "executor"
    if not is_remote(attempt["dispatch"][role]):
        return False
    ack = attempt["ack"]
    if stage == "acknowledged":
        return ack is not None and ack["by"] == name
    return stage == "dispatched" or ack is None or ack["by"] != name


TOOLS: Final = (
    Tool("list_tasks", "The tasks that wait for you, with their dispatch ids.", _AGENTS, _NOTHING, _list, True),
    Tool("read_task", "One task with everything that happened to it.", _EVERYBODY, _TASK_ALONE, _read, True),
    Tool(
        "send_ack",
        "Repeat the dispatch word for word to show that it was understood. The first right one makes you its executor.",
        frozenset({"executor", "admin"}),
        _schema_of(AckBody),
        _sender("ack"),
    ),
    Tool(
        "send_heartbeat",
        "Say that the work goes on.",
        frozenset({"executor", "admin"}),
        _schema_of(HeartbeatBody),
        _sender("heartbeat"),
    ),
    Tool(
        "send_result",
        "Deliver the work: outcome, work log and diff.",
        frozenset({"executor", "admin"}),
        _schema_of(ResultBody),
        _sender("result"),
    ),
    Tool(
        "send_verdict",
        "Judge a result. Each issue points at a criterion and at operations of the work log.",
        frozenset({"reviewer", "admin"}),
        _schema_of(VerdictBody),
        _sender("verdict"),
    ),
)
_BY_NAME: Final = {tool.name: tool for tool in TOOLS}


def tools_of(roles: frozenset[str]) -> tuple[Tool, ...]:
    """The tools that these roles have."""
    return tuple(tool for tool in TOOLS if tool.roles & roles)


# ------------------------------------------------------------------------------------------------ server


def make_server(client: httpx.AsyncClient, token_of: Callable[[ServerRequestContext[Any]], str]) -> Server[Any]:
    """The protocol's server.

    Args:
        client: for requests to kircerta's API; stays the caller's.
        token_of: the token with which a request is made: of the process, or of each request.
    """

    async def list_tools(ctx: ServerRequestContext[Any], params: Any) -> types.ListToolsResult:
        roles = Api(client, token_of(ctx)).roles
        return types.ListToolsResult(tools=[tool.described() for tool in tools_of(roles)])

    async def call_tool(ctx: ServerRequestContext[Any], params: types.CallToolRequestParams) -> types.CallToolResult:
        api = Api(client, token_of(ctx))
        tool = _BY_NAME.get(params.name)
        if tool is None or tool not in tools_of(api.roles):
            return _answer(_refused("forbidden", f"your role has no tool {params.name!r:.80}"))
        return _answer(await tool.run(api, dict(params.arguments or {})))

    return Server(
        "kircerta",
        version=version("kircerta"),
        title="kircerta",
        instructions=INSTRUCTIONS,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )


def _answer(told: Told) -> types.CallToolResult:
    text = orjson.dumps(told.body).decode()
    return types.CallToolResult(
        content=[types.TextContent(type="text", text=text)], structured_content=told.body, is_error=told.is_refusal
    )


def client_of(api_url: str) -> httpx.AsyncClient:
    """A client for kircerta's API. A proxy must not see the token."""
    return httpx.AsyncClient(base_url=api_url, timeout=TIMEOUT_S, trust_env=False)
