"""Follows the log for all streams of one process: each new line becomes a frame once, kept in a bounded ring.

A thread reads the files; the ring and its subscriptions belong to the event loop alone. It writes nothing.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Final

from audit.event import Corrupt, Event
from audit.reader import LogReader, Place, Rewound, event_at, last_event
from audit.watch import POLL_S, Doorbell

RING_BYTES: Final = 8 * 1024 * 1024
"""How much of the newest past is kept in memory: whoever resumes within it costs no file."""
SEED_EVENTS: Final = 2_000
BATCH_BYTES: Final = 128 * 1024
"""At most so much goes out in one send (always at least one frame)."""
SLICE_EVENTS: Final = 500
_READ: Final = 1_000
_UNDER_WAY: Final = 4
_PATIENCE_S: Final = 1.0
_LOG: Final = logging.getLogger("kircerta.stream")


@dataclass(frozen=True, slots=True)
class Position:
    """A place on the stream: a seq and the cursor (`<seq>.<8 hex>`) of that very line; empty before the first."""

    seq: int = 0
    cursor: str = ""


START: Final = Position()


@dataclass(frozen=True, slots=True)
class Frame:
    """One event as every client gets it, and what filters look at."""

    at: Position
    type: str
    subject: str | None
    data: bytes


def frame_of(event: Event) -> Frame:
    """``id: <cursor>``, ``data: <the line as it stands in the file>``, and an empty line."""
    cursor = event.cursor
    # A carriage return would end the field early. JSON lines that we wrote have none.
    line = event.line.replace(b"\r", b"\ndata: ") if b"\r" in event.line else event.line
    data = b"id: %b\ndata: %b\n\n" % (cursor.encode(), line)
    return Frame(Position(event.seq, cursor), event.type, event.subject, data)


@dataclass(frozen=True, slots=True)
class Filter:
    """Which events a client wants; None: all of them."""

    types: frozenset[str] | None = None
    subjects: frozenset[str] | None = None

    @property
    def takes_all(self) -> bool:
        return self.types is None and self.subjects is None

    def takes(self, frame: Frame) -> bool:
        return (self.types is None or frame.type in self.types) and (
            self.subjects is None or frame.subject in self.subjects
        )


EVERYTHING: Final = Filter()


@dataclass(frozen=True, slots=True)
class Batch:
    """What goes out in one send (empty where the filter took nothing), and the position behind it."""

    data: bytes
    end: Position


def batch_of(frames: Sequence[Frame], wanted: Filter) -> Batch:
    """As many of the frames (at least one) as `BATCH_BYTES` allows."""
    if len(frames) == 1:
        frame = frames[0]
        return Batch(frame.data if wanted.takes(frame) else b"", frame.at)
    fitting = max(1, bisect_right(list(accumulate(len(frame.data) for frame in frames)), BATCH_BYTES))
    frames = frames[:fitting]
    return Batch(b"".join([frame.data for frame in frames if wanted.takes(frame)]), frames[-1].at)


class Ring:
    """The newest frames, without a gap, bounded by bytes. `before` is the position in front of the oldest."""

    def __init__(self, before: Position = START, limit: int = RING_BYTES) -> None:
        self.before = before
        self._limit = limit
        self._frames: list[Frame] = []
        self._size = 0
        self._ready: dict[int, Batch] = {}

    @property
    def end(self) -> Position:
        return self._frames[-1].at if self._frames else self.before

    def extend(self, frames: Sequence[Frame]) -> None:
        self._frames += frames
        self._size += sum(len(frame.data) for frame in frames)
        self._ready.clear()
        if self._size > self._limit:
            self._forget()

    def _forget(self) -> None:
        """Drop the oldest down to three quarters, so that it costs something only now and then."""
        drop = 0
        while self._size > self._limit * 3 // 4 and drop < len(self._frames) - 1:
            self._size -= len(self._frames[drop].data)
            drop += 1
        if drop:
            self.before = self._frames[drop - 1].at
            del self._frames[:drop]

    def position_at(self, seq: int) -> Position | None:
        """The position with this seq; None outside of the ring."""
        index = seq - self.before.seq
        if index == 0:
            return self.before
        return self._frames[index - 1].at if 0 < index <= len(self._frames) else None

    def after(self, position: Position, wanted: Filter) -> Batch | None:
        """What follows a position that `position_at` knows; None at its end. Clients in step get the same bytes."""
        begin = position.seq - self.before.seq
        if begin >= len(self._frames):
            return None
        if not wanted.takes_all:
            return batch_of(self._frames[begin : begin + _READ], wanted)
        ready = self._ready.get(position.seq)
        if ready is None:
            ready = self._ready[position.seq] = batch_of(self._frames[begin : begin + _READ], wanted)
        return ready

    def lag(self, position: Position) -> int:
        """How many frames stand behind a position."""
        return max(0, self.end.seq - position.seq)


class Subscription:
    """One client's place on the stream. It costs no memory of its own: what it has not got yet is in the ring.

    It exists before its client's answer begins, so that what is committed from then on reaches it.
    """

    def __init__(self, position: Position, wanted: Filter) -> None:
        self.position = position
        self.wanted = wanted
        self.reset_because: str | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether its task sleeps and was not woken yet."""
        return self._waiter is not None and not self._waiter.done()

    def wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def woken(self) -> None:
        """Wait for news, or for anything else that somebody wakes this subscription for."""
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None


