"""The real server: how it starts, ends, and stands hostile senders."""

from __future__ import annotations

import resource
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from ssot.store import Store
from tests.api.running import command, environment, exchange, free_port, server
from tests.api.scene import AS_APPROVER, TASK_ID, at_stage, task

pytestmark = pytest.mark.slow
LIMIT = 2048


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("workspace")


@pytest.fixture(scope="module")
def running(workspace: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    store = Store.open(workspace, source="kircerta/tests")
    at_stage(store, "needs_review")
    store.close()
    with server(workspace, KIRCERTA_MAX_BODY_BYTES=str(LIMIT)) as started:
        yield started


@pytest.fixture(scope="module")
def port(running: tuple[subprocess.Popen[bytes], int]) -> int:
    return running[1]


def request(name: str, *headers: str) -> bytes:
    token = AS_APPROVER["Authorization"]
    lines = [f"POST /api/tasks/{TASK_ID}/{name} HTTP/1.1", "Host: localhost", f"Authorization: {token}", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def test_a_body_that_announces_too_much_is_refused_before_it_is_read(port: int) -> None:
    answer = exchange(port, request("reject", f"Content-Length: {10**9}", "Content-Type: application/json"), b"{" * 100)
    assert (status(answer), b'"code":"too_large"' in answer) == (413, True)
    assert b"connection: close" in answer.lower()


def test_who_waits_for_permission_to_send_is_told_at_once(port: int) -> None:
    begun = time.monotonic()
    answer = exchange(port, request("reject", f"Content-Length: {10**9}", "Expect: 100-continue"))
    assert (status(answer), time.monotonic() - begun < 0.4) == (413, True)


def test_a_chunked_body_is_cut_off_at_the_limit(port: int) -> None:
    chunk = b"400\r\n" + b"x" * 0x400 + b"\r\n"
    answer = exchange(port, request("reject", "Transfer-Encoding: chunked"), *[chunk] * 10)
    assert (status(answer), b'"code":"too_large"' in answer) == (413, True)


def test_a_body_at_the_limit_is_read(port: int) -> None:
    body = b'{"reason": "no", "x": "' + b"x" * (LIMIT - 25) + b'"}'
    assert len(body) == LIMIT
    head = request("reject", f"Content-Length: {LIMIT}", "Content-Type: application/json")
    assert status(exchange(port, head, body)) == 422


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin-1", ""]
)
def test_a_body_that_is_not_json_is_a_415(port: int, kind: str) -> None:
    answer = exchange(port, request("reject", "Content-Length: 2", f"Content-Type: {kind}"), b"{}")
    assert (status(answer), b'"code":"unsupported_media_type"' in answer) == (415, True)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"GET /api/tasks HTTP/1.1\r\n\r\n", 400),
        (b"GET /api/tasks HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n", 400),
        (b"GET /api/tasks HTTP/1.1\r\nHost: evil\r\n\r\n", 421),
        (b"GET /api/tasks/..%2f..%2fetc%2fpasswd HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"GET /api/tasks/../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"GET /api/tasks/T-1%00.json HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"GET /static/..%2f..%2fapp.py HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"nonsense\r\n\r\n", 400),
    ],
)
def test_odd_requests_are_refused(port: int, raw: bytes, expected: int) -> None:
    assert status(exchange(port, raw)) == expected


def test_an_upgrade_to_a_websocket_is_answered_like_any_request(port: int) -> None:
    upgrade = b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x\r\n\r\n"
    answer = exchange(port, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + upgrade)
    assert status(answer) in (200, 400)


