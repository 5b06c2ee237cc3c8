"""The API as a process: one socket, one store, one event loop; ends cleanly on SIGTERM and Ctrl-C."""

from __future__ import annotations

import errno
import gc
import signal
import socket
import sys
from collections.abc import Callable
from types import FrameType
from typing import Final

import uvicorn

from api.app import SOURCE, create_app
from api.connection import Connection
from api.stream import EventStream, StreamServer
from audit.event import Corrupt
from audit.files import Busy, StorageFailed
from audit.reader import Rewound
from ssot.settings import Settings
from ssot.store import Store

GRACEFUL_S: Final = 2
"""Seconds that requests under way get to end after SIGTERM."""
WRONG_USE: Final = 2
INTERRUPTED: Final = 130


def serve(
    settings: Settings, host: str = "127.0.0.1", port: int = 8000, ready: Callable[[], None] = lambda: None
) -> int:
    """Serve until SIGTERM (0) or Ctrl-C (130). What prevents a start is one line on stderr, and 2.

    `ready` is called once requests are answered.
    """
    try:
        listening = _bound(host, port)
    except OSError as error:
        return _refuse(_why_not_bound(error, host, port))
    with listening:
        try:
            store = Store.open(settings.home, source=SOURCE, settings=settings.store)
        except (StorageFailed, Corrupt, Busy, Rewound) as error:
            return _refuse(str(error))
        except OSError as error:
            return _refuse(f"the workspace {settings.home} cannot be read: {error.strerror} ({error.filename})")
        try:
            return _run(settings, store, host, listening, ready)
        finally:
            store.close()


def _run(settings: Settings, store: Store, host: str, listening: socket.socket, ready: Callable[[], None]) -> int:
    app = create_app(settings, store, host=host)
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=Connection,
        ws="none",
        lifespan="on",
        access_log=False,
        log_level="warning",
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=GRACEFUL_S,
        backlog=2048,
    )
    server = _Server(config, app.streams, ready)
    with _Signals(server) as signals:
        server.run(sockets=[listening])
    return INTERRUPTED if signals.seen == signal.SIGINT else 0


class _Server(StreamServer):
    """The server, telling when it is ready."""

    def __init__(self, config: uvicorn.Config, streams: EventStream, ready: Callable[[], None]) -> None:
        super().__init__(config, streams)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            gc.freeze()  # what was loaded stays: the collector's look at 100,000 tasks stops everybody for 0.2 s
            self._ready()


class _Signals:
    """Hears a signal before uvicorn listens for it, and again when uvicorn has shut down: ending is no failure."""

    def __init__(self, server: uvicorn.Server) -> None:
        self._server = server
        self.seen = 0

    def __enter__(self) -> _Signals:
        self._before = {number: signal.signal(number, self._hear) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self.seen = number
        self._server.should_exit = True


def _bound(host: str, port: int) -> socket.socket:
    """The socket, bound before anything is opened. Raises OSError."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    found = socket.socket(family, kind, protocol)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen(2048)  # a second server on this port fails at once, not when it begins to serve
    except OSError:
        found.close()
        raise
    return found


def _why_not_bound(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is in use: stop what uses it, or choose another with --port"
    if error.errno == errno.EACCES:
        return f"port {port} on {host} needs more rights: choose one from 1024 on with --port"
    return f"{host}:{port} cannot be used: {error.strerror or error}"


def _refuse(line: str) -> int:
    sys.stderr.write(f"kircerta: {line}\n")
    return WRONG_USE
