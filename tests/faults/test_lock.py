"""The workspace's lock under many at once: nobody starves, nobody waits longer than asked, nothing stays locked."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from audit.files import Busy, FileLock


def locks(tmp_path: Path, count: int) -> list[FileLock]:
    """As many processes would have them: each opens the sidecar for itself."""
    return [FileLock(tmp_path / ".lock") for _ in range(count)]


def test_who_waits_gets_its_turn_though_others_ask_all_the_time(tmp_path: Path) -> None:
    patient, *greedy = locks(tmp_path, 4)
    stop = threading.Event()

    def ask_again_and_again(lock: FileLock) -> None:
        while not stop.is_set():
            with lock.hold(30):
                time.sleep(0.002)

    threads = [threading.Thread(target=ask_again_and_again, args=(lock,)) for lock in greedy]
    for thread in threads:
        thread.start()
    waited = []
    try:
        for _ in range(30):
            begin = time.monotonic()
            with patient.hold(30):
                waited.append(time.monotonic() - begin)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert max(waited) < 2


@pytest.mark.parametrize("timeout", [0.0, 0.005, 0.2])
def test_who_waits_in_vain_is_told_in_time_and_leaves_no_lock_behind(tmp_path: Path, timeout: float) -> None:
    one, other = locks(tmp_path, 2)
    with one.hold():
        begin = time.monotonic()
        with pytest.raises(Busy, match="try again"), other.hold(timeout):
            pass
        assert time.monotonic() - begin < timeout + 1
    for lock in (other, one, other):  # the one left behind in the queue gives it back at once
        with lock.hold(2):
            pass


def test_what_fails_while_waiting_leaves_no_lock_behind(tmp_path: Path) -> None:
    one, other = locks(tmp_path, 2)

    def fail() -> None:
        if time.monotonic() - begin > 0.1:
            raise KeyError("meanwhile")

    with one.hold():
        begin = time.monotonic()
        with pytest.raises(KeyError), other.hold(5, fail):
            pass
    with other.hold(2):
        pass
