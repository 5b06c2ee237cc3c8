"""Clients of the stream for tests: one over a real socket, one that calls the ASGI application in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from api.auth import Principal
from api.follower import Follower
from api.stream import EventStream, StreamLimits
from audit.event import Draft
from ssot.store import Store


@dataclass(frozen=True)
class Told:
    """One event of a stream, as a browser would hand it on."""

    id: str
    data: bytes
    event: str = "message"

    @property
    def seq(self) -> int:
        return int(self.id.partition(".")[0] or 0)


def told_in(stream: bytes) -> list[Told]:
    """The complete events in the bytes of a stream."""
    found = []
    for block in stream.split(b"\n\n")[:-1]:
        fields: dict[str, bytes] = {}
        for line in block.split(b"\n"):
            name, _, value = line.partition(b": ")
            fields[name.decode()] = value
        if "data" in fields:
            found.append(Told(fields["id"].decode(), fields["data"], fields.get("event", b"message").decode()))
    return found


def alert(store: Store, number: int = 0, subject: str | None = None) -> Any:
    """One event that changes no task."""
    return store.note(Draft("alert", "tests", {"number": number}, subject=subject))


# ---------------------------------------------------------------------------------------- in this process


@dataclass
class Line:
    """One request to the stream in this process, and what came back so far."""

    stream: EventStream
    query: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    method: str = "GET"
    on_head: Callable[[], object] = lambda: None
    stuck: bool = False
    status: int = 0
    answer_headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    chunks: list[bytes] = field(default_factory=list)
    ended: bool = False

    async def __aenter__(self) -> Line:
        self._gone = asyncio.Event()
        self._asked = False
        self._task = asyncio.create_task(self.stream.answer(self._scope(), self._receive, self._send))
        await until(lambda: self.status or self._task.done())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._gone.set()
        await asyncio.wait_for(self._task, 10)

    def _scope(self) -> dict[str, Any]:
        raw = [(name.lower().encode(), value.encode()) for name, value in self.headers.items()]
        return {
            "type": "http",
            "method": self.method,
            "path": "/api/events",
            "query_string": self.query.encode(),
            "headers": raw,
            "client": ("127.0.0.1", 50000),
            "http_version": "1.1",
        }

    async def _receive(self) -> dict[str, Any]:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.answer_headers = {name.decode(): value.decode() for name, value in message["headers"]}
            self.on_head()
            self.status = message["status"]
            return
        if self.stuck:
            await asyncio.Event().wait()
        self.chunks.append(message["body"])
        self.body += message["body"]
        self.ended = not message.get("more_body", False)

    @property
    def told(self) -> list[Told]:
        return told_in(self.body)

    async def tells(self, count: int) -> list[Told]:
        """Wait until that many events were told."""
        await until(lambda: self.body.count(b"\ndata: ") >= count or self.ended)
        assert len(self.told) >= count, self.body
        return self.told

    async def ends(self, within_s: float = 5.0) -> None:
        await until(self._task.done, within_s)


@asynccontextmanager
async def streaming(
    folder: Path,
    *,
    reader: Callable[[Any], Principal | None] = lambda request: None,
    ring_bytes: int = 1 << 20,
    **limits: Any,
) -> AsyncIterator[EventStream]:
    """The stream of one process over a log."""
    stream = EventStream(reader, StreamLimits(**limits))
    await stream.start(await Follower(folder, ring_bytes=ring_bytes).start())
    try:
        yield stream
    finally:
        await stream.stop()


async def until(holds: Callable[[], object], within_s: float = 5.0) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(within_s):
        while not holds():
            await asyncio.sleep(0.002)


# ------------------------------------------------------------------------------------- over a real socket


@dataclass
class Listener:
    """A client over HTTP that keeps what it was told and can leave at any byte."""

    port: int
    last_id: str = ""
    query: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    head: bytes = b""
    told: list[Told] = field(default_factory=list)
    comments: list[str] = field(default_factory=list)
    closed: bool = False

    async def __aenter__(self) -> Listener:
        self._in, self._out = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 20)
        lines = [f"GET /api/events{self.query} HTTP/1.1", "Host: localhost"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        if self.last_id:
            lines.append(f"Last-Event-ID: {self.last_id}")
        self._out.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        self.head = await asyncio.wait_for(self._in.readuntil(b"\r\n\r\n"), 10)
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._reading.cancel()
        self._out.close()
        await asyncio.gather(self._reading, self._out.wait_closed(), return_exceptions=True)

    def asks(self, raw: bytes) -> None:
        """Send more on the same connection."""
        self._out.write(raw)

    async def _read(self) -> None:
        """Frames are never divided between chunks, and only chunk heads end in CR LF: they are passed over."""
        fields: dict[str, bytes] = {}
        try:
            while line := await self._in.readline():
                if line.endswith(b"\r\n"):
                    continue
                name, _, value = line.rstrip(b"\n").partition(b": ")
                if line == b"\n":
                    if "data" in fields:
                        self._take(
                            Told(fields["id"].decode(), fields["data"], fields.get("event", b"message").decode())
                        )
                    fields = {}
                elif not name:
                    self.comments.append(value.decode())
                else:
                    fields[name.decode()] = value
        except OSError:
            pass
        self.closed = True

    def _take(self, told: Told) -> None:
        self.told.append(told)
        self.last_id = told.id

    async def tells(self, count: int, within_s: float = 10.0) -> list[Told]:
        await until(lambda: len(self.told) >= count or self.closed, within_s)
        assert len(self.told) >= count, (self.told, self.comments)
        return self.told
