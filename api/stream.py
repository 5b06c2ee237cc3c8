"""`GET /api/events`: the log as it grows, as server-sent events. Reads only; nobody is waited for.

A plain ASGI application: a stream is one task that sleeps until its follower wakes it, and sends bytes that were
made once for all. It knows its connection's transport where `Connection` serves it, and can then let go of a
client that does not read: closing alone would wait for that client for ever.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, TypeVar

import orjson
import uvicorn
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from api.answers import DATA_POLICY, SAFE
from api.auth import LEEWAY_S, Principal
from api.connection import TRANSPORT
from api.follower import EVERYTHING, Batch, Behind, Filter, Follower, Position, Replay, Subscription, locate
from api.openapi import QUERY_PROBLEMS, Operation
from api.parameters import query_parameters, unusable, whole_number
from api.problems import Problem, problem_of
from audit.event import Corrupt
from audit.reader import Rewound
from ssot.task import TASK_ID

T = TypeVar("T")
PATH: Final = "/api/events"
RETRY_MS: Final = 2_000
OVERLOAD_RETRY_MS: Final = 30_000
SWEEP_S: Final = 0.25
LEAVE_S: Final = 1.0
"""Seconds that an ending stream gets for its last bytes."""
_CURSOR: Final = re.compile(r"[0-9]{1,16}\.[0-9a-f]{8}")
_TYPE: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")
_MAX_SEQ: Final = 2**53
_COMMENT: Final = b": still here\n\n"
_FEW_BYTES: Final = 16 * 1024
_HEADERS: Final = [
    (b"content-type", b"text/event-stream"),
    (b"transfer-encoding", b"chunked"),  # as `_spread` writes it
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
    (b"connection", b"close"),  # where a stream ends, its connection does
    *SAFE,
    DATA_POLICY,
]
_ABOUT: Final = (
    "Each message's `data` is a line of the log as it stands in the file; its `id` is `<seq>.<8 hex>`, the first "
    "digits of the line's sha256. `Last-Event-ID` resumes behind an id with nothing missing and nothing twice; an id "
    "that the log does not know (any more) gets one `event: reset` and then what comes. Without an id, and without "
    "`after`, the stream starts now. It ends with its token; who does not read is cut off, and resumes."
)
_TEXT: Final = {"type": "string"}
_PARAMETERS: Final = (
    {"name": "Last-Event-ID", "in": "header", "schema": _TEXT, "description": "The id that was seen last."},
    {"name": "last_event_id", "in": "query", "schema": _TEXT, "description": "The same; the header comes first."},
    {
        "name": "after",
        "in": "query",
        "schema": {"type": "integer", "minimum": 0},
        "description": "Replay from behind this seq; 0 is the log's beginning. An id comes first.",
    },
    {"name": "subject", "in": "query", "schema": _TEXT, "description": "Only these tasks' events, comma-separated."},
    {"name": "type", "in": "query", "schema": _TEXT, "description": "Only these types, comma-separated."},
)
_LOG: Final = logging.getLogger("kircerta.stream")

Reader = Callable[[Request], Principal | None]
"""Lets a read pass, or raises Problem."""


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """What streams may cost. Seconds, bytes, numbers.

    A client is cut off when one send does not get through for `send_s`, or for `lag_s` while more than
    `lag_events` wait behind it. It resumes by its id.
    """

    streams: int = 2_000
    comment_s: float = 10.0
    send_s: float = 10.0
    lag_events: int = 1_000
    lag_s: float = 2.0
    send_buffer: int = 128 * 1024
    replay_threads: int = 2


class StreamServer(uvicorn.Server):
    """uvicorn, ending the streams before it waits for open answers to end: a stream never would by itself."""

    def __init__(self, config: uvicorn.Config, streams: EventStream) -> None:
        super().__init__(config)
        self._streams = streams

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._streams.end_all()
        await super().shutdown(sockets)


@dataclass(frozen=True, slots=True)
class Route:
    """What refusals are counted under."""

    path: str


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request wants: from now on, behind an id, or behind a seq; and which events."""

    wanted: Filter
    last_id: str | None = None
    after: int | None = None


@dataclass(slots=True)
class StreamCounts:
    """What this process's streams have seen so far."""

    opened: int = 0
    cut_off: int = 0
    turned_away: int = 0
    resets: int = 0
    sends: int = 0


