"""A Bot API of our own making, strict where the real one may be lenient: it keeps updates until they are confirmed,
shows none below an offset that it was told, and lets only the newest `getUpdates` live.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

TOKEN: Final = f"123456:very-secret-{os.getpid()}-{os.urandom(4).hex()}"
"""One poller a token and machine: test runs beside each other have their own."""
BATCH = 5
CUT: Final = (0, {})
"""An answer that never comes: the connection is cut."""
Answer = tuple[int, dict[str, Any]]


@dataclass
class BotServer:
    """What Telegram holds, and what it will answer next where that is no list of updates."""

    port: int = 0
    waiting: list[dict[str, Any]] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)
    conflicts: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def put(self, *updates: dict[str, Any]) -> None:
        with self.changed:
            self.waiting += updates
            self.changed.notify_all()

    def answer(self, path: str, asked: dict[str, Any]) -> Answer:
        with self.changed:
            self.asked.append(asked)
            self.times.append(time.monotonic())
            mine = len(self.asked)
            if path != f"/bot{TOKEN}/getUpdates":
                return 404, {"ok": False, "error_code": 404, "description": "Not Found"}
            self.changed.notify_all()
            if self.answers:
                return self.answers.pop(0)
            return self._updates(mine, asked)

    def _updates(self, mine: int, asked: dict[str, Any]) -> Answer:
        offset = asked.get("offset")
        assert offset is None or type(offset) is int
        if offset is not None:  # what is asked behind is confirmed, and forgotten
            self.waiting = [one for one in self.waiting if one["update_id"] >= offset]
        end = time.monotonic() + min(asked.get("timeout", 0), 0.5)
        while not (found := self._shown(offset)) and len(self.asked) == mine and time.monotonic() < end:
            self.changed.wait(end - time.monotonic())
        if len(self.asked) != mine:
            self.conflicts += 1
            return 409, {"ok": False, "error_code": 409, "description": "Conflict: terminated by other getUpdates"}
        return 200, {"ok": True, "result": found[: min(BATCH, asked.get("limit", BATCH))]}

    def _shown(self, offset: int | None) -> list[dict[str, Any]]:
        return [one for one in self.waiting if offset is None or one["update_id"] >= offset]

    def is_empty(self) -> bool:
        with self.changed:
            return not self.waiting


@contextmanager
def bot_server() -> Iterator[BotServer]:
    """A running one."""
    bot = BotServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, body = bot.answer(self.path, json.loads(raw or b"{}"))
            if not status:
                self.close_connection = True
                return
            sent = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

        def handle(self) -> None:
            with suppress(ConnectionError):  # whoever asked was killed
                super().handle()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    bot.port = server.server_address[1]
    running = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    running.start()
    try:
        yield bot
    finally:
        server.shutdown()
        server.server_close()
        running.join()
