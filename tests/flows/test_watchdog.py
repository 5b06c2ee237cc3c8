"""What is overdue is found once, however many look for it, and when nothing else of ours is alive."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from pathlib import Path

import pytest

from flows.here import run_here
from flows.overdue import Overdue, find_overdue, settle
from flows.pipeline import Order
from flows.workspace import Workspace
from ssot.beats import keep_sign
from ssot.claims import try_claim
from ssot.intents import Create, Dispatch, EndAttempt, SendAck, SendHeartbeat, TimeOutAck, WarnOfSilence
from ssot.presence import AlreadyRunning, become_dispatcher, dispatcher_of, is_dispatcher_alive
from ssot.task import AckBody, Echo
from tests.flows.conftest import CRITERIA, Made, add_task, settings_for, told


def dispatch(workspace: Workspace, task_id: str, dispatch_id: str = "d-1", **to: str) -> None:
    add_task(workspace, task_id)
    patience = workspace.settings.ack_timeout_s
    workspace.store.commit(task_id, Dispatch(dispatch_id, ack_timeout_s=patience, **to), actor="cli")


def acknowledge(workspace: Workspace, task_id: str, dispatch_id: str = "d-1", by: str = "fake-executor") -> None:
    task = workspace.store.task(task_id)
    echo = tuple(Echo(criterion_ref=one.id, text=one.text) for one in task.acceptance_criteria)
    body = AckBody(dispatch_id=dispatch_id, echo=echo, scope=task.scope)
    workspace.store.commit(task_id, SendAck(body), actor=by)


def test_nothing_is_overdue_in_time(workspace: Workspace) -> None:
    dispatch(workspace, "T-1", executor="remote")
    assert find_overdue(workspace, time.time()) == []


def test_an_overdue_ack_is_found_also_of_a_remote_executor(workspace: Workspace) -> None:
    dispatch(workspace, "T-1", executor="remote")
    assert find_overdue(workspace, time.time() + 6) == [("T-1", TimeOutAck("d-1"))]


def test_an_overdue_ack_is_recorded(open_workspace: Made) -> None:
    workspace = open_workspace(ack_timeout_s=0.05)
    dispatch(workspace, "T-1")
    time.sleep(0.06)
    assert settle(workspace, time.time()) == [Overdue("T-1", TimeOutAck("d-1"))]
    assert settle(workspace, time.time()) == []
    assert told(workspace, "T-1")[-1] == "ack_timeout"


def test_what_is_found_too_early_by_a_wrong_clock_is_not_recorded(workspace: Workspace) -> None:
    dispatch(workspace, "T-1")
    (found,) = settle(workspace, time.time() + 60)
    assert not found.recorded
    assert workspace.store.task("T-1").current.ended is None  # type: ignore[union-attr]


def test_a_silence_is_warned_of_once_and_the_next_one_again(open_workspace: Made) -> None:
    workspace = open_workspace(heartbeat_warning_s=0.05)
    dispatch(workspace, "T-1", executor="remote")
    acknowledge(workspace, "T-1", by="codex")
    time.sleep(0.06)
    (found,) = settle(workspace, time.time())
    assert isinstance(found.finding, WarnOfSilence)
    assert settle(workspace, time.time()) == []
    workspace.store.commit("T-1", SendHeartbeat("d-1"), actor="codex")
    time.sleep(0.06)
    assert len(settle(workspace, time.time())) == 1
    assert told(workspace, "T-1").count("heartbeat_warning") == 2


def test_a_sign_that_is_not_in_the_log_counts_too(open_workspace: Made) -> None:
    workspace = open_workspace(heartbeat_warning_s=0.2)
    dispatch(workspace, "T-1", executor="remote")
    acknowledge(workspace, "T-1", by="codex")
    time.sleep(0.25)
    keep_sign(workspace.home, "d-1")
    assert find_overdue(workspace, time.time()) == []


@pytest.mark.parametrize("executor", ["fake", "no-such-agent"])
def test_an_attempt_that_nobody_runs_is_orphaned(open_workspace: Made, executor: str) -> None:
    workspace = open_workspace(orphan_after_s=0.05, ack_timeout_s=60)
    dispatch(workspace, "T-1", executor=executor)
    time.sleep(0.06)
    (found,) = settle(workspace, time.time())
    assert isinstance(found.finding, EndAttempt)
    assert found.recorded
    attempt = workspace.store.task("T-1").current
    assert attempt is not None
    assert attempt.ended is not None
    assert attempt.ended.reason == "orphaned"


def test_an_attempt_that_a_living_process_runs_is_no_orphan(open_workspace: Made) -> None:
    workspace = open_workspace(orphan_after_s=0.05, ack_timeout_s=60)
    dispatch(workspace, "T-1")
    claim = try_claim(workspace.home, "d-1")
    assert claim is not None
    assert find_overdue(workspace, time.time() + 10) == []
    claim.release()
    assert len(find_overdue(workspace, time.time() + 10)) == 1


def test_an_attempt_of_a_remote_executor_is_no_orphan(open_workspace: Made) -> None:
    workspace = open_workspace(orphan_after_s=0.05, heartbeat_warning_s=3600, execution_timeout_s=120)
    dispatch(workspace, "T-1", executor="remote")
    acknowledge(workspace, "T-1", by="codex")
    assert find_overdue(workspace, time.time() + 60) == []
    ((_, finding),) = find_overdue(workspace, time.time() + 180)
    assert isinstance(finding, EndAttempt)
    assert finding.reason == "execution_timeout", "it went away for good"


def test_a_sign_of_life_keeps_a_remote_attempt_open(open_workspace: Made) -> None:
    workspace = open_workspace(heartbeat_warning_s=3600, execution_timeout_s=60)
    dispatch(workspace, "T-1", executor="remote")
    acknowledge(workspace, "T-1", by="codex")
    path = workspace.home / ".kircerta" / "beats" / "d-1"
    keep_sign(workspace.home, "d-1")
    os.utime(path, (time.time() + 100, time.time() + 100))
    assert find_overdue(workspace, time.time() + 120) == []


def test_a_decision_is_reminded_of_and_found_overdue_by_whoever_looks_first(open_workspace: Made) -> None:
    """The store's clock is the true one: a deadline of a second, and nothing else of ours is alive."""
    workspace = open_workspace()
    path = workspace.home / "config" / "projects.toml"
    path.parent.mkdir()
    path.write_text("[project.shop.policy]\ndecision_deadline_s = 2\nreminders_s = [1]\ndeadline_outcome = 'expired'\n")
    wish = Create("Make it work.", acceptance_criteria=CRITERIA, metadata={"project": "shop"})
    workspace.store.commit("T-1", wish, actor="alice")
    run_here(workspace, ["T-1"], Order("fake-inproc", "fake-inproc"))
    assert settle(workspace, time.time()) == []
    kinds = ("decision_reminder", "decision_overdue", "task_rejected")
    deadline = time.monotonic() + 20
    while workspace.store.task("T-1").status == "needs_review":
        assert time.monotonic() < deadline
        settle(workspace, time.time())
        time.sleep(0.05)
    assert settle(workspace, time.time()) == []
    found = [kind for kind in told(workspace, "T-1") if kind in kinds]
    assert found in (list(kinds), list(kinds[1:])), "a busy machine may be too late to remind"


