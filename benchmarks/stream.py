"""The event stream: deliveries against a bare asyncio loop, a thousand clients, append to arrival, idle cost.

Every part is a process of its own on the same cores: the server (or the bare loop), the writer, the clients.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from benchmarks import Row, at_least, for_information, places

_MARK: Final = b"\ndata: {"
_ID: Final = re.compile(rb"(?:^|\n)id: (\d+)\.")
_TICK: Final = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
PADDING: Final = "x" * 320
"""Makes an event about as long as a typical one (700 bytes)."""


def run(quick: bool) -> list[Row]:
    """The four promises of the stream: some four minutes; quick: one, with fewer clients and shorter windows."""
    crowd = 200 if quick else 500
    thousand = 300 if quick else 1_000
    seconds = 3.0 if quick else 8.0
    return [
        *deliveries(crowd, seconds),
        *steady(thousand, rate=10, seconds=seconds * 2),
        *append_to_arrival(rate=300, seconds=seconds * 2 if quick else 100),
        *idle(thousand, seconds),
    ]


def within(name: str, value: float, unit: str, limit: float) -> Row:
    """A figure that stands alone, against an absolute target."""
    return Row(name, value, unit, "", None, f"<= {limit:g} {unit}".strip(), value <= limit)


# ------------------------------------------------------------------------------------------- the promises


def deliveries(clients: int, seconds: float) -> list[Row]:
    """Offered more than the bare loop can deliver: deliveries a second. Then unhurried: CPU for each delivery.

    Under pressure the stream sends what is ready at once, the bare loop each event by itself; the second figure
    shows what a delivery costs where there is nothing to put together.
    """
    offered = 400_000 / clients
    paced = 20_000 / clients
    with bare_loop() as bare:
        bare_full = bare.deliveries(clients, offered, seconds)
        bare_paced = bare.deliveries(clients, paced, seconds)
    with api() as ours:
        our_full = ours.deliveries(clients, offered, seconds)
        our_paced = ours.deliveries(clients, paced, seconds)
    ratio = our_full.per_second / bare_full.per_second
    against = f"bare asyncio loop, transport.write: {bare_full.per_second:,.0f} 1/s"
    bare_cpu = f"bare asyncio loop: {bare_paced.cpu_us:.1f} µs"
    return [
        at_least(f"deliveries, {clients} clients, {offered:,.0f} events/s offered", our_full.per_second, "1/s", against,
                 ratio, 0.6),
        for_information(f"CPU for a delivery, {clients} clients, {paced:,.0f} events/s", our_paced.cpu_us, "µs",
                        bare_cpu, our_paced.cpu_us / bare_paced.cpu_us),
    ]  # fmt: skip


def steady(clients: int, *, rate: float, seconds: float) -> list[Row]:
    """Many clients at a steady rate, from the durable append in one process to each arrival in another."""
    with api() as ours:
        seen = ours.deliveries(clients, rate, seconds, timed=True)
    name = f"{clients:,} clients, {rate:g} events/s"
    return [
        within(f"{name}: append to arrival, p99 of {seen.count:,}", seen.p99_ms, "ms", 100),
        within(f"{name}: missing or repeated", abs(seen.expected - seen.count) + seen.breaks, "", 0),
        for_information(f"{name}: CPU of the clients' process, on the same cores", seen.client_cpu * 100, "%"),
        for_information(f"{name}: CPU of the server", seen.server_cpu * 100, "%"),
    ]


def append_to_arrival(*, rate: float, seconds: float) -> list[Row]:
    """One client: from the return of the durable append in one process to the bytes from another.

    Three runs, the middle one counts. Below zero: the bytes were there before the append had returned.
    """
    with api() as ours:
        runs = [ours.deliveries(1, rate, seconds / 3, timed=True) for _ in range(3)]
    seen = sorted(runs, key=lambda one: one.p99_ms)[1]
    few = "" if seen.count >= 10_000 else " (few for a p99)"
    return [
        within(f"append returned to bytes, another process, p99 of {seen.count:,}{few}", seen.p99_ms, "ms", 20),
        for_information("append returned to bytes, another process, median (negative: before)", seen.p50_ms, "ms"),
        for_information(
            "append returned to bytes, another process, p99 of the worst run", max(one.p99_ms for one in runs), "ms"
        ),
    ]


def idle(clients: int, seconds: float) -> list[Row]:
    """What streams cost on which nothing happens."""
    with api() as ours:
        none = ours.idle_cpu(0, seconds)
        many = ours.idle_cpu(clients, seconds)
    return [
        within(f"CPU of {clients:,} idle streams, beyond that of none", max(0.0, many - none) * 100, "%", 2),
        for_information("CPU of the server without a stream", none * 100, "%"),
    ]


# ------------------------------------------------------------------------------------------ the processes


@dataclass(frozen=True, slots=True)
class Seen:
    """What the clients' process saw in one run."""

    count: int
    expected: int
    seconds: float
    breaks: int
    server_cpu: float
    client_cpu: float
    p50_ms: float = 0.0
    p99_ms: float = 0.0

    @property
    def per_second(self) -> float:
        return self.count / self.seconds

    @property
    def cpu_us(self) -> float:
        return self.server_cpu * self.seconds / self.count * 1e6 if self.count else 0.0


