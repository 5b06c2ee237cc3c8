"""Counts refusals exactly and writes them at most once per address, route and window: a flood cannot fill the disk."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from audit.event import Corrupt, Draft
from audit.files import Busy, StorageFailed
from audit.stamp import rfc3339

WINDOW_S: Final = 10.0
MAX_ADDRESSES: Final = 64
OTHER: Final = "other"
_LOG: Final = logging.getLogger("kircerta.api")


@dataclass(slots=True)
class Tally:
    """The refusals of one address and route in one window."""

    first: float
    last: float
    count: int = 0
    codes: dict[str, int] = field(default_factory=dict)

    def add(self, moment: float, code: str) -> None:
        self.first, self.last = min(self.first, moment), max(self.last, moment)
        self.count += 1
        self.codes[code] = self.codes.get(code, 0) + 1

    def merge(self, older: Tally) -> None:
        """Take in what an earlier window could not write."""
        self.first, self.last = min(self.first, older.first), max(self.last, older.last)
        self.count += older.count
        for code, count in older.codes.items():
            self.codes[code] = self.codes.get(code, 0) + count


class RefusalCounter:
    """Refusals that are not in the log yet. Bounded: at most `max_addresses` apart, the rest as `other`.

    Args:
        kind: the event's type, ``auth_denied`` or ``webhook_rejected``.
    """

    def __init__(
        self,
        kind: str,
        *,
        window_s: float = WINDOW_S,
        max_addresses: int = MAX_ADDRESSES,
        seconds: Callable[[], float] = time.time,
    ) -> None:
        self.kind = kind
        self.window_s = window_s
        self.total = 0
        self._max_addresses = max_addresses
        self._seconds = seconds
        self._tallies: dict[tuple[str, str], Tally] = {}
        self._addresses: set[str] = set()
        self._lock = threading.Lock()

    def count(self, address: str, route: str, code: str) -> None:
        """One refusal. `route` is the route's pattern, never the path as it was sent."""
        moment = self._seconds()
        with self._lock:
            self.total += 1
            self._tally(address, route, moment).add(moment, code)

    def _tally(self, address: str, route: str, moment: float) -> Tally:
        if address not in self._addresses:
            if len(self._addresses) >= self._max_addresses:
                address = OTHER
            else:
                self._addresses.add(address)
        return self._tallies.setdefault((address, route), Tally(moment, moment))

    def drain(self) -> dict[tuple[str, str], Tally]:
        """Everything that was counted and not yet taken; a new window begins."""
        with self._lock:
            taken, self._tallies = self._tallies, {}
            self._addresses.clear()
            return taken

    def put_back(self, tallies: dict[tuple[str, str], Tally]) -> None:
        """What could not be written stays counted."""
        with self._lock:
            for (address, route), tally in tallies.items():
                self._tally(address, route, tally.first).merge(tally)

    def draft(self, address: str, route: str, tally: Tally) -> Draft:
        """The event of one tally."""
        data = {
            "address": address,
            "route": route,
            "count": tally.count,
            "codes": tally.codes,
            "first_at": rfc3339(tally.first),
            "last_at": rfc3339(tally.last),
        }
        return Draft(self.kind, "anonymous", data)


class RefusalWriter:
    """Writes counters to the log, window after window, and at the end what is left.

    Args:
        note: logs events, all of them or none.
    """

    def __init__(
        self, counters: Sequence[RefusalCounter], note: Callable[[Sequence[Draft]], Awaitable[object]]
    ) -> None:
        self._counters = counters
        self._note = note

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`, and once more then. kill -9 loses at most the current window.

        Ended by an event, not by cancelling: a write under way would be counted again.
        """
        window = min(counter.window_s for counter in self._counters)
        while not stop.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), window)
            if not stop.is_set():
                await self.flush()
        await self.flush()

    async def flush(self) -> None:
        """Write what is counted; what the disk refuses stays counted for the next window."""
        for counter in self._counters:
            waiting = counter.drain()
            if not waiting:
                continue
            try:  # a commit each would be what a flood from many addresses costs most
                await self._note([counter.draft(*place, tally) for place, tally in waiting.items()])
                waiting = {}
            except (Busy, StorageFailed, Corrupt) as error:
                _LOG.error("%d refusals wait to be written: %s", sum(t.count for t in waiting.values()), error)
            finally:
                counter.put_back(waiting)
