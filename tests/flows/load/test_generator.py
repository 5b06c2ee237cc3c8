"""The generator's process against a server with known delays: its figures are those that the delays add up to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows.load import measure, samples
from flows.load.generator import Brief
from flows.load.plan import Plan
from flows.load.sender import GeneratorDied, Sender
from ssot.runs import new_run_id
from tests.api.running import ROOT
from tests.flows.load.stalling import answered_at

CYCLE_S, STALL_S = 2.0, 0.5


@contextmanager
def stalling_server(cycle_s: float = CYCLE_S, stall_s: float = STALL_S) -> Iterator[str]:
    command = [sys.executable, "-m", "tests.flows.load.stalling", str(cycle_s), str(stall_s)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        process.communicate()


def sender_for(folder: Path, base_url: str, seconds: float, **more: Any) -> tuple[Sender, int]:
    """A generator that is ready, and the origin of its clock."""
    wishes = {"readers": 100, "read_rate": 200.0, "alarms": False, **more}
    plan = Plan(kind="stress", base_url=base_url, duration_s=seconds, **wishes)
    origin = time.monotonic_ns()
    brief = Brief(
        run_id=new_run_id("stress"),
        folder=str(folder),
        plan=plan,
        origin_ns=origin,
        wall_origin_s=time.time(),
        after_seq=0,
        token="",
    )
    sender = Sender(brief)
    assert sender.wait("ready", 20)
    return sender, origin


def go(sender: Sender, origin: int) -> int:
    begin = (time.monotonic_ns() - origin) // 1000 + 200_000
    sender.order(go=begin)
    return begin


def finish(sender: Sender) -> dict[str, Any]:
    assert sender.wait("sent", 30)
    sender.order(drain=0)
    assert sender.wait("over", 10)
    sender.close()
    assert sender.told.over is not None
    return sender.told.over


def test_percentiles_are_those_of_the_known_delays(tmp_path: Path) -> None:
    with stalling_server() as url:
        sender, origin = sender_for(tmp_path, url, seconds=4.0)
        begin = go(sender, origin)
        said = finish(sender)
    table = samples.settle(tmp_path)
    read = measure.results_of(table)[0]["read"]
    arrivals = [number / 200.0 for number in range(800)]
    expected = [answered_at(at, CYCLE_S, STALL_S) - at for at in arrivals]
    assert (read.count, read.errors) == (800, 0)
    for share, value in ((50, read.p50_ms), (95, read.p95_ms), (99, read.p99_ms), (100, read.max_ms)):
        assert value is not None
        assert value == pytest.approx(np.percentile(expected, share) * 1000, abs=60)  # other work on the machine
    assert read.p99_ms is not None
    assert read.p99_ms > 400  # the stall: a closed loop would have said 5 ms
    first = min(row["intended_us"] for row in table.to_pylist() if row["kind"] == "read")
    assert first == begin
    assert said["achieved"] == 1.0


def test_a_stalled_server_is_not_taken_for_a_late_generator(tmp_path: Path) -> None:
    with stalling_server(cycle_s=1.0, stall_s=0.6) as url:
        sender, origin = sender_for(tmp_path, url, seconds=2.0, readers=4)
        go(sender, origin)
        said = finish(sender)
    assert said["dispatch_lag_p99"] < 300  # far from the 600 ms that arrivals had to wait
    assert said["achieved"] == 1.0


def test_a_generator_that_was_stopped_says_so(tmp_path: Path) -> None:
    with stalling_server(stall_s=0.0) as url:
        sender, origin = sender_for(tmp_path, url, seconds=2.0)
        go(sender, origin)
        time.sleep(0.7)
        os.kill(sender.pid, signal.SIGSTOP)
        threading.Timer(0.8, os.kill, (sender.pid, signal.SIGCONT)).start()
        said = finish(sender)
    assert said["dispatch_lag_p99"] > 500


def test_it_decides_only_tasks_of_its_own_run(tmp_path: Path) -> None:
    with stalling_server(stall_s=0.0) as url:
        sender, _ = sender_for(tmp_path, url, seconds=1.0)
        sender.order(tasks=[["T-1", "approve"]])
        with pytest.raises(GeneratorDied, match="T-1 is none of this run's tasks"):
            sender.wait("sent", 10)
        sender.close()


def test_it_ends_with_whoever_started_it(tmp_path: Path) -> None:
    with stalling_server(stall_s=0.0) as url:
        sender, origin = sender_for(tmp_path, url, seconds=60.0)
        go(sender, origin)
        assert sender.process.stdin is not None
        sender.process.stdin.close()
        sender.process.wait(10)
        sender.close()
