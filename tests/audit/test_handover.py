"""The lock is passed on: who waits is told when it is given back, and whoever misses that asks again by itself."""

from __future__ import annotations

import errno
import os
import sys
import threading
import time
from pathlib import Path

import pytest

from audit import handover
from audit.files import FileLock
from audit.handover import Handover

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="inotify is Linux's")
LONG_MS = 10_000


@pytest.fixture
def patient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Handover:
    """One whose safety net is far away: what comes sooner came by a sign."""
    monkeypatch.setattr(handover, "PATIENCE_MS", LONG_MS)
    (tmp_path / ".lock").touch()
    return Handover(tmp_path / ".lock")


def hold_for(lock: FileLock, seconds: float) -> threading.Thread:
    holding = threading.Event()

    def hold() -> None:
        with lock.hold():
            holding.set()
            time.sleep(seconds)

    thread = threading.Thread(target=hold)
    thread.start()
    holding.wait(5)
    return thread


def test_who_waits_is_told_when_the_lock_is_given_back(tmp_path: Path, patient: Handover) -> None:
    holder = hold_for(FileLock(tmp_path / ".lock"), 0.2)
    begin = time.monotonic()
    assert patient.wait()
    assert 0.1 < time.monotonic() - begin < LONG_MS / 2000
    holder.join()
    patient.close()


def test_a_lock_given_back_between_asking_and_waiting_is_not_missed(tmp_path: Path, patient: Handover) -> None:
    assert patient._is_open()
    hold_for(FileLock(tmp_path / ".lock"), 0.0).join()
    begin = time.monotonic()
    assert patient.wait()
    assert time.monotonic() - begin < LONG_MS / 2000
    patient.close()


def test_who_hears_nothing_asks_again_by_itself(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    deaf = Handover(tmp_path / ".lock")
    begin = time.monotonic()
    assert deaf.wait()
    assert time.monotonic() - begin < 5
    deaf.close()


def test_without_an_instance_left_nobody_waits_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "no inotify instance left")

    monkeypatch.setattr(handover, "INotify", none_left)
    (tmp_path / ".lock").touch()
    assert not Handover(tmp_path / ".lock").wait()


def test_a_lock_with_a_handover_excludes_and_passes_on(tmp_path: Path) -> None:
    inside, most, turns = [0], [0], [0]

    def work() -> None:
        lock = FileLock(tmp_path / ".lock", Handover(tmp_path / ".lock"))  # as a process of its own would have it
        for _ in range(100):
            with lock.hold(30):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                turns[0] += 1
                time.sleep(0.0002)
                inside[0] -= 1

    crowd = [threading.Thread(target=work) for _ in range(4)]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join()
    assert (most, turns) == ([1], [400])


def test_a_child_does_not_listen_with_its_parents_ears(tmp_path: Path, patient: Handover) -> None:
    assert patient._is_open()
    parents = patient._inotify
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if patient._is_open() and patient._inotify is not parents else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    patient.close()
