"""Arrivals: requests that begin at fixed times, whether or not earlier ones were answered; or as fast as answers come.

Each client has its own share of the arrivals and sends them one after the other. One that had to wait because its
client still waited for an answer is timed from when it was due: a stall is not hidden. What the server could not help,
the client being free and late, is the generator's own lag.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from hdrh.histogram import HdrHistogram

from flows.load.plan import PHASES, US, Phase, Window
from flows.load.samples import CODES, NEVER, Recorder

DRAIN_S: Final = 2.0
"""Seconds that answers under way get once the run is over."""
_LOOK_S: Final = 0.25
_TICK_US: Final = 5_000
_ROUND_S: Final = 0.0006
"""uvloop rounds timers to milliseconds: a little later is in time, a little earlier would not be."""
_RECENT: Final = 400


class NotPrepared(Exception):
    """There is nothing that this arrival could send: the generator's fault, not the server's."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What came of a request: its status, and what was wrong with it."""

    status: int
    error: str = ""


Send = Callable[[int, int], Awaitable[Answered]]
"""Sends the arrival with a number as a client, and waits for the whole answer."""


@dataclass(slots=True)
class Timeline:
    """The run's clock: µs since its start, and when its arrivals begin and end."""

    origin_ns: int
    begin_us: int = 0
    end_us: int = 0

    def now(self) -> int:
        return (time.monotonic_ns() - self.origin_ns) // 1000

    @property
    def deadline_us(self) -> int:
        """After this nothing is sent and nothing waited for."""
        return self.end_us + int(DRAIN_S * US)

    def set(self, begin_us: int, windows: Sequence[Window]) -> list[Window]:
        """Begin then; gives the windows on the run's clock."""
        self.begin_us, self.end_us = begin_us, begin_us + windows[-1].end_us
        return [
            one.model_copy(update={"begin_us": one.begin_us + begin_us, "end_us": one.end_us + begin_us})
            for one in windows
        ]

    async def sleep_until(self, moment_us: int) -> bool:
        """Sleep; False where the run ends before that moment."""
        while (left := moment_us - self.now()) > 0:
            if moment_us >= self.end_us:
                return False
            await _nap(left)
        return moment_us < self.end_us

    async def sleep_to_end(self) -> None:
        """Sleep until the run's arrivals are over."""
        while (left := self.end_us - self.now()) > 0:
            await _nap(left)


async def _nap(left_us: int) -> None:
    """A part of a long sleep: the run may be called off meanwhile."""
    await asyncio.sleep(min(left_us / US + _ROUND_S, _LOOK_S))


def histogram() -> Any:
    """Of µs, up to an hour, three significant digits."""
    return HdrHistogram(1, 3_600 * US, 3)


@dataclass(slots=True)
class Tally:
    """What one kind of arrivals has come to so far."""

    due: int = 0
    errors: int = 0
    own_fault: int = 0
    recent_us: deque[int] = field(default_factory=lambda: deque(maxlen=_RECENT))

    def recent_p95_ms(self) -> float | None:
        found = sorted(self.recent_us)
        return found[int(len(found) * 0.95)] / 1000 if found else None


