"""How this process is: alive, ready (and what each dependency does), and in numbers for Prometheus."""

from __future__ import annotations

import asyncio
import http.client
import os
import shutil
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Final
from urllib.parse import urlsplit

import orjson
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import Response

from api.answers import Answer
from api.desk import Desk
from api.metrics import Metrics
from api.problems import Problem
from audit.event import Corrupt
from audit.files import StorageFailed
from ssot.alarms import Raised
from ssot.store import Store
from ssot.watch import Watcher

LEAST_FREE_BYTES: Final = 64 * 1024 * 1024
_LAG_EVERY_S: Final = 0.25
_PREFECT_EVERY_S: Final = 10.0
_PREFECT_TIMEOUT_S: Final = 2.0
_ALIVE: Final = Answer(200, b'{"status":"ok"}', cache=b"no-store")


class LoopLag:
    """How late the event loop is: a short sleep, over and over, and by how much it overslept."""

    def __init__(self) -> None:
        self.last_s = 0.0
        self.worst_s = 0.0
        """The worst of about the last minute."""
        self._worst_since = 0.0

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            begun = time.perf_counter()
            await asyncio.sleep(_LAG_EVERY_S)
            self.last_s = max(0.0, time.perf_counter() - begun - _LAG_EVERY_S)
            self.worst_s = max(self.last_s, self.worst_s * 0.99)
            self._worst_since = max(self.last_s, self._worst_since)

    def take_worst(self) -> float:
        """The worst since this was asked last, in seconds."""
        worst, self._worst_since = self._worst_since, 0.0
        return worst


class PrefectProbe:
    """Whether the Prefect server answers. Asked in the background: a request never waits for it."""

    def __init__(self, api_url: str | None) -> None:
        self.state = "missing" if api_url is None else "unknown"
        self._api_url = api_url

    async def run(self) -> None:
        """Until cancelled."""
        while self._api_url is not None:
            self.state = "ok" if await asyncio.to_thread(_answers, self._api_url) else "unreachable"
            await asyncio.sleep(_PREFECT_EVERY_S)


def _answers(api_url: str) -> bool:
    parts = urlsplit(api_url)
    make = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    try:
        connection = make(parts.hostname or "", parts.port, timeout=_PREFECT_TIMEOUT_S)
        try:
            connection.request("GET", f"{parts.path.rstrip('/')}/health")
            return connection.getresponse().status == 200
        finally:
            connection.close()
    except (OSError, http.client.HTTPException, ValueError):
        return False


@dataclass(frozen=True, slots=True)
class Readiness:
    """Each dependency's state. `ready` is false when a request could not be carried out."""

    ready: bool
    log: str
    last_seq: int
    disk: str
    disk_free_bytes: int
    watcher: str
    held_files: int
    open_attempts: int
    loop_lag_ms: float
    prefect: str
    alarms: tuple[str, ...]
    raised: tuple[Raised, ...]
    """Since when each of the alarms stands, and why."""


class HealthRoutes:
    """`GET /healthz`, `/readyz` and `/metrics`."""

    def __init__(self, desk: Desk, metrics: Metrics, lag: LoopLag, prefect: PrefectProbe) -> None:
        self._desk = desk
        self._metrics = metrics
        self._lag = lag
        self._prefect = prefect
        self._watcher: Watcher | None = None

    def watch(self, watcher: Watcher) -> None:
        """The watcher whose state is reported."""
        self._watcher = watcher

    async def alive(self, request: Request) -> Response:
        """Up once recovery is done; open to everybody, and says nothing else."""
        _ = self._desk.store
        return _ALIVE

    async def ready(self, request: Request) -> Response:
        self._desk.gate.reader(request)
        log = await self._log_state()
        found = await asyncio.to_thread(self._readiness, self._desk.store, log)
        return Answer(200 if found.ready else 503, orjson.dumps(asdict(found)), cache=b"no-store")

    async def _log_state(self) -> str:
        try:
            store = await self._desk.catch_up()
            store.log.check_healthy()
        except Corrupt as error:
            return f"corrupt: {error}"
        except StorageFailed as error:
            return f"poisoned: {error}"
        return "ok"

    def _readiness(self, store: Store, log: str) -> Readiness:
        free = _free_bytes(store)
        alarms = store.view.alarms
        watcher = (self._watcher.problem if self._watcher else None) or "ok"
        writable = os.access(store.audit_folder, os.W_OK) and os.access(store.tasks_folder, os.W_OK)
        disk = "read-only" if not writable else "low" if free < LEAST_FREE_BYTES else "ok"
        return Readiness(
            ready=log == "ok" and disk == "ok" and watcher == "ok",
            log=log,
            last_seq=store.last_seq(),
            disk=disk,
            disk_free_bytes=free,
            watcher=watcher,
            held_files=len(store.held_files()),
            open_attempts=len(store.open_attempts()),
            loop_lag_ms=round(self._lag.worst_s * 1000, 3),
            prefect=self._prefect.state,
            alarms=tuple(sorted(alarms)),
            raised=tuple(alarms[name] for name in sorted(alarms)),
        )

    async def metrics(self, request: Request) -> Response:
        self._desk.gate.reader(request)
        store = self._desk.store
        with suppress(Problem, Corrupt, StorageFailed):  # numbers are wanted most when something is wrong
            await self._desk.catch_up()
        body = await asyncio.to_thread(self._numbers, store)
        return Answer(200, body, CONTENT_TYPE_LATEST.encode(), cache=b"no-store")

    def _numbers(self, store: Store) -> bytes:
        self._metrics.take(store, lag_s=self._lag.last_s, worst_lag_s=self._lag.worst_s)
        return generate_latest(self._metrics.registry)


def _free_bytes(store: Store) -> int:
    try:
        return shutil.disk_usage(store.home).free
    except OSError:
        return 0
