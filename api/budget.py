"""What an address may cost by failing: with its budget spent it is served one request at a time, and answered late.

Nothing is refused for it: a right signature from the same address goes through, a little later. Only failures count.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

FAILURES: Final = 20.0
"""Failures that an address may have at once."""
PER_S: Final = 1.0
"""Failures that it may have again after a second."""
LONGEST_WAIT_S: Final = 2.0
"""A request waits this long for its turn at most: senders give up on an answer after 10 s."""
LATE_S: Final = 0.1
MAX_LATE: Final = 64
"""Answers held back at once; further ones go out at once: waiting must not become a cost of ours."""
MAX_ADDRESSES: Final = 1024


@dataclass(slots=True)
class _Account:
    left: float
    since: float
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class FailureBudget:
    """The accounts of those addresses that failed lately."""

    def __init__(self, seconds: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._accounts: OrderedDict[str, _Account] = OrderedDict()
        self._late = 0

    def is_spent(self, address: str) -> bool:
        """Whether an address has failed more than it may."""
        account = self._accounts.get(address)
        return account is not None and self._left(account) < 1

    async def failed(self, address: str) -> None:
        """One failure. Comes back late when the budget is spent."""
        account = self._accounts.get(address) or _Account(FAILURES, self._seconds())
        account.left, account.since = max(0.0, self._left(account) - 1), self._seconds()
        self._accounts[address] = account
        self._accounts.move_to_end(address)
        if len(self._accounts) > MAX_ADDRESSES:
            self._accounts.popitem(last=False)
        if account.left < 1 and self._late < MAX_LATE:
            self._late += 1
            try:
                await asyncio.sleep(LATE_S)
            finally:
                self._late -= 1

    def _left(self, account: _Account) -> float:
        return min(FAILURES, account.left + (self._seconds() - account.since) * PER_S)

    @asynccontextmanager
    async def turn(self, address: str) -> AsyncIterator[None]:
        """At once for everybody but an address whose budget is spent: there it is one after the other."""
        account = self._accounts.get(address)
        if account is None or not self.is_spent(address):
            yield
            return
        try:
            await asyncio.wait_for(account.turn.acquire(), LONGEST_WAIT_S)
        except TimeoutError:  # who sends slowly must not keep a good delivery out
            yield
            return
        try:
            yield
        finally:
            account.turn.release()
