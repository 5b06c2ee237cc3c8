"""The stream of the real server, over real sockets: storms, stuck readers, restarts, replicas, the end."""

from __future__ import annotations

import asyncio
import random
import signal
import socket
import subprocess
import sys
import time
from contextlib import AsyncExitStack, ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.auth import make_token
from ssot.store import Store
from tests.api.listening import Listener, Told, alert, told_in, until
from tests.api.running import ROOT, environment, server
from tests.api.scene import AS_APPROVER, SECRET, TASK_ID, at_stage, task

pytestmark = pytest.mark.slow


@pytest.fixture
def workspace(home: Path, store: Store) -> Store:
    task(store)
    return store


def without_gap(told: list[Told]) -> bool:
    seqs = [one.seq for one in told]
    return seqs == list(range(seqs[0], seqs[0] + len(seqs))) and all(one.event == "message" for one in told)


async def alerts(store: Store, count: int) -> list[Any]:
    return await asyncio.to_thread(lambda: [alert(store, number) for number in range(count)])


async def test_a_decision_taken_on_one_replica_is_told_by_the_other(home: Path, store: Store) -> None:
    at_stage(store, "needs_review")
    with server(home) as (_, first), server(home) as (_, second):
        async with Listener(second) as there, Listener(first) as here:
            begun = time.monotonic()
            async with httpx.AsyncClient(timeout=10) as client:
                answer = await client.post(f"http://127.0.0.1:{first}/api/tasks/{TASK_ID}/approve", headers=AS_APPROVER)
            assert answer.status_code == 200
            told = await there.tells(1)
            took_s = time.monotonic() - begun
            assert b'"type":"task_approved"' in told[0].data
            assert (await here.tells(1))[0] == told[0]
            assert took_s < 1


