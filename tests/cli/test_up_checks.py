"""What `kircerta up` looks at before it starts anything: each obstacle is one line, and exit code 2."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli import up
from cli.failures import WrongUse
from cli.up import AtTheGate, Plan, greeting, keep_key
from cli.workspace import Running, lock_file, running
from flows.server import free_port
from ssot.settings import load
from tests.cli.conftest import Run


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody uses."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(1)
        yield int(server.getsockname()[1])


def test_a_port_in_use_is_told_with_the_option_that_chooses_another(run: Run, taken: int) -> None:
    for option, other in (("--port", "--prefect-port"), ("--prefect-port", "--port")):
        ran = run("up", option, str(taken), other, str(free_port()))
        assert ran.code == 2
        assert f"port {taken} " in ran.err
        assert option in ran.err
        assert ran.err.count("\n") == 1


def test_a_folder_that_cannot_be_written_is_told(run: Run, home: Path) -> None:
    home.rmdir()
    home.write_text("a file where the folder should be")
    ran = run("up")
    assert ran.code == 2
    assert str(home) in ran.err
    assert ran.err.count("\n") == 1


def test_a_folder_on_a_file_system_that_takes_nothing_is_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIRCERTA_HOME", "/proc/kircerta")
    ran = run("up")
    assert ran.code == 2
    assert "/proc/kircerta" in ran.err


def test_a_second_up_is_told_where_the_first_one_is(run: Run, home: Path) -> None:
    path = lock_file(home)
    path.parent.mkdir()
    with path.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        Running(4711, "http://127.0.0.1:8123", "http://127.0.0.1:4321/api").save(home)
        ran = run("up")
        assert ran.code == 2
        assert "process 4711" in ran.err
        assert "http://127.0.0.1:8123" in ran.err
        assert running(home) == Running(4711, "http://127.0.0.1:8123", "http://127.0.0.1:4321/api")
    assert running(home) is None  # what a dead one left behind does not count


def test_the_key_is_made_once_and_readable_by_its_owner_alone(home: Path) -> None:
    before = os.umask(0)
    try:
        keep_key(Plan(load(), "127.0.0.1", 8000, 4200))
    finally:
        os.umask(before)
    key = home / ".secrets" / "jwt_secret"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE(key.parent.stat().st_mode) == 0o700
    made = key.read_text()
    assert len(made.strip()) >= 32
    keep_key(Plan(load(), "127.0.0.1", 8000, 4200))
    assert key.read_text() == made
    assert [path.name for path in key.parent.iterdir()] == ["jwt_secret"]


def test_an_address_that_somebody_set_stands_above_the_running_one(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cli import workspace

    path = lock_file(home)
    path.parent.mkdir()
    with path.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        Running(4711, "http://127.0.0.1:8123", "http://127.0.0.1:4321/api").save(home)
        assert workspace.settings().api_url == "http://127.0.0.1:8123"
        assert workspace.settings().prefect_api_url == "http://127.0.0.1:4321/api"
        monkeypatch.setenv("KIRCERTA_API_URL", "http://127.0.0.1:9999")
        assert workspace.settings().api_url == "http://127.0.0.1:9999"
    assert workspace.settings().prefect_api_url is None


def test_one_port_cannot_serve_two(home: Path) -> None:
    port = free_port()
    with pytest.raises(WrongUse, match="cannot serve both"):
        up.check_ports(Plan(load(), "127.0.0.1", port, port))


def test_the_greeting_approves_what_is_good_and_rejects_what_is_not(home: Path) -> None:
    plan = Plan(load(), "127.0.0.1", 8123, 4321)
    told = "\n".join(greeting(plan, [AtTheGate("T-1", "reject"), AtTheGate("T-2", "approve")]))
    for part in ("http://127.0.0.1:8123/docs", "http://127.0.0.1:4321", "approve T-2", "tasks/T-1/reject", str(home)):
        assert part in told
    assert " approve " not in "\n".join(greeting(plan, []))
