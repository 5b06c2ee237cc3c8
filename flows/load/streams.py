"""Clients of the event stream: each follows the whole log, so that a gap or a repeat shows in the numbers alone.

Two ways to read, one to understand: aiohttp for hundreds of clients, a bare asyncio protocol for thousands.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Final, cast
from urllib.parse import urlsplit

import aiohttp

from audit.stamp import seconds_of
from flows.load.arrivals import Timeline
from flows.load.plan import PHASES, US
from flows.load.samples import CODES, NEVER, Recorder
from ssot.runs import task_prefix

RAW_FROM: Final = 501
"""From this many streams on they are read without aiohttp: a third of the CPU an event."""
_RETRY_S: Final = 2.0
_LOOK_S: Final = 0.02
_KEPT: Final = 20_000
_MAIN: Final = PHASES.index("main")
_TIME: Final = re.compile(rb'"time":"([^"]{20,35})"')
_DECIDED: Final = re.compile(rb'"type":"task_(?:approved|rejected)"')


@dataclass(slots=True)
class Sightings:
    """When each decision of this run was made, read once from its event for all clients."""

    run_id: str
    timeline: Timeline
    wall_origin_s: float
    _known: dict[int, int] = field(default_factory=dict)

    def made_at(self, seq: int, frame: bytes) -> int:
        """µs of the decision on the run's clock; -1 for an event that is none of ours."""
        known = self._known.get(seq)
        if known is None:
            known = self._known[seq] = self._read(frame)
            if len(self._known) > _KEPT:
                del self._known[next(iter(self._known))]
        return known

    def _read(self, frame: bytes) -> int:
        told = _TIME.search(frame)
        subject = f'"subject":"{task_prefix(self.run_id)}'.encode()
        if told is None or subject not in frame or not _DECIDED.search(frame):
            return NEVER
        return int((seconds_of(told[1].decode()) - self.wall_origin_s) * US)


@dataclass(slots=True)
class Follower:
    """One client: what it has seen, and what was wrong with it."""

    number: int
    last_seq: int
    sightings: Sightings
    recorder: Recorder
    cursor: str = ""
    events: int = 0
    gaps: int = 0
    repeats: int = 0
    resets: int = 0
    disconnections: int = 0
    turned_away: int = 0
    silence_us: int = 0
    is_open: bool = False
    heard_us: int = 0
    _buffer: bytes = b""

    def take(self, chunk: bytes) -> None:
        """Bytes of the stream."""
        parts = (self._buffer + chunk).split(b"\n\n")
        self._buffer = parts.pop()
        for frame in parts:
            if frame.startswith(b"id: "):
                self._event(frame)
            elif frame.startswith(b"event: reset"):
                self.resets += 1
                self.cursor = ""

    def _event(self, frame: bytes) -> None:
        cursor = frame[4 : frame.index(b"\n")].decode()
        seq = int(cursor.partition(".")[0])
        now = self.sightings.timeline.now()
        if seq <= self.last_seq:
            self.repeats += 1
            return
        self.gaps += seq - self.last_seq - 1
        self.last_seq, self.cursor = seq, cursor
        self.events += 1
        self.hear(now)
        made = self.sightings.made_at(seq, frame)
        if self.sightings.timeline.begin_us <= made < self.sightings.timeline.end_us:
            self.recorder.add(CODES["stream"], _MAIN, self.number, made, made, max(now, made), 200, seq=seq)

    def hear(self, now: int) -> None:
        """Something came, or the run ends: how long was it silent, inside the run?"""
        timeline = self.sightings.timeline
        since = max(self.heard_us, timeline.begin_us)
        self.silence_us = max(self.silence_us, min(now, timeline.end_us) - since)
        self.heard_us = now

    def lost(self) -> None:
        """The connection is gone; what came of a frame will be sent again."""
        self.disconnections += self.is_open
        self.is_open = False
        self._buffer = b""

    def query(self) -> str:
        """Where to go on: behind the last id, or behind the place where the run began."""
        return f"last_event_id={self.cursor}" if self.cursor else f"after={self.last_seq}"