async def test_a_stuck_reader_is_cut_off_while_the_others_are_served(home: Path, workspace: Store) -> None:
    with server(home) as (process, port), socket.socket() as stuck:
        async with Listener(port) as reading:
            alone = _connections(process.pid)
            stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            stuck.connect(("127.0.0.1", port))
            stuck.sendall(b"GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await until(lambda: _connections(process.pid) == alone + 1)
            sent = 0
            begun = time.monotonic()
            while _connections(process.pid) > alone:
                sent += len(await alerts(workspace, 300))
                assert time.monotonic() - begun < 25
            assert without_gap(await reading.tells(sent))
        seen = told_in(await asyncio.to_thread(_drain, stuck))
        assert without_gap(seen)
        assert len(seen) < sent
        async with Listener(port, last_id=seen[-1].id) as resumed:
            told = await resumed.tells(sent - len(seen))
            assert without_gap([*seen, *told])


def _drain(connection: socket.socket) -> bytes:
    """What there is still to read, without head and chunk framing, until the connection ends."""
    data = b""
    connection.settimeout(5)
    with suppress(ConnectionResetError):
        while chunk := connection.recv(65536):
            data += chunk
    lines = data.partition(b"\r\n\r\n")[2].splitlines(keepends=True)
    return b"".join(line for line in lines if not line.endswith(b"\r\n"))


async def test_a_storm_of_500_reconnects_misses_nothing(home: Path, workspace: Store) -> None:
    with server(home) as (_, port):
        listeners = [Listener(port) for _ in range(500)]
        async with AsyncExitStack() as stack:
            for listener in listeners:
                await stack.enter_async_context(listener)
            await alerts(workspace, 5)
            for listener in listeners:
                await listener.tells(5)
        await alerts(workspace, 20)  # while nobody is there
        async with AsyncExitStack() as stack:
            writing = asyncio.create_task(alerts(workspace, 20))
            await asyncio.gather(*(stack.enter_async_context(listener) for listener in listeners))
            await writing
            for listener in listeners:
                assert without_gap(await listener.tells(45))
            assert {listener.last_id for listener in listeners} == {listeners[0].last_id}


async def test_restarts_rotation_and_cuts_leave_no_gap_and_no_repeat(home: Path, workspace: Store) -> None:
    chance = random.Random(3)
    listener = Listener(0, query="?after=0")
    for _ in range(4):
        with server(home, KIRCERTA_SEGMENT_BYTES="65536") as (process, port):
            listener.port = port
            for _ in range(8):
                async with listener:
                    await alerts(workspace, chance.randint(1, 40))
                    wanted = workspace.last_seq() - chance.randint(0, 3)
                    await until(lambda wanted=wanted: len(listener.told) >= wanted, 10)
            await alerts(workspace, 60)
            process.send_signal(chance.choice([signal.SIGKILL, signal.SIGTERM]))
            process.wait(10)
    with server(home) as (_, port):
        listener.port = port
        async with listener:
            await listener.tells(workspace.last_seq())
    assert [told.id for told in listener.told] == [event.cursor for event in workspace.events()]


async def test_sigterm_with_100_streams_ends_them_all_within_3_s(home: Path, workspace: Store) -> None:
    with server(home) as (process, port):
        async with AsyncExitStack() as stack:
            listeners = [await stack.enter_async_context(Listener(port)) for _ in range(100)]
            stuck = stack.enter_context(socket.socket())
            stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            stuck.connect(("127.0.0.1", port))
            stuck.sendall(b"GET /api/events?after=0 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await alerts(workspace, 900)
            begun = time.monotonic()
            process.send_signal(signal.SIGTERM)
            code = await asyncio.to_thread(process.wait, 10)
            took_s = time.monotonic() - begun
            await until(lambda: all(listener.closed for listener in listeners))
            assert all(without_gap(listener.told) for listener in listeners)
            assert sum("the server stops" in listener.comments for listener in listeners) == 100
        assert (code, took_s < 3) == (0, True), took_s


async def test_the_gate_of_reads_is_the_gate_of_the_stream(home: Path, workspace: Store) -> None:
    with server(home, KIRCERTA_READ_AUTH="1") as (_, port):
        refused = httpx.get(f"http://127.0.0.1:{port}/api/events", timeout=5)
        assert (refused.status_code, refused.json()["code"]) == (401, "unauthenticated")
        assert refused.headers["www-authenticate"] == "Bearer"
        token = make_token(SECRET, "vera", ["viewer"], 2)
        async with Listener(port, headers={"Authorization": f"Bearer {token}"}) as listener:
            await alerts(workspace, 1)
            await listener.tells(1)
            await until(lambda: listener.closed, 4)
            assert listener.comments[-1] == "the token has expired"


def test_head_and_post_are_answered_at_once(home: Path, workspace: Store) -> None:
    with server(home) as (_, port):
        for method in ("HEAD", "POST"):
            answer = httpx.request(method, f"http://127.0.0.1:{port}/api/events", timeout=5)
            assert (answer.status_code, answer.headers["allow"]) == (405, "GET")


async def test_who_asks_for_more_behind_a_stream_and_leaves_disturbs_nobody(home: Path, workspace: Store) -> None:
    """uvicorn tells only the newest request of a connection that it is gone; the stream is an older one."""
    with server(home) as (process, port):
        async with AsyncExitStack() as stack:
            listeners = [await stack.enter_async_context(Listener(port)) for _ in range(10)]
            for _ in range(10):
                async with Listener(port) as leaving:
                    leaving.asks(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
                    await asyncio.sleep(0.02)
            for number in range(5):
                await alerts(workspace, 1)
                for listener in listeners:
                    await listener.tells(number + 1, within_s=3)
        process.send_signal(signal.SIGTERM)
        _, errors = await asyncio.to_thread(process.communicate, timeout=10)
    assert errors == b""


async def test_who_leaves_is_forgotten(home: Path, workspace: Store) -> None:
    with server(home) as (process, port):
        for _ in range(3):
            async with AsyncExitStack() as stack:
                for _ in range(50):
                    await stack.enter_async_context(Listener(port))
        await until(lambda: _connections(process.pid) < 5)


def _connections(pid: int) -> int:
    return sum("socket:" in _target(path) for path in Path(f"/proc/{pid}/fd").iterdir())


def _target(path: Path) -> str:
    try:
        return str(path.readlink())
    except OSError:
        return ""


def test_three_clients_see_one_decision(home: Path, workspace: Store) -> None:
    with ExitStack() as stack:
        _, port = stack.enter_context(server(home))
        done = run_three_clients(port, home)
        assert (done.returncode, done.stdout.count("yes")) == (0, 3), done.stdout + done.stderr


def run_three_clients(port: int, home: Path) -> subprocess.CompletedProcess[str]:
    script = ROOT / "scripts" / "validation" / "sse_three_clients.py"
    return subprocess.run(
        [sys.executable, "-W", "error", str(script), "--base-url", f"http://127.0.0.1:{port}", "--home", str(home)],
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