class Served:
    """A server under test, its workspace, and how to offer it events."""

    def __init__(self, process: subprocess.Popen[str], port: int, home: Path | None) -> None:
        self.process = process
        self.port = port
        self.home = home

    def deliveries(self, clients: int, rate: float, seconds: float, *, timed: bool = False) -> Seen:
        events = round(rate * seconds)
        with part("clients", str(self.port), str(clients), str(events), "timed" if timed else "counted") as readers:
            assert readers.stdout is not None
            readers.stdout.readline()  # all are connected
            before = cpu_of(self.process.pid)
            written = self._offer(events, rate)
            told = json.loads(readers.stdout.readline())
            used = cpu_of(self.process.pid) - before
        times = _latencies(told["arrivals"], written) if timed else (0.0, 0.0)
        return Seen(
            count=told["count"],
            expected=clients * events,
            seconds=told["seconds"],
            breaks=told["breaks"],
            server_cpu=used / told["seconds"],
            client_cpu=told["cpu"] / told["seconds"],
            p50_ms=times[0],
            p99_ms=times[1],
        )

    def _offer(self, events: int, rate: float) -> dict[str, float]:
        """Have the events written (or made, by the bare loop); when each was durable, by its seq."""
        if self.home is None:
            assert self.process.stdin is not None
            assert self.process.stdout is not None
            self.process.stdin.write(f"{events} {rate}\n")
            self.process.stdin.flush()
            return {}
        with part("writer", str(self.home), str(events), str(rate)) as writer:
            assert writer.stdout is not None
            found: dict[str, float] = json.loads(writer.stdout.readline())
            return found

    def idle_cpu(self, clients: int, seconds: float) -> float:
        with part("clients", str(self.port), str(clients), "-1", "counted") as readers:
            assert readers.stdout is not None
            readers.stdout.readline()
            time.sleep(1)
            before = cpu_of(self.process.pid)
            time.sleep(seconds)
            return (cpu_of(self.process.pid) - before) / seconds


def _latencies(arrivals: dict[str, list[float]], written: dict[str, float]) -> tuple[float, float]:
    delays = sorted(at - written[seq] for seq, times in arrivals.items() if seq in written for at in times)
    if not delays:
        return 0.0, 0.0
    return delays[len(delays) // 2] * 1000, delays[int(len(delays) * 0.99)] * 1000


def cpu_of(pid: int) -> float:
    """CPU seconds that a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


@contextlib.contextmanager
def part(role: str, *given: str) -> Iterator[subprocess.Popen[str]]:
    """One of the processes below."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.stream", role, *given],
        cwd=places.CHECKOUT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=20)


@contextlib.contextmanager
def api() -> Iterator[Served]:
    """kircerta's API over a fresh workspace."""
    with places.folder("stream") as home, free_port() as port, part("api", str(home), str(port)) as process:
        _await_listening(port)
        yield Served(process, port, home)


@contextlib.contextmanager
def bare_loop() -> Iterator[Served]:
    with free_port() as port, part("bare", str(port)) as process:
        _await_listening(port)
        yield Served(process, port, None)


@contextlib.contextmanager
def free_port() -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    yield port


