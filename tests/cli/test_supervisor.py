"""The supervisor of `kircerta up`: nothing that it started is left behind, and a dead process starts again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from cli.supervisor import MAX_QUICK_DEATHS, GaveUp, Service, Supervisor, last_words

STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
)
WITH_CHILD = (
    "import subprocess, sys, time;"
    "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True);"
    "print('has one', flush=True); time.sleep(600)"
)


def service(log: Path, code: str, name: str = "worker") -> Service:
    return Service(name, [sys.executable, "-c", code], dict(os.environ), log, lambda: True)


def wait_for(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.02)


Below = Callable[[], list[psutil.Process]]


@pytest.fixture
def below() -> Below:
    """Lists the processes below this one that the test has started: other fixtures have some, too."""
    before = set(psutil.Process().children(recursive=True))
    return lambda: [process for process in psutil.Process().children(recursive=True) if process not in before]


def test_stopping_leaves_nothing_not_even_a_child_with_a_session_of_its_own(tmp_path: Path, below: Below) -> None:
    log = tmp_path / "log"
    supervisor = Supervisor(lambda line: None)
    supervisor.start(service(log, WITH_CHILD))
    wait_for(lambda: "has one" in log.read_text())
    started = below()
    assert len(started) >= 3
    supervisor.stop()
    assert [process for process in started if process.is_running()] == []


def test_the_dead_start_again_and_it_is_said(tmp_path: Path, below: Below) -> None:
    said: list[str] = []
    log = tmp_path / "log"
    supervisor = Supervisor(said.append)
    supervisor.start(service(log, "print('up', flush=True); import time; time.sleep(600)"))
    wait_for(lambda: "up" in log.read_text())
    worker = next(process for process in below() if "keeper.py" not in " ".join(process.cmdline()))
    worker.kill()
    wait_for(lambda: bool(supervisor.turn() or log.read_text().count("up") == 2))
    supervisor.stop()
    assert len(said) == 1
    assert "worker died (by SIGKILL: up)" in said[0]


@pytest.mark.slow
def test_who_dies_at_once_again_and_again_is_given_up(tmp_path: Path) -> None:
    log = tmp_path / "log"
    supervisor = Supervisor(lambda line: None)
    supervisor.start(service(log, "print('no such table'); raise SystemExit(3)"))

    def turn_until_given_up() -> None:
        wait_for(lambda: bool(supervisor.turn()), 60)

    with pytest.raises(GaveUp, match=f"died {MAX_QUICK_DEATHS} times in a row .exit code 3: no such table."):
        turn_until_given_up()
    supervisor.stop()


@pytest.mark.slow
def test_the_deaf_are_killed_after_the_grace(tmp_path: Path, below: Below) -> None:
    log = tmp_path / "log"
    supervisor = Supervisor(lambda line: None)
    supervisor.start(service(log, STUBBORN))
    wait_for(lambda: "deaf" in log.read_text())
    started = below()
    supervisor.stop()
    assert [process for process in started if process.is_running()] == []


def test_when_the_supervisor_is_killed_everything_goes_with_it(tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = (
        "import os, sys, time; from pathlib import Path; from cli.supervisor import *;"
        "s = Supervisor(print);"
        f"s.start(Service('w', [sys.executable, '-c', {WITH_CHILD!r}], dict(os.environ), Path({str(log)!r}), bool));"
        "time.sleep(600)"
    )
    supervisor = subprocess.Popen([sys.executable, "-c", code])
    wait_for(lambda: log.exists() and "has one" in log.read_text())
    started = psutil.Process(supervisor.pid).children(recursive=True)
    assert len(started) >= 3
    supervisor.send_signal(signal.SIGKILL)
    supervisor.wait()
    wait_for(lambda: not any(process.is_running() and process.status() != "zombie" for process in started))


def test_the_last_words_of_a_log_are_its_last_line(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert last_words(log) == ""
    log.write_text("one\ntwo\n\n")
    assert last_words(log) == ": two"
