"""A dispatch is run by one process at a time; the claim of a dead one is free at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ssot.claims import claim_file, is_claimed, remove_stale, try_claim


def test_a_claimed_dispatch_cannot_be_claimed_again_until_it_is_released(tmp_path: Path) -> None:
    with try_claim(tmp_path, "d-1") as claim:  # type: ignore[union-attr]
        assert claim is not None
        assert is_claimed(tmp_path, "d-1")
        assert try_claim(tmp_path, "d-1") is None
        other = try_claim(tmp_path, "d-2")
        assert other is not None
        other.release()
    assert not is_claimed(tmp_path, "d-1")
    assert not claim_file(tmp_path, "d-1").exists()


def test_releasing_twice_does_no_harm(tmp_path: Path) -> None:
    first = try_claim(tmp_path, "d-1")
    assert first is not None
    first.release()
    second = try_claim(tmp_path, "d-1")
    first.release()
    assert second is not None
    assert is_claimed(tmp_path, "d-1")
    second.release()


@pytest.mark.parametrize("dispatch_id", ["../../etc/passwd", "a/b", "", "x\x00y", "é" * 50, ".", "d-" + "9" * 300])
def test_an_id_that_came_by_hand_never_leads_out_of_the_folder(tmp_path: Path, dispatch_id: str) -> None:
    claim = try_claim(tmp_path, dispatch_id)
    assert claim is not None
    assert claim_file(tmp_path, dispatch_id).resolve().parent == (tmp_path / ".kircerta" / "claims").resolve()
    assert is_claimed(tmp_path, dispatch_id)
    claim.release()


def test_a_claim_that_is_looked_at_all_the_time_is_still_granted_once(tmp_path: Path) -> None:
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            is_claimed(tmp_path, "d-1")

    held: list[int] = []
    most = 0
    lock = threading.Lock()

    def take() -> None:
        nonlocal most
        for _ in range(200):
            claim = try_claim(tmp_path, "d-1")
            if claim is None:
                continue
            with lock:
                held.append(1)
                most = max(most, len(held))
            with lock:
                held.pop()
            claim.release()

    looking = [threading.Thread(target=look) for _ in range(2)]
    taking = [threading.Thread(target=take) for _ in range(4)]
    for thread in (*looking, *taking):
        thread.start()
    for thread in taking:
        thread.join()
    stop.set()
    for thread in looking:
        thread.join()
    assert most == 1


def test_kill_9_frees_a_claim_and_what_it_left_is_removed(tmp_path: Path) -> None:
    code = (
        "import sys, time, pathlib; from ssot.claims import try_claim; c = try_claim(pathlib.Path(sys.argv[1]), 'd-1')"
    )
    command = [sys.executable, "-c", f"{code}; print('claimed', flush=True); time.sleep(60)", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"claimed\n"
        assert is_claimed(tmp_path, "d-1")
        assert remove_stale(tmp_path) == 0
        os.kill(process.pid, signal.SIGKILL)
    assert not is_claimed(tmp_path, "d-1")
    assert remove_stale(tmp_path) == 1
    assert not claim_file(tmp_path, "d-1").exists()