class Client:
    """One open stream."""

    __slots__ = ("_task", "comment_due", "commented_at", "expires_at", "gone", "leaving_since", "over", "replay",
                 "sending_since", "subscription", "transport")  # fmt: skip

    def __init__(
        self, subscription: Subscription, expires_at: float | None, transport: asyncio.Transport | None, now: float
    ) -> None:
        self.subscription = subscription
        self.expires_at = expires_at
        self.replay: Replay | None = None
        self.over: str | None = None
        self.gone = False
        self.comment_due = False
        self.sending_since: float | None = None
        self.leaving_since: float | None = None
        self.commented_at = now
        self.transport = transport
        self._task = asyncio.current_task()

    def end(self, why: str) -> None:
        """Let the stream end in good order, with `why` as its last comment."""
        if self.over is None:
            self.over = why
            self.leaving_since = asyncio.get_running_loop().time()
        self.subscription.wake()

    def leave(self) -> None:
        """The client went away."""
        self.gone = True
        self.end("")

    def cut(self) -> None:
        """Let go of the connection with everything that waits in it."""
        self.leave()
        if self.transport is not None:
            self.transport.abort()  # the send under way returns with the connection lost
        elif self._task is not None:
            self._task.cancel()

    def takes(self, wire: bytes, before: Position) -> bool:
        """Write what follows a position, where this client stands right there and has next to nothing waiting."""
        subscription, transport = self.subscription, self.transport
        if (
            transport is None
            or transport.is_closing()  # the loop may hear of it later than this is called
            or subscription.position is not before
            or subscription.wanted is not EVERYTHING
            or not subscription.is_waiting
            or self.over is not None
            or transport.get_write_buffer_size() >= _FEW_BYTES
        ):
            return False
        transport.write(wire)
        return True

    def cap_send_buffer(self, size: int) -> None:
        """Keep the kernel from taking in megabytes for a client that does not read."""
        if self.transport is not None and (connection := self.transport.get_extra_info("socket")) is not None:
            with suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size // 2)  # Linux doubles it


