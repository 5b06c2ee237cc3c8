"""`kircerta load`: exit codes, wrong use, Ctrl-C and kill -9."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from ssot.runs import Runs
from ssot.store import Store
from tests.api.running import ROOT, environment, server

LENIENT = ["--gate", "foreign_cpu<=1", "--gate", "generator_cpu<=1", "--gate", "dispatch_lag_p99<=400"]
SMALL = ["--streams", "2", "--readers", "2", "--read-rate", "20", "--deciders", "2", "--write-rate", "5"]


def load(home: Path, *arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "cli.main", "load", *arguments]
    return subprocess.Popen(command, cwd=ROOT, env=environment(home), stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def ended(process: subprocess.Popen[bytes]) -> tuple[int, bytes, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err.decode()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["soak", "--base-url", "http://example.org"], "is not this machine"),
        (["soak", "--duration", "forever"], "no duration"),
        (["stress", "--threshold", "read_p95"], "no expression"),
        (["stress", "--threshold", "reed_p95<2"], "reed_p95 is not measured"),
        (["stress", "--gate", "read_p95<2"], "read_p95 is not measured"),
        (["flood", "--sizes", "huge"], "no size"),
        (["soak", "--read-rate", "-1"], "--read-rate"),
        (["soak", "--base-url", "http://127.0.0.1:9"], "nobody answers"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(tmp_path: Path, arguments: list[str], says: str) -> None:
    code, _, error = ended(load(tmp_path, *arguments))
    assert code == 2
    assert says in error
    assert error.count("\n") == 1
    assert not (tmp_path / "reports").exists()


@pytest.mark.slow
def test_it_exits_with_what_the_run_came_to(tmp_path: Path) -> None:
    with server(tmp_path) as (_, port):
        url = ["--base-url", f"http://127.0.0.1:{port}", "--duration", "1.5s", "--json"]
        good = ["--threshold", "read_p95<5000", "--threshold", "write_p95<5000"]
        runs = [
            load(tmp_path, "stress", *url, *SMALL, *LENIENT, *good),
            load(tmp_path, "stress", *url, *SMALL, *LENIENT, "--threshold", "read_p95<0.001"),
            load(tmp_path, "stress", *url, *SMALL, *LENIENT, "--gate", "achieved>=2"),
        ]
        codes = [ended(one) for one in runs]
    assert [code for code, _, _ in codes] == [0, 1, 3], [error for *_, error in codes]
    records = [orjson.loads(out) for _, out, _ in codes]
    assert [one["outcome"] for one in records] == ["pass", "fail", "invalid"]
    for record in records:
        assert orjson.loads((tmp_path / "reports" / "runs" / record["run_id"] / "run.json").read_bytes()) == record


@pytest.mark.slow
def test_ctrl_c_ends_it_with_what_it_has(tmp_path: Path) -> None:
    with server(tmp_path) as (_, port):
        run = load(tmp_path, "soak", "--base-url", f"http://127.0.0.1:{port}", "--json", *SMALL, *LENIENT)
        until(lambda: decided(tmp_path))
        run.send_signal(signal.SIGINT)
        code, out, error = ended(run)
    record = orjson.loads(out)
    assert code == 130, error
    assert (record["state"], record["interrupted"]) == ("finished", True)
    assert record["results"]["write"]["count"] >= 1


@pytest.mark.slow
def test_a_run_that_was_killed_is_marked_crashed_by_the_next_and_its_samples_are_kept(tmp_path: Path) -> None:
    with server(tmp_path) as (_, port):
        url = ["--base-url", f"http://127.0.0.1:{port}"]
        run = load(tmp_path, "soak", *url, *SMALL, *LENIENT)
        until(lambda: decided(tmp_path))
        os.kill(run.pid, signal.SIGKILL)
        ended(run)
        code, out, error = ended(load(tmp_path, "stress", *url, "--duration", "1s", "--json", *SMALL, *LENIENT))
    assert code in (0, 1), error
    store = Store.open(tmp_path, source="kircerta/test")
    killed, after = Runs(store).all()
    assert (killed.state, killed.outcome, killed.finished_at is not None) == ("crashed", "invalid", True)
    assert after.run_id == orjson.loads(out)["run_id"]
    assert (Runs(store).path(killed.run_id) / "samples.parquet").stat().st_size > 0
    assert not store.pending()  # its tasks were put away, too
    store.close()


def decided(home: Path) -> bool:
    """Whether the run is under way: its first decisions are in the log."""
    log = home / "audit" / "events.jsonl"
    return log.exists() and log.read_bytes().count(b'"type":"task_rejected"') > 3


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)
