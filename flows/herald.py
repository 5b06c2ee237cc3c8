"""Tells the Prefect server of every event of the log, for people to hang automations on. A doorbell, no record.

What is told is kept in a short queue that never blocks anybody: a server that is down or slow costs the oldest of it.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import deque
from typing import Any, Final

import httpx
import orjson

from audit.event import Event

QUEUE: Final = 5000
BATCH: Final = 100
_MAX_VALUE: Final = 1024
_PAUSES_S: Final = (0.5, 1.0, 2.0, 5.0)
_LOG = logging.getLogger("kircerta.herald")


class Herald:
    """Sends events in batches, in order, each under an id of its own: telling one twice does no harm."""

    def __init__(self, prefect_api_url: str) -> None:
        self.dropped = 0
        self.told = 0
        self._url = f"{prefect_api_url.rstrip('/')}/events"
        self._waiting: deque[dict[str, Any]] = deque(maxlen=QUEUE)
        self._news = asyncio.Event()

    def tell(self, event: Event) -> None:
        """Put an event in the queue. Never blocks; called on the event loop."""
        if len(self._waiting) == QUEUE:
            self.dropped += 1
        self._waiting.append(as_prefect_event(event))
        self._news.set()

    async def run(self) -> None:
        """Until cancelled."""
        failures = 0
        async with httpx.AsyncClient(timeout=5.0) as client:
            while True:
                await self._news.wait()
                self._news.clear()
                while self._waiting:
                    batch = [self._waiting[i] for i in range(min(BATCH, len(self._waiting)))]
                    if await self._sent(client, batch):
                        failures = 0
                        self._forget(batch)
                    else:
                        await asyncio.sleep(_PAUSES_S[min(failures, len(_PAUSES_S) - 1)])
                        failures += 1

    def _forget(self, batch: list[dict[str, Any]]) -> None:
        """Take what was sent out of the queue, where a full queue has not pushed it out meanwhile."""
        sent = {one["id"] for one in batch}
        while self._waiting and self._waiting[0]["id"] in sent:
            self._waiting.popleft()
        self.told += len(batch)

    async def _sent(self, client: httpx.AsyncClient, batch: list[dict[str, Any]]) -> bool:
        """Whether the server has them. What it will never take (4xx) counts as sent."""
        try:
            answer = await client.post(
                self._url, content=orjson.dumps(batch), headers={"content-type": "application/json"}
            )
        except httpx.HTTPError:
            return False
        if 400 <= answer.status_code < 500 and answer.status_code not in (408, 429):
            _LOG.warning("the Prefect server refuses events: %d %.200s", answer.status_code, answer.text)
            return True
        return answer.is_success


def as_prefect_event(event: Event) -> dict[str, Any]:
    """An event of the log as Prefect takes it: `kircerta.<type>`, about `kircerta.task.<id>` or `kircerta.log`."""
    resource = {"prefect.resource.id": f"kircerta.task.{event.subject}" if event.subject else "kircerta.log"}
    if event.subject:
        resource["prefect.resource.name"] = event.subject
    if event.correlationid:
        resource["kircerta.correlation_id"] = event.correlationid
    data = {key: value for key, value in event.data.items() if len(orjson.dumps(value)) <= _MAX_VALUE}
    return {
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"kircerta:{event.id}")),
        "occurred": event.time,
        "event": f"kircerta.{event.type}",
        "resource": resource,
        "related": [],
        "payload": {"seq": event.seq, "actor": event.actor, "source": event.source, "data": data},
    }
