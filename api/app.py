"""The API of one workspace as an ASGI application: it reads, takes decisions and messages, and judges nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from ipaddress import ip_address
from typing import Final

import orjson
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from api import examples, openapi, projects, session, stream, traces, webhooks
from api.agents import AgentRoutes
from api.alarms import AlarmWatch
from api.answers import Tagged
from api.audit import AuditRoutes
from api.blobs import BlobRoutes
from api.decisions import DecisionRoutes
from api.desk import Desk
from api.door import Door
from api.follower import Follower
from api.head import Hosts, head_of
from api.health import HealthRoutes, LoopLag, PrefectProbe
from api.keeping import Keeper
from api.messages import ApproveBody, HeartbeatBody, RejectBody, UnlockBody
from api.metrics import Metrics
from api.openapi import DECIDED, FROM_AGENT, Operation
from api.pages import PageRoutes
from api.problems import EXPECTED, problem_of
from api.refusals import RefusalCounter, RefusalWriter
from api.reports import ReportRoutes
from api.stream import EventStream
from api.tasks import TaskRoutes
from audit.event import Corrupt
from audit.files import StorageFailed
from ssot.settings import Settings
from ssot.store import Store
from ssot.task import AckBody, ResultBody, VerdictBody
from ssot.watch import Watcher

SOURCE: Final = "kircerta/api"
CHECKPOINT_FROM: Final = 500
"""Fewer events than these are read again at the next start faster than a checkpoint is made durable."""
_ABOUT = (
    "Tasks for coding agents, with a gate that people hold and a log that cannot be rewritten. "
    "Errors are RFC 9457 problems with a stable `code`. Bodies are strict: an unknown field is refused."
)
_TAGS = [
    {"name": "tasks", "description": "What is asked, and how far it is."},
    {"name": "projects", "description": "Whose tasks they are, and how each project stands."},
    {"name": "decisions", "description": "What people decide."},
    {"name": "agents", "description": "What executors and reviewers send."},
    {"name": "log", "description": "What happened, and the long texts."},
    {"name": "webhooks", "description": "What others deliver; proven by its sender's secret."},
    {"name": "session", "description": "Signing in to the dashboard."},
    {"name": "health", "description": "How this process is."},
]


def create_app(
    settings: Settings, store: Store | None = None, *, host: str = "127.0.0.1", body_timeout_s: float = 10.0
) -> Door:
    """The application.

    Args:
        store: an open store, which stays the caller's; without one the lifespan opens (and closes) its own.
        host: the address that the server is bound to: anywhere but on loopback reads need a token, too.
        body_timeout_s: seconds that a body may take.
    """
    refusals, rejections = RefusalCounter("auth_denied"), RefusalCounter("webhook_rejected")
    metrics = Metrics(refusals)
    desk = Desk(settings, refusals, loopback=is_loopback(host), body_timeout_s=body_timeout_s)
    lag, prefect = LoopLag(), PrefectProbe(settings.prefect_api_url)
    health = HealthRoutes(desk, metrics, lag, prefect)
    tasks = TaskRoutes(desk)
    keeper = Keeper(desk)
    streams = EventStream(desk.gate.reader)
    metrics.watch(streams)
    metrics.watch_deliveries(rejections)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        opened = store if store is not None else await asyncio.to_thread(_open, settings)
        watcher = Watcher(opened, adopt=True).start()
        health.watch(watcher)
        desk.take(opened)
        follower = await Follower(opened.audit_folder).start()
        await streams.start(follower)
        stop = asyncio.Event()
        writing = asyncio.create_task(RefusalWriter([refusals, rejections], desk.note_all).run(stop))
        alarms = AlarmWatch(settings, lag, prefect, SOURCE)
        watching = [asyncio.create_task(one) for one in (lag.run(), prefect.run(), alarms.run(opened, follower))]
        draining = asyncio.create_task(keeper.run(stop))
        try:
            yield
        finally:
            await streams.stop()
            for task in watching:
                task.cancel()
            stop.set()
            await asyncio.gather(writing, draining, *watching, return_exceptions=True)
            await asyncio.to_thread(_leave, desk, opened, watcher, close=store is None)

    app = FastAPI(
        title="kircerta",
        version=_version(),
        description=_ABOUT,
        openapi_tags=_TAGS,
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    operations = (
        *_operations(desk, tasks, health),
        *traces.operations(desk),
        *projects.operations(desk),
        stream.operation(streams),
        *webhooks.operations(desk, rejections, keeper),
        *session.operations(desk),
    )
    for operation in operations:
        operation.add_to(app)
    _add_pages(app, desk)
    for kind in (*EXPECTED, Exception):
        app.add_exception_handler(kind, _told)
    return Door(
        app,
        hosts=Hosts((*settings.allowed_hosts, *_bound_name(host))),
        metrics=metrics,
        exact={"/api/tasks": tasks.list, "/healthz": health.alive},
        below=("/api/tasks/", "/api/tasks/{task_id}", "task_id", tasks.detail),
        streams=streams,
    )


def _open(settings: Settings) -> Store:
    return Store.open(settings.home, source=SOURCE, settings=settings.store)


def _leave(desk: Desk, store: Store, watcher: Watcher, *, close: bool) -> None:
    desk.writer.close()
    watcher.stop()
    if store.checkpoint_age() > CHECKPOINT_FROM:
        with suppress(StorageFailed, Corrupt):  # the checkpoint is a cache: without it the next start reads more
            store.save_checkpoint()
    if close:
        store.close()


async def _told(request: Request, error: Exception) -> Response:
    return problem_of(error).answer()


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _bound_name(host: str) -> tuple[str, ...]:
    """The name under which a server that is bound to one address is reached; none for all addresses."""
    try:
        address = ip_address(host)
    except ValueError:
        return (host,)
    if address.is_unspecified:
        return ()
    return (f"[{host}]",) if address.version == 6 else (host,)


def _version() -> str:
    try:
        return version("kircerta")
    except PackageNotFoundError:
        return "0"


def _operations(desk: Desk, tasks: TaskRoutes, health: HealthRoutes) -> list[Operation]:
    """Every route of the API, in the order of its description."""
    decisions, agents, log, blobs = DecisionRoutes(desk), AgentRoutes(desk), AuditRoutes(desk), BlobRoutes(desk)
    return [
        Operation(
            "GET",
            "/api/tasks",
            tasks.list,
            "list_tasks",
            "All tasks, a page at a time",
            description="Ordered by `created_at`, then `task_id`.",
            role="viewer",
            parameters=openapi.LIST_PARAMETERS,
            answer=openapi.LIST_ANSWER,
            problems=openapi.QUERY_PROBLEMS,
            tagged=True,
        ),
        Operation(
            "GET",
            "/api/tasks/{task_id}",
            tasks.detail,
            "show_task",
            "One task, with everything that happened to it",
            role="viewer",
            parameters=openapi.TASK_PARAMETERS,
            answer=openapi.TASK_ANSWER,
            problems=(*openapi.READ_PROBLEMS, "not_found"),
            tagged=True,
        ),
        openapi.move(
            decisions.approve,
            "approve",
            "Approve the attempt at the gate",
            ApproveBody,
            examples.APPROVE,
            (*DECIDED, "stale_review", "unwitnessed", *openapi.APPROVED_UNDER_A_POLICY),
            tag="decisions",
            body_required=False,
            description="With `review_digest` the approval is for exactly what was looked at. Where the task's project "
            "asks for several approvals, each is answered with the document; the last one decides.",
        ),
        openapi.move(
            decisions.reject,
            "reject",
            "Reject the attempt, or decline the task",
            RejectBody,
            examples.REJECT,
            (*DECIDED, "four_eyes", "stale_review", "reason_required", "invalid_issues", "too_large"),
            tag="decisions",
            description="The issues go with the next dispatch, verbatim.",
        ),
        openapi.move(
            decisions.unlock,
            "unlock",
            "Let a locked task be dispatched again",
            UnlockBody,
            examples.UNLOCK,
            (*DECIDED, "reason_required"),
            tag="decisions",
        ),
        openapi.move(
            agents.ack,
            "ack",
            "Repeat the dispatch to show that it was understood",
            AckBody,
            examples.ACK,
            (*FROM_AGENT, "ack_mismatch", "not_the_executor"),
            tag="agents",
            description="The first valid ACK makes its sender the attempt's executor.",
        ),
        openapi.move(
            agents.heartbeat,
            "heartbeat",
            "Say that the work goes on",
            HeartbeatBody,
            examples.HEARTBEAT,
            (*FROM_AGENT, "invalid_body", "not_the_executor"),
            tag="agents",
            description="At most one in 5 s is logged.",
        ),
        openapi.move(
            agents.result,
            "result",
            "Deliver the work",
            ResultBody,
            examples.RESULT,
            (*FROM_AGENT, "result_refused", "scope_violation", "not_the_executor"),
            tag="agents",
        ),
        openapi.move(
            agents.verdict,
            "verdict",
            "Say what the review found",
            VerdictBody,
            examples.VERDICT,
            (*FROM_AGENT, "verdict_refused", "self_review", "not_the_reviewer"),
            tag="agents",
        ),
        Operation(
            "GET",
            "/api/audit",
            log.events,
            "audit",
            "The log, a page at a time",
            description="Go on with `after=next_after` until it is null; with filters a page may be empty before that.",
            tag="log",
            role="viewer",
            parameters=openapi.AUDIT_PARAMETERS,
            answer=openapi.AUDIT_ANSWER,
            problems=openapi.QUERY_PROBLEMS,
        ),
        Operation(
            "GET",
            "/api/blobs/{sha256}",
            blobs.blob,
            "blob",
            "A long text by its digest",
            tag="log",
            role="viewer",
            parameters=openapi.BLOB_PARAMETERS,
            answer={"type": "string"},
            media_type="text/plain",
            problems=(*openapi.READ_PROBLEMS, "not_found"),
            tagged=True,
        ),
        Operation(
            "GET",
            "/healthz",
            health.alive,
            "healthz",
            "Alive, and recovery is done",
            tag="health",
            answer={"type": "object"},
            problems=("misdirected", "starting"),
        ),
        Operation(
            "GET",
            "/readyz",
            health.ready,
            "readyz",
            "Ready, with each dependency's state",
            description="A missing Prefect is reported, not fatal. 503 has the same body.",
            tag="health",
            role="viewer",
            answer={"type": "object"},
            problems=openapi.READ_PROBLEMS,
        ),
        Operation(
            "GET",
            "/metrics",
            health.metrics,
            "metrics",
            "Numbers for Prometheus",
            tag="health",
            role="viewer",
            answer={"type": "string"},
            media_type="text/plain",
            problems=openapi.READ_PROBLEMS,
        ),
    ]


def _add_pages(app: FastAPI, desk: Desk) -> None:
    pages, reports = PageRoutes(), ReportRoutes(desk)
    document = openapi.document_of(app)
    app.openapi = document  # type: ignore[method-assign]
    ready: list[Tagged] = []

    async def description(request: Request) -> Response:
        if not ready:
            ready.append(Tagged(orjson.dumps(document())))
        return ready[0].answer(head_of(request.scope).if_none_match)

    app.add_route("/openapi.json", description, methods=["GET"], include_in_schema=False)
    app.add_route("/", pages.home, methods=["GET"], include_in_schema=False)
    app.add_route("/docs", pages.docs, methods=["GET"], include_in_schema=False)
    app.add_route("/static/{name}", pages.static, methods=["GET"], include_in_schema=False)
    app.add_route("/reports/", reports.list, methods=["GET"], include_in_schema=False)
    app.add_route("/reports/{path:path}", reports.file, methods=["GET"], include_in_schema=False)