class Follower:
    """Reads the log of one workspace as it grows and wakes who waits for it.

    Made once a process; `start` and everything about subscriptions belong to the event loop.
    """

    def __init__(self, folder: Path, *, ring_bytes: int = RING_BYTES) -> None:
        self.folder = folder
        self.problem: str | None = None
        """Why there is no stream at present; None where all is well."""
        self.spread: Callable[[Position], None] = lambda before: self.wake_all()
        """Called when the ring has grown behind a position: wakes everybody, where nobody knows better."""
        self.ring = Ring(limit=ring_bytes)
        self.subscriptions: set[Subscription] = set()
        self._ring_bytes = ring_bytes
        self._stop = threading.Event()
        self._room = threading.Semaphore(_UNDER_WAY)
        self._thread = threading.Thread(target=self._run, name="kircerta-follow", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._begun = asyncio.Event()

    # ------------------------------------------------------------------------------ on the event loop

    async def start(self) -> Follower:
        """Follow from now on; returns once the end of the log is known (or what is wrong with it)."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()
        await self._begun.wait()
        return self

    async def stop(self) -> None:
        self._stop.set()
        await asyncio.to_thread(self._thread.join, 5)

    @contextmanager
    def subscribed(self, wanted: Filter) -> Iterator[Subscription]:
        """A subscription from now on."""
        subscription = Subscription(self.ring.end, wanted)
        self.subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self.subscriptions.discard(subscription)

    def next_for(self, subscription: Subscription) -> Batch | None:
        """What goes to this subscription now; None where it has everything. Raises Behind."""
        ring, position = self.ring, subscription.position
        if position.seq > ring.end.seq:  # another replica was faster: this one's turn comes
            return None
        known = ring.position_at(position.seq)
        if known is None:
            raise Behind
        if known.cursor != position.cursor:
            subscription.position, subscription.reset_because = ring.end, "rewound"
            return None
        return ring.after(position, subscription.wanted)

    def _begin(self, before: Position, frames: list[Frame]) -> None:
        self.ring = Ring(before, self._ring_bytes)
        self.ring.extend(frames)
        self.problem = None
        self._begun.set()
        self.wake_all()

    def _publish(self, frames: list[Frame]) -> None:
        self.problem = None
        before = self.ring.end
        self.ring.extend(frames)
        self._room.release()
        self.spread(before)

    def _rewound(self, before: Position, frames: list[Frame]) -> None:
        """The log is another one: whoever is here learns it, and goes on from its present end."""
        self._begin(before, frames)
        for subscription in self.subscriptions:
            subscription.position, subscription.reset_because = self.ring.end, "rewound"

    def _broken(self, problem: str) -> None:
        if problem != self.problem:
            _LOG.error("the stream stands still: %s", problem)
        self.problem = problem
        self._begun.set()
        self.wake_all()

    def _mended(self) -> None:
        self.problem = None

    def wake_all(self) -> None:
        for subscription in self.subscriptions:
            subscription.wake()

    # ---------------------------------------------------------------------------------- in the thread

    def _run(self) -> None:
        tail = _Tail(self.folder)
        lost = True
        trouble_since: float | None = None
        try:
            while not self._stop.is_set():
                try:
                    if lost:
                        self._find(tail)
                        lost = False
                        continue
                    if tail.wait():
                        self._read(tail)
                    if trouble_since is not None:
                        self._tell(self._mended)
                        trouble_since = None
                except (Rewound, Corrupt, OSError) as error:
                    lost, since = True, trouble_since
                    trouble_since = since or time.monotonic()
                    # a log that is being replaced may make no sense for a moment
                    if not self._begun.is_set() or time.monotonic() - trouble_since > _PATIENCE_S:
                        self._tell(self._broken, str(error))
                    self._stop.wait(0.1 if since else 0.0)
        except BaseException as error:  # better no stream, and everybody knows, than one that stands still
            self._tell(self._broken, f"the follower ended: {error!r}")
            raise
        finally:
            tail.close()

    def _read(self, tail: _Tail) -> None:
        while frames := tail.read():
            while not self._room.acquire(timeout=0.5):  # the loop is busy: reading ahead would only pile up frames
                if self._stop.is_set():
                    return
            self._tell(self._publish, frames)

    def _find(self, tail: _Tail) -> None:
        """At the start, and when the files were replaced. The same log (a copy, a checkout) goes on unnoticed."""
        stood_at = tail.place.seq
        if stood_at == 0:
            self._tell(self._begin, *tail.begin())
        elif not tail.resume():
            _LOG.warning("the log was replaced: the stream stood at seq %d and goes on from its new end", stood_at)
            self._tell(self._rewound, *tail.begin())

    def _tell(self, what: Callable[..., None], *given: object) -> None:
        assert self._loop is not None
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(what, *given)


class Behind(Exception):
    """A position is older than the ring (or not of this log): the files have to be asked."""


class _Tail:
    """The end of the log, as the thread follows it.

    `place` is where the frames that were handed out end: an error may have lost lines that the reader had taken in.
    """

    def __init__(self, folder: Path) -> None:
        self.place = Place()
        self._folder = folder
        self._reader = LogReader(folder)
        self._bell: Doorbell | None = None
        self._in_vain = False

    def begin(self) -> tuple[Position, list[Frame]]:
        """Go to the end of the log as it is now: the newest frames, and the position in front of them."""
        self._ring_anew()  # before reading: what comes meanwhile rings
        last = last_event(self._folder)
        if last is None and self.place.seq:
            raise Corrupt("the log is gone. Put audit/ back from a copy")
        first = max(0, last.seq - SEED_EVENTS) if last is not None else 0
        before = START if first == 0 else _position_of(self._folder, first)
        self._take(LogReader.after(self._folder, before.seq))
        frames: list[Frame] = []
        while more := self._reader.read(limit=_READ):
            frames += [frame_of(event) for event in more]
        self.place = self._reader.place
        return before, frames

    def resume(self) -> bool:
        """Go on at the same place in files that were replaced; False where they have another line there."""
        self._ring_anew()
        found = event_at(self._folder, self.place.seq)
        if found is None or found.digest != self.place.digest:
            return False
        self._take(LogReader.after(self._folder, self.place.seq))
        return True

    def wait(self) -> bool:
        """Wait for the bell, at most `POLL_S`; whether there is something to read."""
        assert self._bell is not None
        if self._in_vain or self._reader.is_current():
            self._bell.wait(POLL_S)
        return not self._reader.is_current()

    def read(self) -> list[Frame]:
        frames = [frame_of(event) for event in self._reader.read(limit=_READ)]
        self._in_vain = not frames
        self.place = self._reader.place
        return frames

    def _take(self, reader: LogReader) -> None:
        self._reader.close()
        self._reader = reader

    def _ring_anew(self) -> None:
        """A bell on the folder that has this name now."""
        if self._bell is not None:
            self._bell.close()
        self._bell = Doorbell([self._folder], appends_only=True)

    def close(self) -> None:
        self._reader.close()
        if self._bell is not None:
            self._bell.close()


def _position_of(folder: Path, seq: int) -> Position:
    event = event_at(folder, seq)
    if event is None:
        raise Rewound(f"the log no longer holds seq {seq}")
    return Position(seq, event.cursor)


def locate(folder: Path, seq: int, cursor: str | None = None) -> Position | None:
    """The position of a seq in the files, where the line there has this cursor. Blocking. Raises Corrupt."""
    if seq == 0:
        return START if cursor is None else None
    event = event_at(folder, seq)
    if event is None or cursor not in (None, event.cursor):
        return None
    return Position(seq, event.cursor)


class Replay:
    """The log from a position on, read from the files slice by slice: the past that the ring no longer has.

    Blocking: its owner calls it in a worker thread, one call at a time.
    """

    def __init__(self, folder: Path, position: Position, wanted: Filter) -> None:
        self._folder = folder
        self._position = position
        self._wanted = wanted
        self._reader: LogReader | None = None
        self._left: list[Frame] = []
        self._mutex = threading.Lock()

    def next(self) -> Batch:
        """The next batch; at the end of the log an empty one, its position unmoved. Raises Rewound, Corrupt."""
        with self._mutex:
            return self._next()

    def _next(self) -> Batch:
        if self._reader is None:
            self._reader = self._open()
        if not self._left:
            self._left = [frame_of(event) for event in self._reader.read(limit=SLICE_EVENTS)]
        if not self._left:
            return Batch(b"", self._position)
        batch = batch_of(self._left, self._wanted)
        self._left = self._left[batch.end.seq - self._position.seq :]
        self._position = batch.end
        return batch

    def _open(self) -> LogReader:
        reader = LogReader.after(self._folder, self._position.seq)
        if self._position.seq and self._position.cursor[-8:] != reader.place.digest[7:15]:
            reader.close()
            raise Rewound(f"another line stands at seq {self._position.seq} now")
        return reader

    def close(self) -> None:
        with self._mutex:
            if self._reader is not None:
                self._reader.close()
                self._reader = None
