"""The servers under test, each a process of its own: kircerta's API, and a bare Starlette route with ready bytes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from api.auth import make_token
from benchmarks.places import CHECKOUT

SECRET = "only-for-benchmarks-" + "x" * 32
PATIENCE_S = 120.0


@contextmanager
def api(home: Path, **more: str) -> Iterator[int]:
    """kircerta's API over a workspace; gives its port. `more` are environment variables."""
    port = _free_port()
    command = [sys.executable, "-m", "cli.main", "api", "--port", str(port)]
    settings = {"KIRCERTA_HOME": str(home), "KIRCERTA_JWT_SECRET": SECRET, **more}
    with _running(command, port, settings):
        yield port


@contextmanager
def bare(body: Path) -> Iterator[int]:
    """A bare Starlette route that answers every GET with a file's bytes, on the API's own server settings."""
    port = _free_port()
    with _running([sys.executable, "-m", "benchmarks.servers", str(body), str(port)], port, {}):
        yield port


def token() -> str:
    """One that may decide."""
    return make_token(SECRET, "alice", ["approver"], 3600, time.time())


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def _running(command: list[str], port: int, settings: dict[str, str]) -> Iterator[None]:
    environment = {**os.environ, **settings}
    with subprocess.Popen(command, cwd=CHECKOUT, env=environment) as process:
        try:
            _await_listening(process, port)
            yield
        finally:
            process.terminate()
            process.wait(timeout=30)


def _await_listening(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1) as client:
                client.settimeout(PATIENCE_S)
                client.sendall(b"GET /healthz HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")
                if b" 200 " in client.recv(64):
                    return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"the server on port {port} did not start")


def _serve_bare(body: Path, port: int) -> None:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    data = body.read_bytes()

    async def answer(request: Request) -> Response:
        return Response(data, media_type="application/json")

    app = Starlette(routes=[Route("/api/tasks", answer), Route("/healthz", answer)])
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=port,
        loop="uvloop",
        http="httptools",
        ws="none",
        access_log=False,
        log_level="warning",
        proxy_headers=False,
        server_header=False,
        backlog=2048,
    )


if __name__ == "__main__":
    _serve_bare(Path(sys.argv[1]), int(sys.argv[2]))
