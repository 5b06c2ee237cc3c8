"""A Bot API of our own making: keeps updates until they are confirmed, as the real one does."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "123456:very-secret"
BATCH = 5


@dataclass
class BotServer:
    """What Telegram holds, and what it will answer next where that is no list of updates."""

    port: int = 0
    waiting: list[dict[str, Any]] = field(default_factory=list)
    answers: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def put(self, *updates: dict[str, Any]) -> None:
        with self.changed:
            self.waiting += updates
            self.changed.notify_all()

    def answer(self, path: str, asked: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        with self.changed:
            self.asked.append(asked)
            self.times.append(time.monotonic())
            if path != f"/bot{TOKEN}/getUpdates":
                return 404, {"ok": False, "error_code": 404, "description": "Not Found"}
            if self.answers:
                return self.answers.pop(0)
            offset = asked.get("offset")
            places = [
                at for at, one in enumerate(self.waiting) if offset is not None and one["update_id"] == offset - 1
            ]
            if places:
                del self.waiting[: places[-1] + 1]
            self.changed.notify_all()
            if not self.waiting:
                self.changed.wait(min(asked.get("timeout", 0), 0.5))
            return 200, {"ok": True, "result": self.waiting[:BATCH]}

    def is_empty(self) -> bool:
        with self.changed:
            return not self.waiting


@contextmanager
def bot_server() -> Iterator[BotServer]:
    """A running one."""
    bot = BotServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, body = bot.answer(self.path, json.loads(raw or b"{}"))
            sent = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

        def handle(self) -> None:
            try:
                super().handle()
            except (ConnectionError, BrokenPipeError):
                """Whoever asked was killed."""

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