class EventStream:
    """The streams of one process.

    Args:
        reader: the gate for reads, asked before a stream begins.
    """

    def __init__(self, reader: Reader, limits: StreamLimits | None = None) -> None:
        self.limits = limits or StreamLimits()
        self.counts = StreamCounts()
        self._reader = reader
        self._follower: Follower | None = None
        self._clients: set[Client] = set()
        self._closing = False
        self._sweeping: asyncio.Task[None] | None = None
        self._files = ThreadPoolExecutor(self.limits.replay_threads, thread_name_prefix="kircerta-replay")

    def _spread(self, before: Position) -> None:
        """The ring has grown behind `before`. Who has everything up to there gets the news at once.

        The same bytes into every transport, without waking a task for each: a third of the cost. Everybody else,
        and whoever has bytes waiting already, goes the way of its task, which can wait.
        """
        assert self._follower is not None
        ring = self._follower.ring
        batch = ring.after(before, EVERYTHING) if ring.position_at(before.seq) is before else None
        if batch is None:  # so much came at once that the ring begins later by now
            self._follower.wake_all()
            return
        wire = b"%x\r\n%b\r\n" % (len(batch.data), batch.data)
        for client in self._clients:
            if client.takes(wire, before):
                client.subscription.position = batch.end
                self.counts.sends += 1
            if client.subscription.position is not ring.end:
                client.subscription.wake()

    @property
    def open_streams(self) -> int:
        return len(self._clients)

    @property
    def problem(self) -> str | None:
        """Why there is no stream at present."""
        return self._follower.problem if self._follower is not None else "starting"

    async def start(self, follower: Follower) -> None:
        """Begin with a follower that was started; `stop` ends both."""
        self._follower = follower
        follower.spread = self._spread
        self._sweeping = asyncio.create_task(self._sweep())

    def end_all(self) -> None:
        """The server is about to stop: end every stream in good order, take on no new one. On the event loop."""
        self._closing = True
        for client in self._clients:
            client.end("the server stops")

    async def stop(self) -> None:
        self.end_all()
        if self._sweeping is not None:
            self._sweeping.cancel()
        for client in list(self._clients):
            client.cut()
        if self._follower is not None:
            await self._follower.stop()
        self._files.shutdown(wait=False, cancel_futures=True)

    # ---------------------------------------------------------------------------------------- one request

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.answer(scope, receive, send)

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> int:
        """Answer one request to its end, and give the status. A refusal is a problem, never an empty stream."""
        scope["route"] = Route(PATH)
        try:
            follower, principal, asked = self._admit(scope, receive)
            await self._stream(follower, principal, asked, scope, receive, send)
            return 200
        except (Problem, Corrupt) as error:
            answer = problem_of(error).answer()
            await answer(scope, receive, send)
            return answer.status_code

    def _admit(self, scope: Scope, receive: Receive) -> tuple[Follower, Principal | None, Asked]:
        """Judge a request. Raises Problem."""
        if scope["method"] != "GET":
            raise Problem("method_not_allowed", "possible here: GET", headers={"Allow": "GET"})
        request = Request(scope, receive)
        principal = self._reader(request)
        asked = asked_by(request)
        follower = self._follower
        if follower is None:
            raise Problem("starting", "the log is being read: try again in a moment", headers={"Retry-After": "1"})
        if follower.problem is not None:
            raise Problem("log_corrupt", follower.problem)
        return follower, principal, asked

    async def _stream(
        self,
        follower: Follower,
        principal: Principal | None,
        asked: Asked,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        if self._closing or len(self._clients) >= self.limits.streams:
            self.counts.turned_away += 1
            await _turn_away(RETRY_MS if self._closing else OVERLOAD_RETRY_MS, send)
            return
        loop = asyncio.get_running_loop()
        with follower.subscribed(asked.wanted) as subscription:
            client = Client(subscription, _end_of(principal), scope.get(TRANSPORT), loop.time())
            self._clients.add(client)
            self.counts.opened += 1
            try:
                client.cap_send_buffer(self.limits.send_buffer)
                await self._place(follower, subscription, asked)
                await self._serve(follower, client, receive, send)
            except asyncio.CancelledError:
                if not client.gone:
                    raise
            except OSError:  # how some servers say that the client went away
                client.leave()
            finally:
                self._clients.discard(client)
                if client.replay is not None:
                    client.replay.close()

    async def _place(self, follower: Follower, subscription: Subscription, asked: Asked) -> None:
        """Put a subscription where its client left off. An id that the log does not know is a reset."""
        if asked.last_id is None and asked.after is None:
            return
        found, cursor = None, asked.last_id
        if cursor is None or _CURSOR.fullmatch(cursor):
            seq = int(cursor.partition(".")[0]) if cursor is not None else asked.after or 0
            found = await self._located(follower, seq, cursor)
        if subscription.reset_because is not None:  # the log was replaced meanwhile
            return
        if found is None:
            subscription.position = follower.ring.end
            subscription.reset_because = "unknown_id" if cursor is not None else "ahead"
        else:
            subscription.position = found

    async def _located(self, follower: Follower, seq: int, cursor: str | None) -> Position | None:
        found = follower.ring.position_at(seq)
        if found is not None:
            return found if cursor in (None, found.cursor) else None
        try:
            return await self._in_thread(lambda: locate(follower.folder, seq, cursor))
        except (Rewound, OSError):
            return None

    async def _serve(self, follower: Follower, client: Client, receive: Receive, send: Send) -> None:
        listening = asyncio.create_task(_listen(client, receive))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            chunk: bytes | None = b"retry: %d\n\n: kircerta\n\n" % RETRY_MS
            while client.over is None:
                if chunk:
                    await self._send(client, chunk, send)
                elif chunk is None:
                    await client.subscription.woken()
                chunk = await self._next(follower, client)
            if not client.gone:
                await self._send(client, b": %b\n\n" % (client.over or "").encode(), send)
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            listening.cancel()

    async def _send(self, client: Client, chunk: bytes, send: Send) -> None:
        clock = asyncio.get_running_loop().time
        client.sending_since = clock()
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
        client.sending_since = None
        if client.comment_due and chunk.endswith(_COMMENT):
            client.comment_due = False
            client.commented_at = clock()
        self.counts.sends += 1

    async def _next(self, follower: Follower, client: Client) -> bytes | None:
        """What goes out now: bytes; none, to be asked again (``b""``); or nothing before the next wake (None)."""
        subscription = client.subscription
        if client.over is None and follower.problem is not None:
            client.end("the log cannot be followed")
        if client.over is not None:
            return None
        try:
            batch = follower.next_for(subscription)
        except Behind:
            batch = await self._from_files(follower, client)
        else:
            self._leave_files(client)
        if subscription.reset_because is not None:
            return self._reset(client)
        if batch is not None:
            subscription.position = batch.end
            if batch.data:  # a comment comes in time on a busy stream, too
                return batch.data + _COMMENT if client.comment_due else batch.data
        if client.comment_due:
            return _COMMENT
        return None if batch is None else b""

    def _reset(self, client: Client) -> bytes:
        """One event that says: what you have is not what the log says; here is where you are now."""
        self._leave_files(client)
        subscription = client.subscription
        reason, subscription.reset_because = subscription.reset_because, None
        cursor = subscription.position.cursor
        self.counts.resets += 1
        data = orjson.dumps({"reason": reason, "seq": subscription.position.seq, "cursor": cursor or None})
        return b"event: reset\nid: %b\ndata: %b\n\n" % (cursor.encode(), data)

    async def _from_files(self, follower: Follower, client: Client) -> Batch | None:
        """The next batch of a past that is no longer in memory."""
        subscription = client.subscription
        if client.replay is None:
            client.replay = Replay(follower.folder, subscription.position, subscription.wanted)
        try:
            batch = await self._in_thread(client.replay.next)
        except Rewound:
            subscription.position, subscription.reset_because = follower.ring.end, "rewound"
            return None
        except (Corrupt, OSError) as error:
            _LOG.error("a replay stopped behind seq %d: %s", subscription.position.seq, error)
            client.end("the log cannot be read")
            return None
        if batch.end == subscription.position:  # the files are behind the ring: the follower will say why
            await asyncio.sleep(SWEEP_S)
        return batch

    @staticmethod
    def _leave_files(client: Client) -> None:
        if client.replay is not None:
            client.replay.close()
            client.replay = None

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._files, work)

    # ----------------------------------------------------------------------------------------- the sweep

    async def _sweep(self) -> None:
        """One look at all clients every `SWEEP_S`: cheaper than a timer for each."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(SWEEP_S)
            now, wall = loop.time(), time.time()
            for client in list(self._clients):
                self._look_at(client, now, wall)

    def _look_at(self, client: Client, now: float, wall: float) -> None:
        if client.expires_at is not None and wall >= client.expires_at:
            client.end("the token has expired")
        if client.sending_since is not None:
            if self._is_stuck(client, now):
                self.counts.cut_off += 1
                _LOG.info("a client that does not read was cut off at seq %d", client.subscription.position.seq)
                client.cut()
        elif now - client.commented_at >= self.limits.comment_s:
            client.comment_due = True
            client.subscription.wake()

    def _is_stuck(self, client: Client, now: float) -> bool:
        blocked_s = now - (client.sending_since or now)
        if client.leaving_since is not None and now - client.leaving_since > LEAVE_S:
            return True
        if blocked_s <= self.limits.lag_s or self._follower is None:
            return False
        waiting = self._follower.ring.lag(client.subscription.position)
        return blocked_s > self.limits.send_s or waiting > self.limits.lag_events


class _Handed(Response):
    """An answer that the stream gives by itself."""

    def __init__(self, streams: EventStream) -> None:
        super().__init__()
        self._streams = streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._streams.answer(scope, receive, send)


def operation(streams: EventStream) -> Operation:
    """The route's description. (The door hands its requests to `streams` before the framework sees them.)"""

    async def events(request: Request) -> Response:
        return _Handed(streams)

    return Operation(
        "GET",
        PATH,
        events,
        "events",
        "The log as it grows: server-sent events",
        description=_ABOUT,
        tag="log",
        role="viewer",
        parameters=_PARAMETERS,
        answer={"type": "string"},
        media_type="text/event-stream",
        problems=(*QUERY_PROBLEMS, "log_corrupt"),
    )


