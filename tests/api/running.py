"""The API as a real process, for what only a real server shows."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.api.scene import SECRET

ROOT = Path(__file__).parents[2]
_START = """
import sys
from ssot.settings import load
from api.server import serve
sys.exit(serve(load(), sys.argv[1], int(sys.argv[2])))
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def command(port: int, host: str = "127.0.0.1") -> list[str]:
    return [sys.executable, "-W", "error", "-c", _START, host, str(port)]


def environment(home: Path, **more: str) -> dict[str, str]:
    given = {"KIRCERTA_HOME": str(home), "KIRCERTA_JWT_SECRET": SECRET, "PYTHONPATH": str(ROOT), **more}
    return {"PATH": os.environ["PATH"], **given}


@contextmanager
def server(home: Path, **more: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A running server and its port; killed at the end if the test did not stop it."""
    port = free_port()
    process = subprocess.Popen(command(port), env=environment(home, **more), cwd=home, stderr=subprocess.PIPE)
    try:
        await_health(process, port)
        yield process, port
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def await_health(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        assert process.poll() is None, process.stderr.read().decode() if process.stderr else ""
        try:
            if httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.02)
    raise AssertionError("the server did not become healthy")


def exchange(port: int, *parts: bytes, pause_s: float = 0.0, timeout_s: float = 10.0) -> bytes:
    """Send raw bytes, part by part, and read until the server closes or says no more."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout_s) as connection:
        try:
            for part in parts:
                connection.sendall(part)
                time.sleep(pause_s)
        except (BrokenPipeError, ConnectionResetError):
            pass
        answer = b""
        connection.settimeout(timeout_s)
        try:
            while chunk := connection.recv(65536):
                answer += chunk
                if b"\r\n\r\n" in answer and _is_complete(answer):
                    break
        except ConnectionResetError:
            pass
        return answer


def _is_complete(answer: bytes) -> bool:
    head, _, body = answer.partition(b"\r\n\r\n")
    length = next((line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), b": 0")
    return len(body) >= int(length.split(b":")[1])