def test_head_sends_no_body(port: int) -> None:
    answer = exchange(port, b"HEAD /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert (status(answer), answer.partition(b"\r\n\r\n")[2]) == (200, b"")


@pytest.mark.parametrize("path", ["/healthz", "/api/tasks", f"/api/tasks/{TASK_ID}", "/"])
def test_the_connection_goes_on_after_a_head(port: int, path: str) -> None:
    head = f"HEAD {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    last = b"HEAD /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(head + head + last)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.count(b"HTTP/1.1 200 OK") == 3


def test_a_full_disk_is_a_507_and_passes(running: tuple[subprocess.Popen[bytes], int], workspace: Path) -> None:
    """The largest size of a file is set to that of the log: it can grow no more."""
    process, port = running
    url = f"http://127.0.0.1:{port}/api/tasks/{TASK_ID}/approve"
    room = (workspace / "audit" / "events.jsonl").stat().st_size + 100
    before = resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
    try:
        refused = httpx.post(url, headers=AS_APPROVER)
        reading = httpx.get(f"http://127.0.0.1:{port}/api/tasks/{TASK_ID}")
    finally:
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, before)
    assert (refused.status_code, refused.json()["code"]) == (507, "disk_full")
    assert reading.json()["status"] == "needs_review"
    assert httpx.post(url, headers=AS_APPROVER).status_code == 200


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_it_cleanly_with_everything_counted_written(tmp_path: Path, number: int, code: int) -> None:
    with server(tmp_path) as (process, port):
        idle = socket.create_connection(("127.0.0.1", port))
        assert httpx.post(f"http://127.0.0.1:{port}/api/tasks/T-1/approve").status_code == 401
        begun = time.monotonic()
        process.send_signal(number)
        _, errors = process.communicate(timeout=10)
        idle.close()
    assert (process.returncode, time.monotonic() - begun < 3, errors) == (code, True, b"")
    denied = [e for e in Store.open(tmp_path, source="kircerta/tests").events() if e.type == "auth_denied"]
    assert [event.data["count"] for event in denied] == [1]


def test_a_port_in_use_is_one_clear_line_and_touches_nothing(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ended = subprocess.run(
            command(port), env=environment(home), cwd=home, capture_output=True, timeout=30, check=False
        )
    assert ended.returncode == 2
    assert ended.stderr.decode().splitlines() == [
        f"kircerta: port {port} on 127.0.0.1 is in use: stop what uses it, or choose another with --port"
    ]
    assert list(home.iterdir()) == []


def test_a_folder_that_cannot_be_used_is_one_clear_line(tmp_path: Path) -> None:
    home = tmp_path / "made of paper"
    home.mkdir()
    (home / "ssot").write_text("not a folder")
    ended = subprocess.run(
        command(free_port()), env=environment(home), cwd=tmp_path, capture_output=True, timeout=30, check=False
    )
    lines = ended.stderr.decode().splitlines()
    assert (ended.returncode, len(lines)) == (2, 1), lines
    assert str(home) in lines[0]


def test_a_corrupt_log_is_one_clear_line(tmp_path: Path) -> None:
    store = Store.open(tmp_path, source="kircerta/tests")
    task(store)
    task(store, "T-2")
    store.close()
    log = tmp_path / "audit" / "events.jsonl"
    log.write_bytes(log.read_bytes().replace(b"let greet", b"let hello", 1))
    ended = subprocess.run(
        command(free_port()), env=environment(tmp_path), cwd=tmp_path, capture_output=True, timeout=30, check=False
    )
    lines = ended.stderr.decode().splitlines()
    assert (ended.returncode, len(lines), "seq 2" in lines[0]) == (2, 1, True), lines


def test_after_kill_9_the_next_start_has_every_acknowledged_decision(tmp_path: Path) -> None:
    store = Store.open(tmp_path, source="kircerta/tests")
    at_stage(store, "needs_review")
    store.close()
    with server(tmp_path) as (process, port):
        assert (
            httpx.post(f"http://127.0.0.1:{port}/api/tasks/{TASK_ID}/approve", headers=AS_APPROVER).status_code == 200
        )
        process.kill()
        process.wait()
    with server(tmp_path) as (_, port):
        assert httpx.get(f"http://127.0.0.1:{port}/api/tasks/{TASK_ID}").json()["status"] == "approved"
