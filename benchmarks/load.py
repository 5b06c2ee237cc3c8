"""The load generator, a process of its own: `python -m benchmarks.load PLAN`, a plan as JSON; answers with JSON.

Raw asyncio on uvloop, since a comfortable client would be what is measured. Paced requests are timed from their
intended start: an answer that had to wait for a free connection shows it.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import uvloop

from benchmarks.places import CHECKOUT


@dataclass(frozen=True, slots=True)
class Plan:
    """What to send.

    Args:
        path: what to GET; empty for none.
        connections: how many to keep open for the GETs.
        rate: GETs a second; 0 keeps every connection busy all the time.
        posts: full paths to POST to, in this order, each once, with `body`.
        post_rate: POSTs a second; 0 sends them one after the other on each of `post_connections`.
    """

    port: int
    seconds: float
    path: str = ""
    connections: int = 0
    rate: float = 0.0
    posts: list[str] = field(default_factory=list)
    post_rate: float = 0.0
    post_connections: int = 0
    body: str = "{}"
    token: str = ""


@dataclass(frozen=True, slots=True)
class Times:
    """What came back: `per_second` over the time that it took, percentiles in ms from the intended start."""

    count: int
    errors: int
    per_second: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float


def carry_out(plan: Plan) -> dict[str, Times]:
    """Run a plan in a process of its own; gives the times of ``get`` and ``post``."""
    command = [sys.executable, "-m", "benchmarks.load", json.dumps(asdict(plan))]
    run = subprocess.run(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True, check=True)
    return {name: Times(**times) for name, times in json.loads(run.stdout).items()}


# ------------------------------------------------------------------------------------------- connections


class Connection(asyncio.Protocol):
    """One keep-alive connection, one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[int] | None = None
        self._head, self._left, self._status = b"", 0, 0

    @classmethod
    async def open(cls, port: int, address: str = "127.0.0.1") -> Connection:
        """A connection from one of this machine's own addresses."""
        local = (address, 0)
        _, protocol = await asyncio.get_running_loop().create_connection(cls, "127.0.0.1", port, local_addr=local)
        return protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its type

    async def ask(self, request: bytes) -> int:
        """Send a request; gives the answer's status once its body is there."""
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def data_received(self, data: bytes) -> None:
        if self._left:
            self._left -= len(data)
        else:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return
            head = self._head[:end].lower()
            self._status = int(head[9:12])
            begin = head.find(b"content-length:") + 15
            length = int(head[begin : (head + b"\r\n").find(b"\r\n", begin)])
            self._left = length - (len(self._head) - end - 4)
            self._head = b""
        if self._left <= 0 and self._answer and not self._answer.done():
            self._left = 0
            self._answer.set_result(self._status)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer and not self._answer.done():
            self._answer.set_result(0)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


# ------------------------------------------------------------------------------------------------ loops


@dataclass
class Record:
    """Response times in seconds, and how many answers were none, or not 2xx."""

    times: list[float] = field(default_factory=list)
    errors: int = 0
    begin: float = 0.0
    end: float = 0.0

    def note(self, intended: float, status: int) -> None:
        self.end = time.perf_counter()
        self.times.append(self.end - intended)
        self.errors += not 200 <= status < 300

    def sum_up(self) -> Times:
        times = sorted(self.times) or [0.0]

        def at(share: float) -> float:
            return times[min(len(times) - 1, int(len(times) * share))] * 1000

        lasted = max(self.end - self.begin, 1e-9)
        return Times(len(self.times), self.errors, len(self.times) / lasted, at(0.5), at(0.95), at(0.99), at(1))


def request_of(plan: Plan, method: str, path: str) -> bytes:
    body = plan.body if method == "POST" else ""
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{plan.port}\r\nContent-Length: {len(body)}\r\n"
    head += f"Authorization: Bearer {plan.token}\r\n" if plan.token and method == "POST" else ""
    head += "Content-Type: application/json\r\n" if method == "POST" else ""
    return f"{head}\r\n{body}".encode()


async def busy(connections: int, port: int, requests: asyncio.Queue[bytes] | bytes, seconds: float) -> Record:
    """Every connection always has one request under way, until the time or the requests are over."""
    record = Record()
    opened = [await Connection.open(port) for _ in range(connections)]
    record.begin = time.perf_counter()
    stop = record.begin + seconds

    async def one(connection: Connection) -> None:
        while (now := time.perf_counter()) < stop:
            if isinstance(requests, bytes):
                request = requests
            elif requests.empty():
                return
            else:
                request = requests.get_nowait()
            record.note(now, await connection.ask(request))

    await asyncio.gather(*(one(connection) for connection in opened))
    for connection in opened:
        connection.close()
    return record


async def paced(connections: int, port: int, requests: list[bytes], rate: float) -> Record:
    """Requests begin at fixed times, whether or not earlier ones have been answered."""
    record = Record()
    free: asyncio.Queue[Connection] = asyncio.Queue()
    for _ in range(connections):
        free.put_nowait(await Connection.open(port))
    record.begin = time.perf_counter() + 0.2

    async def one(number: int) -> None:
        intended = record.begin + number / rate
        await asyncio.sleep(intended - time.perf_counter())
        connection = await free.get()
        record.note(intended, await connection.ask(requests[number]))
        free.put_nowait(connection)

    await asyncio.gather(*(one(number) for number in range(len(requests))))
    while not free.empty():
        free.get_nowait().close()
    return record


async def run(plan: Plan) -> dict[str, Any]:
    get = request_of(plan, "GET", plan.path)
    posts = [request_of(plan, "POST", path) for path in plan.posts]
    under_way = []
    if plan.path and plan.rate:
        count = int(plan.rate * plan.seconds)
        under_way.append(("get", paced(plan.connections, plan.port, [get] * count, plan.rate)))
    elif plan.path:
        under_way.append(("get", busy(plan.connections, plan.port, get, plan.seconds)))
    if posts and plan.post_rate:
        count = int(plan.post_rate * plan.seconds)
        under_way.append(("post", paced(plan.post_connections, plan.port, posts[:count], plan.post_rate)))
    elif posts:
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        for request in posts:
            queue.put_nowait(request)
        under_way.append(("post", busy(plan.post_connections, plan.port, queue, plan.seconds)))
    records = await asyncio.gather(*(coroutine for _, coroutine in under_way))
    return {name: asdict(record.sum_up()) for (name, _), record in zip(under_way, records, strict=True)}


if __name__ == "__main__":
    print(json.dumps(uvloop.run(run(Plan(**json.loads(sys.argv[1]))))))