class Arrivals:
    """One kind of requests over some windows of the run."""

    def __init__(
        self, kind: str, send: Send, *, clients: int, rate: float, timeline: Timeline, recorder: Recorder
    ) -> None:
        self.kind = kind
        self.tally = Tally()
        self.lag = histogram()
        self._code = CODES[kind]
        self._send = send
        self._clients = clients
        self._rate = rate
        self._time = timeline
        self._recorder = recorder

    async def run(self, windows: Sequence[Window], *, closed: bool = False) -> None:
        """Until the windows or the run are over, and answers under way have come or had their time."""
        client = self._closed_client if closed else self._open_client
        under_way = [asyncio.create_task(client(number, windows)) for number in range(self._clients)]
        while any(not one.done() for one in under_way):
            left_s = (self._time.deadline_us - self._time.now()) / US
            if left_s <= 0:
                break
            await asyncio.wait(under_way, timeout=min(left_s, _LOOK_S))
        for one in under_way:
            one.cancel()
        await asyncio.gather(*under_way, return_exceptions=False)

    # --------------------------------------------------------------------------------------------- open loop

    async def _open_client(self, client: int, windows: Sequence[Window]) -> None:
        due = self._due(client, windows)
        free = 0
        for number, intended, phase in due:
            if not await self._reached(intended):
                return
            sent = self._time.now()
            if sent > self._time.deadline_us:
                self._missed(client, intended, phase, own_fault=True)
                continue
            self.lag.record_value(max(1, sent - max(intended, free)))
            if not await self._one(client, number, phase, intended, sent):
                for _, later, its_phase in due:
                    if later < self._time.end_us:
                        self._missed(client, later, its_phase, own_fault=False)
                return
            free = self._time.now()

    async def _reached(self, intended: int) -> bool:
        try:
            return await self._time.sleep_until(intended)
        except asyncio.CancelledError:  # the run's end came while nothing was due
            return False

    def _due(self, client: int, windows: Sequence[Window]) -> Iterator[tuple[int, int, Phase]]:
        """A client's arrivals: every one of the whole schedule that falls to it."""
        before = 0
        for window in windows:
            number = client
            while (intended := window.begin_us + int(number * US / self._rate)) < window.end_us:
                yield before + number, intended, window.phase
                number += self._clients
            before += number

    # ------------------------------------------------------------------------------------------- closed loop

    async def _closed_client(self, client: int, windows: Sequence[Window]) -> None:
        number = client
        for window in windows:
            if not await self._reached(window.begin_us):
                return
            while (now := self._time.now()) < min(window.end_us, self._time.end_us):
                if not await self._one(client, number, window.phase, now, now):
                    return
                number += self._clients

    # --------------------------------------------------------------------------------------------- recording

    async def _one(self, client: int, number: int, phase: Phase, intended: int, sent: int) -> bool:
        """Send and record one arrival; False when the run's end came before its answer."""
        try:
            answered = await self._send(client, number)
        except NotPrepared:
            self._missed(client, intended, phase, own_fault=True, error="not_prepared")
            await asyncio.sleep(0.001)  # a closed loop must not spin
            return True
        except asyncio.CancelledError:
            self._note(client, phase, intended, sent, NEVER, Answered(0, "unanswered"))
            return False
        self._note(client, phase, intended, sent, self._time.now(), answered)
        if answered.status == 0:
            await asyncio.sleep(0.02)  # nobody there: the next one may wait a moment
        return True

    def _note(self, client: int, phase: Phase, intended: int, sent: int, done: int, answered: Answered) -> None:
        self.tally.due += 1
        self.tally.errors += bool(answered.error)
        if done >= 0:
            self.tally.recent_us.append(done - intended)
        code = PHASES.index(phase)
        self._recorder.add(self._code, code, client, intended, sent, done, answered.status, answered.error)

    def _missed(self, client: int, intended: int, phase: Phase, *, own_fault: bool, error: str = "never_sent") -> None:
        """An arrival that was never sent is a failure."""
        self.tally.own_fault += own_fault
        self._note(client, phase, intended, NEVER, NEVER, Answered(0, error))


class Pacer:
    """How late the generator itself is, told by a clockwork that sends nothing: a tick every 5 ms, each at its time.

    It knows nothing of the server: a generator that was stopped for two seconds is late by four hundred ticks.
    """

    def __init__(self, timeline: Timeline) -> None:
        self.lag = histogram()
        self.recent_us = 0
        self._time = timeline

    async def run(self) -> None:
        """Until the run's end."""
        due = self._time.begin_us
        while await self._time.sleep_until(due):
            now = self._time.now()
            self.recent_us = max(self.recent_us, now - due)
            while due <= now:
                self.lag.record_value(max(1, now - due))
                due += _TICK_US

    def take_recent_us(self) -> int:
        """The worst since the last call."""
        worst, self.recent_us = self.recent_us, 0
        return worst
