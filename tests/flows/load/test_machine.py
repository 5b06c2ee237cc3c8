"""What /proc tells: whose port it is, whose CPU, and what is nobody's business."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from flows.load import machine
from flows.load.machine import Glance, Running

pytestmark = pytest.mark.skipif(not machine.is_known(), reason="there is no /proc")


def glance(total: int, busy: int, stolen: int = 0, **ticks: int) -> Glance:
    """Processes p1, p2 … of which each was started by the one before."""
    return Glance(total, busy, stolen, {int(pid[1:]): Running(pid, int(pid[1:]) - 1, n) for pid, n in ticks.items()})


def test_what_others_used_is_what_is_left_of_the_busy_time() -> None:
    before, now = glance(1000, 500, p1=100, p2=300), glance(2000, 900, stolen=50, p1=300, p2=350)
    assert machine.foreign_share(before, now, {1}) == pytest.approx((400 - 200 + 50) / 1000)
    assert machine.foreign_share(before, now, {1, 2}) == pytest.approx((400 - 250 + 50) / 1000)
    assert machine.used_by_others(before, now, {1}) == {"p2": 50}


def test_a_pid_that_belongs_to_another_program_by_now_counts_for_nothing() -> None:
    before = Glance(0, 0, 0, {7: Running("old", 1, 900)})
    now = Glance(100, 50, 0, {7: Running("new", 1, 10)})
    assert machine.used_by_others(before, now, set()) == {}


def test_a_family_is_everything_that_was_started_by_it() -> None:
    among = glance(0, 0, p1=0, p2=0, p3=0, p9=0).processes
    assert machine.family([2], among) == {2, 3}
    assert machine.family([404], among) == set()


def test_the_process_that_listens_on_a_port_is_found() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        assert machine.listener(port) == os.getpid()
    assert machine.listener(port) is None


def test_memory_and_files_are_those_of_the_process() -> None:
    assert (machine.resident_bytes(os.getpid()) or 0) > 1_000_000
    assert (machine.open_files(os.getpid()) or 0) >= 3
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        pass
    assert machine.resident_bytes(child.pid) is None
    assert machine.open_files(child.pid) is None


def test_what_the_record_says_of_the_machine_and_the_code() -> None:
    found = machine.described()
    assert found["cores"] >= 1
    assert found["memory_bytes"] > 0
    assert "aiohttp" in machine.versions()
    commit, dirty = machine.commit()
    assert (commit is None) == (dirty is None)