def test_a_changed_projects_file_is_told_of_by_the_watchdog(workspace: Workspace) -> None:
    path = workspace.home / "config" / "projects.toml"
    path.parent.mkdir()
    path.write_text("[project.shop]\n")
    for _ in range(2):
        settle(workspace, time.time())
    assert [event.type for event in workspace.store.events()] == ["projects_changed"]


def test_what_a_living_dispatcher_will_take_up_is_no_orphan(open_workspace: Made) -> None:
    workspace = open_workspace(orphan_after_s=0.05, ack_timeout_s=60)
    dispatch(workspace, "T-1")
    lock = become_dispatcher(workspace.home)
    assert find_overdue(workspace, time.time() + 10) == []
    os.close(lock)
    assert len(find_overdue(workspace, time.time() + 10)) == 1


def test_there_is_one_dispatcher_a_workspace(tmp_path: Path) -> None:
    assert not is_dispatcher_alive(tmp_path)
    lock = become_dispatcher(tmp_path)
    assert is_dispatcher_alive(tmp_path)
    with pytest.raises(AlreadyRunning, match="one is enough"):
        become_dispatcher(tmp_path)
    os.close(lock)
    assert not is_dispatcher_alive(tmp_path)
    assert dispatcher_of(tmp_path) is None


ENDS = ["ack_timeout", "heartbeat_warning", "attempt_ended"]


def overdue_workspace(home: Path) -> Workspace:
    """One task of each kind of overdue."""
    overrides = {"ack_timeout_s": 0.05, "heartbeat_warning_s": 0.05, "orphan_after_s": 0.05}
    workspace = Workspace.open(settings_for(home, **overrides))
    dispatch(workspace, "T-1", "d-1")
    for task_id, dispatch_id, executor in (("T-2", "d-2", "remote"), ("T-3", "d-3", "fake")):
        add_task(workspace, task_id)
        workspace.store.commit(task_id, Dispatch(dispatch_id, executor=executor), actor="cli")
        acknowledge(workspace, task_id, dispatch_id, by="codex" if executor == "remote" else "fake-executor")
    time.sleep(0.06)
    return workspace


def check_each_once(workspace: Workspace) -> None:
    types = [event.type for event in workspace.store.events()]
    assert {kind: types.count(kind) for kind in ENDS} == {"ack_timeout": 1, "heartbeat_warning": 1, "attempt_ended": 1}


def test_eight_watchdogs_in_threads_find_each_thing_once(tmp_path: Path) -> None:
    first = overdue_workspace(tmp_path)
    overrides = {"ack_timeout_s": 0.05, "heartbeat_warning_s": 0.05, "orphan_after_s": 0.05}
    others = [Workspace.open(settings_for(tmp_path, **overrides)) for _ in range(7)]
    gate = threading.Barrier(8)

    def turn(workspace: Workspace) -> None:
        gate.wait()
        for _ in range(3):
            settle(workspace, time.time())

    threads = [threading.Thread(target=turn, args=(one,)) for one in (first, *others)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    settle(first, time.time())
    check_each_once(first)
    for one in (first, *others):
        one.store.close()


def watch(home: Path) -> None:
    overrides = {"ack_timeout_s": 0.05, "heartbeat_warning_s": 0.05, "orphan_after_s": 0.05}
    workspace = Workspace.open(settings_for(home, **overrides))
    for _ in range(3):
        settle(workspace, time.time())


@pytest.mark.slow
def test_eight_watchdogs_in_processes_find_each_thing_once(tmp_path: Path) -> None:
    workspace = overdue_workspace(tmp_path)
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=watch, args=(tmp_path,)) for _ in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    settle(workspace, time.time())
    workspace.store.refresh()
    check_each_once(workspace)
    workspace.store.close()