class Streams:
    """All clients of a run."""

    def __init__(self, base_url: str, count: int, after: int, sightings: Sightings, recorder: Recorder) -> None:
        self.followers = [Follower(number, after, sightings, recorder) for number in range(count)]
        self._url = f"{base_url}/api/events"
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self, session: aiohttp.ClientSession, headers: dict[str, str], patience_s: float) -> int:
        """Connect all; gives how many are open when all are, or when the patience is over."""
        raw = len(self.followers) >= RAW_FROM
        for follower in self.followers:
            follow = self._follow_raw(follower, headers) if raw else self._follow(follower, session, headers)
            self._tasks.append(asyncio.create_task(follow))
            if len(self._tasks) % 50 == 0:
                await asyncio.sleep(0.01)  # not all of them in one moment
        await _until(lambda: self.open_count == len(self.followers), patience_s)
        return self.open_count

    @property
    def open_count(self) -> int:
        return sum(one.is_open for one in self.followers)

    async def drain(self, seq: int, patience_s: float) -> int:
        """Wait until all have seen a place of the log; gives the number of events that are missing then."""
        await _until(lambda: all(one.last_seq >= seq for one in self.followers), patience_s)
        return sum(max(0, seq - one.last_seq) for one in self.followers)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def figures(self) -> dict[str, float]:
        """What all of them saw together."""
        ours = self.followers
        return {
            "clients": len(ours),
            "events": sum(one.events for one in ours),
            "gaps": sum(one.gaps for one in ours),
            "repeats": sum(one.repeats for one in ours),
            "resets": sum(one.resets for one in ours),
            "disconnections": sum(one.disconnections for one in ours),
            "turned_away": sum(one.turned_away for one in ours),
            "silence_max_s": max((one.silence_us for one in ours), default=0) / US,
        }

    # ----------------------------------------------------------------------------------------------- reading

    async def _follow(self, follower: Follower, session: aiohttp.ClientSession, headers: dict[str, str]) -> None:
        forever = aiohttp.ClientTimeout(total=None, sock_connect=5)
        while True:
            with suppress(aiohttp.ClientError, OSError, TimeoutError):
                url = f"{self._url}?{follower.query()}"
                async with session.get(url, headers=headers, timeout=forever) as answer:
                    if answer.status == 200:
                        follower.is_open = True
                        async for chunk in answer.content.iter_any():
                            follower.take(chunk)
                    else:
                        follower.turned_away += 1
            follower.lost()
            await asyncio.sleep(_RETRY_S)

    async def _follow_raw(self, follower: Follower, headers: dict[str, str]) -> None:
        parts = urlsplit(self._url)
        loop = asyncio.get_running_loop()
        while True:
            with suppress(OSError, TimeoutError):
                request = _head(parts.netloc, f"{parts.path}?{follower.query()}", headers)
                make = partial(_Bare, follower, request)
                _, client = await loop.create_connection(make, parts.hostname or "", parts.port or 80)
                await client.over
            follower.lost()
            await asyncio.sleep(_RETRY_S)


async def _until(holds: Callable[[], bool], patience_s: float) -> None:
    """Look every few ms, for a while: what is waited for changes with every event of every client."""
    for _ in range(int(patience_s / _LOOK_S)):
        if holds():
            return
        await asyncio.sleep(_LOOK_S)


def _head(host: str, target: str, headers: dict[str, str]) -> bytes:
    lines = [f"GET {target} HTTP/1.1", f"Host: {host}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode()


class _Bare(asyncio.Protocol):
    """One stream over a bare connection: the answer's head, then chunks, each its length in hex before it."""

    def __init__(self, follower: Follower, request: bytes) -> None:
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._follower = follower
        self._request = request
        self._buffer = b""
        self._read: Callable[[], bool] = self._read_head
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while self._read():
            pass

    def _read_head(self) -> bool:
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return False
        if head[9:12] != b"200":
            self._follower.turned_away += 1
            self._close()
            return False
        self._follower.is_open = True
        self._buffer, self._read = rest, self._read_chunk
        return True

    def _read_chunk(self) -> bool:
        size, found, rest = self._buffer.partition(b"\r\n")
        if not found:
            return False
        length = int(size, 16)
        if length == 0:
            self._close()
            return False
        if len(rest) < length + 2:
            return False
        self._follower.take(rest[:length])
        self._buffer = rest[length + 2 :]
        return True

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.over.done():
            self.over.set_result(None)
