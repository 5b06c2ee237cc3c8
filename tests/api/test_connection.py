"""What a connection stands before and besides a request: heads without end, nonsense, and who leaves early."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
import uvicorn
from uvicorn.server import ServerState

from api.connection import HEAD_BYTES, Connection
from ssot.store import Store
from tests.api.listening import until
from tests.api.running import exchange, server
from tests.api.scene import AS_APPROVER, TASK_ID, task

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST /api/tasks/T-1/reject HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with server(tmp_path_factory.mktemp("workspace")) as (_, started):
        yield started


def told(answer: bytes) -> tuple[int, str, str]:
    """Status, media type and code of a problem."""
    head, _, body = answer.partition(b"\r\n\r\n")
    kinds = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-type: ")]
    return int(head.split(b" ", 2)[1]), kinds[0].partition(b": ")[2].decode(), orjson.loads(body)["code"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "raw",
    [
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"FOO /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: a\x01b\r\n\r\n",
        b"GET /api/tasks?q=\xc3\xa9 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /api/tasks?q=" + b"a" * HEAD_BYTES + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n",
        POST + b"Content-Length: 99999999999999999999999\r\n\r\n",
        POST + b"Authorization: " + AS_APPROVER["Authorization"].encode() + b"\r\n"
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    ],
)  # fmt: skip
def test_what_the_parser_refuses_is_a_problem_like_any_other(port: int, raw: bytes) -> None:
    status, kind, code = told(exchange(port, raw))
    assert kind == "application/problem+json"
    assert (status, code) in ((400, "bad_request"), (431, "head_too_large"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields", [b"X-Long: " + b"a" * HEAD_BYTES + b"\r\n", b"".join(b"X-%d: a\r\n" % n for n in range(20_000))]
)
def test_a_head_over_its_bound_is_a_431(port: int, fields: bytes) -> None:
    answer = exchange(port, HEALTH[:-2] + fields + b"\r\n")
    assert told(answer) == (431, "application/problem+json", "head_too_large")


@pytest.mark.slow
@pytest.mark.parametrize("before", [b"", HEALTH], ids=["a first request", "a later one"])
def test_a_head_without_end_is_not_kept_in_memory(port: int, before: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(before + HEALTH[:-2] + b"X-Long: ")
        assert taken_from(connection, most=64 * 1024 * 1024) < 32 * 1024 * 1024


def taken_from(connection: socket.socket, most: int) -> int:
    """How many bytes are sent before the server hangs up."""
    sent = 0
    try:
        while sent < most:
            sent += connection.send(b"a" * 65536)
            time.sleep(0.002)
    except OSError:
        pass
    return sent


@pytest.mark.slow
def test_what_was_asked_before_nonsense_is_answered(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(HEALTH + HEALTH + b"nonsense\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.count(b"HTTP/1.1 200 OK") == 2


@pytest.mark.slow
def test_a_body_on_its_way_does_not_hold_up_the_end(tmp_path: Path) -> None:
    with server(tmp_path) as (process, port):
        head = POST + b"Authorization: " + AS_APPROVER["Authorization"].encode() + b"\r\n"
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(head + b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
            time.sleep(0.2)
            took_s, errors = end(process)
    assert (process.returncode, took_s < 3, errors) == (0, True, b"")


@pytest.mark.slow
def test_an_answer_that_nobody_takes_does_not_hold_up_the_end(tmp_path: Path) -> None:
    store = Store.open(tmp_path, source="kircerta/tests")
    task(store, request_text="x" * 3_000_000)
    store.close()
    with server(tmp_path) as (process, port), socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(f"GET /api/tasks/{TASK_ID} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode() * 5)
        time.sleep(0.5)
        took_s, errors = end(process)
    assert (process.returncode, took_s < 3, errors) == (0, True, b"")


def end(process: subprocess.Popen[bytes]) -> tuple[float, bytes]:
    begun = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=20)
    return time.monotonic() - begun, errors


# ------------------------------------------------------------------------------------- in this process


class Impatient(Connection):
    patience_s = 0.2


class Unhurried(Connection):
    patience_s = 1.0


LARGE = b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n"
LARGE_BYTES = 8 * 1024 * 1024


async def app(scope: Any, receive: Any, send: Any) -> None:
    body = b"x" * LARGE_BYTES if scope["path"] == "/large" else b"small"
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def serving(kind: type[Connection] = Impatient) -> AsyncIterator[tuple[int, set[Any]]]:
    """The port of a server in this process that soon loses patience, and its connections."""
    config = uvicorn.Config(app, access_log=False, log_config=None)
    config.load()
    state = ServerState()
    made = await asyncio.get_running_loop().create_server(
        lambda: kind(config=config, server_state=state, app_state={}), "127.0.0.1", 0
    )
    async with made:
        yield made.sockets[0].getsockname()[1], state.connections


@pytest.mark.parametrize("sent", [b"", b"GET /", HEALTH + b"GET /", HEALTH + b"\r\n"])
async def test_a_head_that_does_not_come_is_not_waited_for(sent: bytes) -> None:
    async with serving() as (port, _):
        reading, writing = await asyncio.open_connection("127.0.0.1", port)
        begun = time.monotonic()
        writing.write(sent)
        await asyncio.wait_for(reading.read(), 3)
        assert time.monotonic() - begun < 2
        writing.close()


async def test_a_connection_in_use_outlives_the_patience_with_heads() -> None:
    async with serving(Unhurried) as (port, _):
        reading, writing = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(12):
            writing.write(HEALTH)
            assert (await reading.readuntil(b"small")).startswith(b"HTTP/1.1 200 ")
            await asyncio.sleep(0.1)
        writing.close()


@pytest.mark.parametrize("asked", [LARGE, LARGE * 3], ids=["one answer", "more behind it"])
async def test_a_client_that_does_not_read_is_let_go(asked: bytes) -> None:
    async with serving() as (port, connections):
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(asked)
            await until(lambda: connections)
            await until(lambda: not connections, 3)


async def test_a_client_that_reads_slowly_gets_all_of_it() -> None:
    async with serving(Unhurried) as (port, _):
        reading, writing = await asyncio.open_connection("127.0.0.1", port, limit=4096)
        writing.write(LARGE)
        await reading.readuntil(b"\r\n\r\n")
        got = 0
        while got < LARGE_BYTES:
            await asyncio.sleep(0.1)
            got += len(await reading.readexactly(min(LARGE_BYTES // 16, LARGE_BYTES - got)))
        writing.close()