def asked_by(request: Request) -> Asked:
    """What a request asks for. The header comes before the query: a browser that reconnects keeps its address."""
    found = query_parameters(request.scope["query_string"], ("after", "last_event_id", "subject", "type"))
    after = whole_number(found, "after", default=-1, least=0, most=_MAX_SEQ)
    last_id = request.headers.get("last-event-id") or found.get("last_event_id") or None
    wanted = Filter(
        types=_listed(found, "type", _TYPE, "lists types of events, comma-separated"),
        subjects=_listed(found, "subject", TASK_ID, "lists task ids, comma-separated"),
    )
    if wanted.takes_all:
        wanted = EVERYTHING
    return Asked(wanted, last_id, None if after < 0 else after)


def _listed(found: dict[str, str], name: str, pattern: re.Pattern[str], reason: str) -> frozenset[str] | None:
    if name not in found:
        return None
    values = found[name].split(",")
    if not all(pattern.fullmatch(value) for value in values):
        raise unusable(name, reason)
    return frozenset(values)


def _end_of(principal: Principal | None) -> float | None:
    """When a stream ends with its token. Who comes in the token's last leeway gets what is left of it."""
    if principal is None or principal.expires_at is None:
        return None
    return principal.expires_at if time.time() < principal.expires_at else principal.expires_at + LEEWAY_S


async def _turn_away(retry_ms: int, send: Send) -> None:
    """A browser never reconnects after an error: tell it in a stream when to come back."""
    body = b"retry: %d\n\n: too many streams here: come back later\n\n" % retry_ms
    await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def _listen(client: Client, receive: Receive) -> None:
    """Hear the client go away; whatever else it sends is dropped."""
    message: Message = {"type": ""}
    while message["type"] != "http.disconnect":
        message = await receive()
    client.leave()
