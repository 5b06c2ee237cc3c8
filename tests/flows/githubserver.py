"""GitHub's deliveries API of our own making: keeps attempts, makes redeliveries, and has limits that it insists on."""

from __future__ import annotations

import itertools
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

TOKEN: Final = f"ghp_very-secret-{os.getpid()}-{os.urandom(4).hex()}"
CUT: Final = 0
"""A status that never comes: the connection is cut."""
Deliver = Callable[[str], int]
"""Delivers what has a GUID to wherever its hook points; gives the status that it was answered with."""


@dataclass
class GitHubServer:
    """Hooks by their path, each with its attempts, newest first; and what will be answered next instead."""

    port: int = 0
    page: int = 3
    hooks: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    instead: list[tuple[str, int, dict[str, str]]] = field(default_factory=list)
    """Method, status, headers: the next request of that method is answered so, and has no effect."""
    besides: list[dict[str, str]] = field(default_factory=list)
    """Headers that the next good answers carry, too."""
    asked: list[tuple[str, str]] = field(default_factory=list)
    redelivered: list[str] = field(default_factory=list)
    deliver: Deliver = lambda guid: 200
    next_link: str = "http://127.0.0.1:{port}"
    ids: Iterator[int] = field(default_factory=lambda: itertools.count(1000))
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def attempt(self, path: str, guid: str, status: int, *, age_s: float = 60.0, **more: Any) -> dict[str, Any]:
        """One attempt that was made; newer than all before."""
        at = datetime.now(UTC) - timedelta(seconds=age_s)
        made = {
            "id": next(self.ids), "guid": guid, "delivered_at": at.isoformat().replace("+00:00", "Z"),
            "redelivery": False, "duration": 0.1, "status": "OK" if status == 200 else "failed", "status_code": status,
            "event": "issues", "action": "opened", "installation_id": None, "repository_id": 7, "throttled_at": None,
            **more,
        }  # fmt: skip
        self.hooks.setdefault(path, []).insert(0, made)
        return made

    def answer(self, method: str, target: str, authorization: str) -> tuple[int, dict[str, str], Any]:
        with self.lock:
            self.asked.append((method, target))
            url = urlsplit(target)
            for place, (wanted, status, headers) in enumerate(self.instead):
                if wanted == method:
                    del self.instead[place]
                    return status, headers, {"message": "not now"}
            if authorization != f"Bearer {TOKEN}":
                return 401, {}, {"message": "Bad credentials"}
            path, _, rest = url.path.partition("/deliveries")
            if path not in self.hooks:
                return 404, {}, {"message": "Not Found"}
            more = self.besides.pop(0) if self.besides else {}
            asks = method == "GET" and not rest
            found = self._page(path, parse_qs(url.query)) if asks else self._redelivered(path, int(rest.split("/")[1]))
            return found[0], {**found[1], **more}, found[2]

    def _page(self, path: str, query: dict[str, list[str]]) -> tuple[int, dict[str, str], Any]:
        begin = int(query.get("cursor", ["v_0"])[0].removeprefix("v_"))
        found = self.hooks[path][begin : begin + self.page]
        if begin + self.page >= len(self.hooks[path]):
            return 200, {}, found
        link = f"{self.next_link.format(port=self.port)}{path}/deliveries?per_page=9&cursor=v_{begin + self.page}"
        return 200, {"Link": f'<{link}>; rel="next"'}, found

    def _redelivered(self, path: str, number: int) -> tuple[int, dict[str, str], Any]:
        known = next((one for one in self.hooks[path] if one["id"] == number), None)
        if known is None:
            return 404, {}, {"message": "Not Found"}
        self.redelivered.append(known["guid"])
        self.attempt(path, known["guid"], self.deliver(known["guid"]), age_s=0, redelivery=True)
        return 202, {}, {}


@contextmanager
def github_server() -> Iterator[GitHubServer]:
    """A running one."""
    github = GitHubServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def answered(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, headers, body = github.answer(self.command, self.path, self.headers.get("Authorization", ""))
            if status == CUT:
                self.close_connection = True
                return
            sent = json.dumps(body).encode()
            self.send_response_only(status)
            told = {
                "Date": format_datetime(datetime.now(UTC), usegmt=True),
                "Content-Length": str(len(sent)),
                **headers,
            }
            for name, value in told.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(sent)

        do_GET = do_POST = answered

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

        def handle(self) -> None:
            with suppress(ConnectionError):
                super().handle()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    github.port = server.server_address[1]
    running = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    running.start()
    try:
        yield github
    finally:
        server.shutdown()
        server.server_close()
        running.join()
