"""Whether a dispatch can be left to served flows, asked of a Prefect server that is slow, or not there."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from flows import server
from ssot.presence import become_dispatcher
from tests.flows.conftest import settings_for


@contextmanager
def prefect_that_takes(seconds: float) -> Iterator[str]:
    """The address of a server that has a deployment, and needs so long to say so."""

    class Slow(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            time.sleep(seconds)
            self.send_response_only(200)
            self.end_headers()
            self.wfile.write(b"[{}]")

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Slow) as running:
        threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}).start()
        try:
            yield f"http://127.0.0.1:{running.server_address[1]}/api"
        finally:
            running.shutdown()


@pytest.fixture
def dispatcher(tmp_path: Path) -> Iterator[Path]:
    """A workspace with a living dispatcher."""
    held = become_dispatcher(tmp_path)
    yield tmp_path
    os.close(held)


def test_a_busy_prefect_server_is_no_missing_one(dispatcher: Path) -> None:
    """Else `--wait none` ends as wrong use on a machine that has much to do, although everything runs."""
    with prefect_that_takes(2.2) as url:
        assert server.is_served(settings_for(dispatcher, prefect_api_url=url))


def test_a_missing_prefect_server_is_not_waited_for(dispatcher: Path) -> None:
    begun = time.monotonic()
    assert not server.is_served(settings_for(dispatcher, prefect_api_url="http://127.0.0.1:9/api"))
    assert time.monotonic() - begun < 2
