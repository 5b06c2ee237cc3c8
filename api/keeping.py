"""Keeps proven deliveries whose effect failed, and tries them again beside the requests. Answers nobody."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from typing import Final

from api.desk import Desk
from audit.event import Corrupt
from audit.files import Busy, StorageFailed
from ssot.alarms import Lookout
from ssot.inbox import Inbox, InboxFull, Tried
from ssot.ingest.delivery import Delivery
from ssot.ingest.parcel import Parcel
from ssot.store import Store

TURN_S: Final = 2.0
KEEP_S: Final = 0.8
"""A sender that waited for the lock has no more patience than this left."""
_A_TURN: Final = 5
_LOG: Final = logging.getLogger("kircerta.api")


class Keeper:
    """The inbox, as the API uses it."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._inbox = Inbox(desk.settings.home)
        self._lookout = Lookout("kircerta/api")

    async def keep(self, parcel: Parcel, delivery: Delivery, error: Exception) -> None:
        """Keep a delivery; durable when this returns, where the disk allows. The answer is the same either way."""
        try:
            async with asyncio.timeout(KEEP_S):
                await asyncio.to_thread(self._inbox.keep, parcel, delivery, error)
            _LOG.warning("the %s delivery %s is kept: %s", delivery.sender, delivery.event_id, error)
        except (InboxFull, StorageFailed, TimeoutError) as why:
            _LOG.error("the %s delivery %s is not kept (%r): %s", delivery.sender, delivery.event_id, why, error)

    async def run(self, stop: asyncio.Event) -> None:
        """Try again what is due, every two seconds, until `stop`. Ended by an event: a commit under way is finished."""
        while not stop.is_set():
            try:
                await self.turn()
            except (Busy, StorageFailed, Corrupt) as error:
                _LOG.error("the inbox waits: %s", error)
            except Exception as error:  # a mistake of ours must not end the turns
                _LOG.error("the inbox waits: %r", error, exc_info=error)
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), TURN_S)

    async def turn(self) -> list[Tried]:
        """One look at the inbox, and the tries that are due."""
        store, inbox = self._desk.store, self._inbox
        await asyncio.to_thread(self._tell, store)
        if not await asyncio.to_thread(inbox.has_due):
            return []
        return await self._desk.writer.do(lambda left_s: inbox.drain(store, timeout_s=left_s, limit=_A_TURN))

    def _tell(self, store: Store) -> None:
        readings, now = self._inbox.readings(), time.monotonic()
        store.tell_alarms(lambda raised: self._lookout.look(readings, raised, now))
