"""`kircerta dispatch`, without anything else running, and the watchdog's turn."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from cli.dispatch import follow, leave_to_others
from cli.workspace import open_store
from flows.pipeline import Order
from flows.workspace import Workspace
from ssot.settings import load
from tests.cli.conftest import Run


def create(run: Run, *ids: str) -> None:
    for task_id in ids:
        assert run("task", "create", "Say hello.", "--id", task_id).code == 0


def test_tasks_reach_the_gate_in_this_process(run: Run) -> None:
    create(run, "T-1", "T-2")
    ran = run("dispatch", "T-1", "T-2", "--executor", "fake-inproc", "--reviewer", "fake-inproc", "--json")
    assert ran.code == 0
    assert [(one["task_id"], one["stage"], one["ok"]) for one in ran.json["outcomes"]] == [
        ("T-1", "needs_review", True),
        ("T-2", "needs_review", True),
    ]
    assert ran.json["served"] is False
    shown = run("task", "show", "T-1").out
    assert "verdict" in shown
    assert "kircerta approve T-1" in shown


def test_the_subprocess_agents_work_too(run: Run) -> None:
    create(run, "T-1")
    ran = run("dispatch", "T-1")
    assert ran.code == 0
    assert "NeedsReview" in ran.out


def test_an_attempt_that_ends_before_the_gate_is_exit_code_1(run: Run) -> None:
    create(run, "T-1")
    ran = run("dispatch", "T-1", "--executor", "fake-inproc:mode=crash", "--json")
    assert ran.code == 1
    assert ran.json["outcomes"][0]["name"] == "ExecutorFailed"
    assert run("task", "show", "T-1", "--json").json["attempts"][0]["ended"]["reason"] == "executor_failed"


def test_why_an_attempt_stopped_is_told_though_another_process_ran_it(run: Run, home: Path) -> None:
    create(run, "T-1")
    here = run("dispatch", "T-1", "--executor", "fake-inproc:mode=crash", "--json").json["outcomes"][0]
    settings = load(home=home)
    with open_store(settings) as store:
        followed = list(follow(Workspace(settings, store), {"T-1": here["dispatch_id"]}, "review", None))
    assert [(one.name, one.detail) for one in followed] == [("ExecutorFailed", here["detail"])]
    assert here["detail"]


def test_one_unknown_task_does_not_hinder_the_others(run: Run) -> None:
    create(run, "T-1")
    ran = run("dispatch", "T-9", "T-1", "--executor", "fake-inproc", "--reviewer", "fake-inproc", "--json")
    assert ran.code == 1
    assert [one["name"] for one in ran.json["outcomes"]] == ["Refused", "NeedsReview"]
    assert "no task T-9" in ran.err


def test_a_task_at_the_gate_takes_no_dispatch(run: Run) -> None:
    create(run, "T-1")
    run("dispatch", "T-1", "--executor", "fake-inproc", "--reviewer", "fake-inproc")
    again = run("dispatch", "T-1", "--executor", "fake-inproc", "--reviewer", "fake-inproc")
    assert again.code == 1
    assert "needs_review" in again.err
    assert len(run("task", "show", "T-1", "--json").json["attempts"]) == 1


def test_a_refused_dispatch_claims_no_stage_of_an_attempt_that_there_is_not(run: Run) -> None:
    create(run, "T-1")
    agents = ("--executor", "fake-inproc", "--reviewer", "fake-inproc")
    run("dispatch", "T-1", *agents)
    refused = run("dispatch", "T-1", "T-9", *agents, "--json").json["outcomes"]
    assert [(one["name"], one["dispatch_id"], one["stage"]) for one in refused] == [("Refused", "", None)] * 2


def test_without_served_flows_only_a_remote_agent_can_be_left_alone(run: Run) -> None:
    create(run, "T-1")
    alone = run("dispatch", "T-1", "--wait", "none")
    assert alone.code == 2
    assert "kircerta up" in alone.err
    remote = run("dispatch", "T-1", "--executor", "remote", "--wait", "none", "--json")
    assert remote.code == 0
    assert remote.json["outcomes"][0]["dispatch_id"].startswith("d-")
    assert run("task", "show", "T-1", "--json").json["attempts"][0]["ack"] is None


def test_a_timeout_leaves_the_attempt_open_and_a_second_call_goes_on_with_it(run: Run) -> None:
    create(run, "T-1")
    late = run("dispatch", "T-1", "--executor", "fake-inproc:mode=slow,seconds=30,beat=0.2", "--timeout", "1")
    assert late.code == 1
    assert "--timeout" in late.err
    attempts = run("task", "show", "T-1", "--json").json["attempts"]
    assert len(attempts) == 1
    assert attempts[0]["ended"] is None
    again = run("dispatch", "T-1", "--timeout", "1", "--json")
    assert again.code == 1
    assert len(run("task", "show", "T-1", "--json").json["attempts"]) == 1


def test_a_turn_of_the_watchdog_ends_an_overdue_dispatch_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    create(run, "T-1")
    assert run("flows", "watchdog", "--json").json == {"found": []}
    monkeypatch.setenv("KIRCERTA_ACK_TIMEOUT_S", "0.001")
    run("dispatch", "T-1", "--executor", "remote", "--wait", "none")
    assert run("flows", "watchdog", "--json").json == {
        "found": [{"task_id": "T-1", "finding": "ack_timeout", "recorded": True}]
    }
    assert run("flows", "watchdog").out == "nothing is overdue\n"
    assert run("task", "show", "T-1", "--json").json["attempts"][0]["ended"]["reason"] == "ack_timeout"


def test_what_nobody_acknowledged_in_time_is_dispatched_anew(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where nothing but the API runs, and so no watchdog."""
    create(run, "T-1")
    monkeypatch.setenv("KIRCERTA_ACK_TIMEOUT_S", "0.001")
    for _ in range(2):
        assert run("dispatch", "T-1", "--executor", "remote", "--wait", "none").code == 0
    attempts = run("task", "show", "T-1", "--json").json["attempts"]
    assert [one["ended"] and one["ended"]["reason"] for one in attempts] == ["ack_timeout", None]


def test_ctrl_c_stops_the_agents_and_leaves_the_attempt_open(run: Run) -> None:
    create(run, "T-1")
    command = [sys.executable, "-m", "cli.main", "dispatch", "T-1", "--executor", "fake:mode=slow,seconds=60"]
    dispatching = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    follower = psutil.Process(dispatching.pid)
    deadline = time.monotonic() + 20
    while "ack_received" not in run("audit", "tail", "--json").out:
        assert time.monotonic() < deadline
    agents = follower.children(recursive=True)
    assert agents
    dispatching.send_signal(signal.SIGINT)
    out, err = dispatching.communicate(timeout=10)
    assert (dispatching.returncode, out, err) == (130, b"", b"")
    _, alive = psutil.wait_procs(agents, timeout=5)
    assert alive == []
    assert run("task", "show", "T-1", "--json").json["attempts"][0]["ended"] is None


@pytest.mark.slow
def test_when_the_dispatcher_dies_and_stays_away_its_work_is_done_here(run: Run, home: Path) -> None:
    create(run, "T-1")
    settings = load()
    with open_store(settings) as store:
        order = Order("fake-inproc", "fake-inproc", "alice@cli")
        outcomes = leave_to_others(Workspace(settings, store), ["T-1"], order, "review", None)
    assert [(one.task_id, one.stage) for one in outcomes] == [("T-1", "needs_review")]
    assert run("audit", "tail", "--type", "task_dispatched", "--json").out.count("\n") == 1
