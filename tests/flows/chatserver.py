"""A chat service for notifications: takes what Apprise posts to it, and misbehaves when it is told to."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Chat:
    """What came in, and how it answers: `status`; `hang` makes it wait for `released` first."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.asked = 0
        self.status = 200
        self.hang = False
        self.released = threading.Event()
        chat = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                chat.asked += 1
                if chat.hang:
                    chat.released.wait(20)
                if chat.status == 200:
                    chat.messages.append(json.loads(body))
                self.send_response(chat.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        """Its Apprise URL, with something secret in it."""
        return f"json://robot:sesame-open@127.0.0.1:{self._server.server_port}/hook"

    @property
    def titles(self) -> list[str]:
        return [message["title"] for message in self.messages]

    @contextmanager
    def open(self) -> Iterator[Chat]:
        self._thread.start()
        try:
            yield self
        finally:
            self.released.set()
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