def _await_listening(port: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise TimeoutError(f"nothing listens on port {port}")


# ------------------------------------------------------------------------------------- what the parts do


def serve_api(home: str, port: str) -> int:
    from api.server import serve
    from ssot.settings import load

    return serve(load(home=Path(home)), port=int(port))


def write_events(home: str, events: str, rate: str) -> int:
    """Append events at a fixed rate, each durable before the next; tell when each was (monotonic seconds)."""
    from audit.event import Draft
    from ssot.store import Store

    store = Store.open(Path(home), source="kircerta/bench", scan=False)
    written = {}
    begun = time.monotonic()
    for number in range(int(events)):
        due = begun + number / float(rate)
        time.sleep(max(0.0, due - time.monotonic()))
        event = store.note(Draft("alert", "bench", {"number": number, "text": PADDING}))
        written[event.seq] = time.monotonic()
    sys.stdout.write(json.dumps(written) + "\n")
    return 0


def serve_bare(port: str) -> int:
    """The bare loop: the same frames, made beforehand, each written to each socket with `transport.write`."""
    import uvloop

    uvloop.run(_serve_bare(int(port)))
    return 0


async def _serve_bare(port: int) -> None:
    transports: list[asyncio.Transport] = []

    class Bare(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport: Any = transport

        def data_received(self, data: bytes) -> None:
            self.transport.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
            )
            transports.append(self.transport)

        def connection_lost(self, exc: Exception | None) -> None:
            if self.transport in transports:
                transports.remove(self.transport)

    loop = asyncio.get_running_loop()
    server = await loop.create_server(Bare, "127.0.0.1", port, backlog=2048)
    orders = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    async with server:
        while line := await orders.readline():
            events, rate = line.split()
            await _write_all(transports, int(events), float(rate))


async def _write_all(transports: Sequence[asyncio.Transport], events: int, rate: float) -> None:
    chunks = [_bare_chunk(number) for number in range(1, events + 1)]
    begun = time.monotonic()
    for number, chunk in enumerate(chunks):
        await asyncio.sleep(max(0.0, begun + number / rate - time.monotonic()))
        for transport in transports:
            transport.write(chunk)
        while any(transport.get_write_buffer_size() > 64 * 1024 for transport in transports):  # noqa: ASYNC110
            await asyncio.sleep(0.0005)


def _bare_chunk(number: int) -> bytes:
    line = json.dumps(
        {
            "specversion": "1.0",
            "id": "e-6b00a3a4d42d4de58318ec65",
            "source": "kircerta/bench",
            "type": "alert",
            "time": "2026-01-31T09:00:00.000000Z",
            "datacontenttype": "application/json",
            "data": {"number": number, "text": PADDING},
            "seq": number,
            "prev": "sha256:" + "0" * 64,
            "actor": "bench",
        },
        separators=(",", ":"),
    )
    frame = f"id: {number}.00000000\ndata: {line}\n\n".encode()
    return b"%x\r\n%b\r\n" % (len(frame), frame)


class Reader(asyncio.Protocol):
    """One client: counts frames, or notes when each arrived and whether it is the one behind the last."""

    def __init__(self, crowd: Crowd) -> None:
        self.crowd = crowd
        self.tail = b""
        self.last = 0

    def connection_made(self, transport: Any) -> None:  # uvloop's are not asyncio's own classes
        self.crowd.transports.append(transport)
        transport.write(b"GET /api/events HTTP/1.1\r\nhost: localhost\r\n\r\n")

    def data_received(self, data: bytes) -> None:
        if not self.last and not self.tail:
            self.crowd.answered += 1
        if self.crowd.timed:
            self._note(self.tail + data)
        else:
            self._count(self.tail + data)

    def _count(self, data: bytes) -> None:
        self.crowd.take(data.count(_MARK))
        self.tail = data[-len(_MARK) + 1 :]

    def _note(self, data: bytes) -> None:
        """Whole lines only: what stands behind the last newline waits for the rest."""
        whole, _, self.tail = data.rpartition(b"\n")
        now = time.monotonic()
        found = 0
        for match in _ID.finditer(whole):
            seq = int(match[1])
            if self.last and seq != self.last + 1:
                self.crowd.breaks += 1
            self.last = seq
            self.crowd.arrivals.setdefault(seq, []).append(now)
            found += 1
        self.tail = self.tail or b"\n"
        self.crowd.take(found)


class Crowd:
    """All clients of the clients' process."""

    def __init__(self, expected: int, *, timed: bool) -> None:
        self.timed = timed
        self.expected = expected
        self.transports: list[asyncio.Transport] = []
        self.answered = 0
        self.count = 0
        self.breaks = 0
        self.arrivals: dict[int, list[float]] = {}
        self.first = 0.0
        self.last = 0.0
        self.done = asyncio.Event()

    def take(self, found: int) -> None:
        if not found:
            return
        self.last = time.monotonic()
        self.first = self.first or self.last
        self.count += found
        if self.count >= self.expected:
            self.done.set()


def read_streams(port: str, clients: str, events: str, how: str) -> int:
    import uvloop

    return uvloop.run(_read_streams(int(port), int(clients), int(events), timed=how == "timed"))


async def _read_streams(port: int, clients: int, events: int, *, timed: bool) -> int:
    loop = asyncio.get_running_loop()
    crowd = Crowd(clients * events, timed=timed)
    for _ in range(clients):
        await loop.create_connection(lambda: Reader(crowd), "127.0.0.1", port)
    async with asyncio.timeout(60):
        while crowd.answered < clients:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.5)
    before = time.process_time()
    _say({"connected": clients})
    if events < 0:
        await asyncio.sleep(3600)
    with contextlib.suppress(TimeoutError):
        await _all_or_silence(crowd)
    _say(
        {
            "count": crowd.count,
            "seconds": max(crowd.last - crowd.first, 1e-6),
            "breaks": crowd.breaks,
            "cpu": time.process_time() - before,
            "arrivals": crowd.arrivals,
        }
    )
    for transport in crowd.transports:
        transport.abort()
    return 0


async def _all_or_silence(crowd: Crowd) -> None:
    """Until everything arrived, or nothing more for 5 s."""
    begun = time.monotonic()
    while not crowd.done.is_set():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(crowd.done.wait(), 1)
        if time.monotonic() - max(crowd.last, begun) > 5:
            return


def _say(what: dict[str, Any], out: IO[str] = sys.stdout) -> None:
    out.write(json.dumps(what) + "\n")
    out.flush()


_PARTS: Final[dict[str, Callable[..., int]]] = {
    "api": serve_api,
    "bare": serve_bare,
    "writer": write_events,
    "clients": read_streams,
}

if __name__ == "__main__":
    sys.exit(_PARTS[sys.argv[1]](*sys.argv[2:]))
