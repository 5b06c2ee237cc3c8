"""The long-lived dispatcher: what a decision starts, what a dead process left, and a server that comes and goes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from audit.stamp import seconds_of
from flows.herald import as_prefect_event
from flows.serve import all_flows
from flows.server import PrefectServer, is_served, prefect_environment
from flows.workspace import Workspace, home_tag
from ssot.gate import is_wanted_again
from ssot.intents import Approve, Dispatch, Reject, Unlock
from ssot.presence import dispatcher_of, is_dispatcher_alive
from tests import builders
from tests.flows.conftest import add_task, settings_for, told

START = (
    "import logging; logging.basicConfig(level=logging.INFO)\n"
    "from flows.{0} import {1}\nfrom ssot.settings import load\n{1}(load())\n"
)


@contextmanager
def process(home: Path, module: str, name: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A long-lived process of ours for a workspace; what it wrote is in the workspace's `<module>.log`."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT_", "KIRCERTA_"))}
    told_of = {**prefect_environment(settings_for(home), environment.get("PREFECT_API_URL")), **environment}
    with (home / f"{module}.log").open("ab") as log:
        started = subprocess.Popen(
            [sys.executable, "-c", START.format(module, name)], env={**kept, **told_of}, stdout=log, stderr=log
        )
    try:
        yield started
    finally:
        started.kill()
        started.wait()


@contextmanager
def dispatcher(home: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    with process(home, "dispatcher", "run_dispatcher", **environment) as started:
        until(lambda: dispatcher_of(home) is not None and dispatcher_of(home).pid == started.pid)  # type: ignore[union-attr]
        yield started


def until(holds: Callable[[], Any], patience_s: float = 30.0) -> None:
    deadline = time.monotonic() + patience_s
    while not holds():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def until_stage(workspace: Workspace, task_id: str, stage: str) -> None:
    def is_there() -> bool:
        workspace.store.refresh()
        return workspace.store.view.entries[task_id].stage == stage

    until(is_there)


def waited_s(workspace: Workspace, task_id: str, first: str, then: str) -> float:
    """The time from the last event of one type to the first of another behind it."""
    events = [event for event in workspace.store.events() if event.subject == task_id]
    begun = max(event.seq for event in events if event.type == first)
    moments = {event.seq: seconds_of(event.time) for event in events}
    return next(moments[one.seq] - moments[begun] for one in events if one.type == then and one.seq > begun)


# ------------------------------------------------------------------------------------------ what is wanted again


@pytest.mark.parametrize(
    ("policy", "default", "wanted"),
    [
        (None, True, True),
        (None, False, False),
        ({}, True, True),
        ({}, False, False),
        ({"auto_redispatch": True}, False, True),
        ({"auto_redispatch": False}, True, False),
        ({"auto_redispatch": True, "max_attempts": 1}, True, False),
        ({"auto_redispatch": True, "max_attempts": 2}, True, True),
    ],
)
def test_the_project_says_whether_a_rejection_starts_the_next_attempt(
    tmp_path: Path, policy: dict[str, Any] | None, default: bool, wanted: bool
) -> None:
    if policy is not None:
        builders.projects_file(tmp_path, **policy)
    walk = builders.Walk(builders.a_store(tmp_path))
    walk.create(metadata={} if policy is None else {"project": "shop"})
    walk.to_gate("reject")
    assert not is_wanted_again(walk.task, default=True), "nobody decided yet"
    walk.reject()
    assert is_wanted_again(walk.task, default=default) == wanted


@pytest.mark.parametrize("default", [True, False])
def test_a_landing_that_failed_starts_the_next_attempt_where_a_rejection_would(tmp_path: Path, default: bool) -> None:
    walk = builders.walk_to(builders.a_store(tmp_path), "T-1", "approved")
    walk.fail_landing()
    assert is_wanted_again(walk.task, default=default) == default


def test_a_landing_that_failed_starts_nothing_where_a_policy_had_approved(tmp_path: Path) -> None:
    builders.projects_file(tmp_path, human_gate=False, low_risk=["src/**"], auto_redispatch=True)
    walk = builders.Walk(builders.a_store(tmp_path))
    walk.create(metadata={"project": "shop"})
    walk.to_gate()
    assert walk.task.status == "approved"
    walk.fail_landing()
    assert not is_wanted_again(walk.task, default=True)


def test_a_deadline_starts_nothing_by_itself(tmp_path: Path) -> None:
    policy = {"decision_deadline_s": 5, "deadline_outcome": "expired", "auto_redispatch": True}
    builders.projects_file(tmp_path, **policy)
    ticks = builders.Ticks()
    walk = builders.Walk(builders.a_store(tmp_path, ticks=ticks))
    walk.create(metadata={"project": "shop"})
    walk.to_gate("reject")
    ticks.ahead(6)
    (overdue,) = walk.store.view.due["T-1"].findings(ticks.now)
    walk.do(overdue, "watchdog")
    assert walk.task.status == "rejected"
    assert not is_wanted_again(walk.task, default=True)


# ----------------------------------------------------------------------------------------- without a server


@pytest.mark.slow
def test_without_prefect_dispatches_and_decisions_are_followed_all_the_same(tmp_path: Path) -> None:
    workspace = Workspace.open(settings_for(tmp_path))
    add_task(workspace)
    with dispatcher(tmp_path) as started:
        workspace.store.commit("T-1", Dispatch("d-1", reviewer="fake:reject_first=1"), actor="cli")
        until_stage(workspace, "T-1", "needs_review")
        workspace.store.commit("T-1", Reject("see the verdict"), actor="alice")
        until_stage(workspace, "T-1", "needs_review")
        assert len(workspace.store.task("T-1").attempts) == 2
        assert waited_s(workspace, "T-1", "task_rejected", "task_redispatched") < 2
        workspace.store.commit("T-1", Approve(), actor="alice")
        started.send_signal(signal.SIGTERM)
        assert started.wait(10) == 0
    assert not is_dispatcher_alive(tmp_path)
    workspace.store.close()


@pytest.mark.slow
def test_a_dispatcher_takes_over_what_dead_ones_left_and_dispatches_nothing_twice(tmp_path: Path) -> None:
    workspace = Workspace.open(settings_for(tmp_path))
    executor = "fake:mode=slow,seconds=1,beat=0.2"
    for number in range(3):
        add_task(workspace, f"T-{number}")
        workspace.store.commit(f"T-{number}", Dispatch(f"d-{number}", executor, ack_timeout_s=60), actor="cli")
    for stage in ("dispatched", "acknowledged"):
        with dispatcher(tmp_path) as started:
            until_stage(workspace, "T-1", stage)
            started.send_signal(signal.SIGKILL)
            started.wait()
    with dispatcher(tmp_path):
        for number in range(3):
            until_stage(workspace, f"T-{number}", "needs_review")
            types = [one for one in told(workspace, f"T-{number}") if one != "heartbeat"]
            assert types == ["task_created", "task_dispatched", "ack_received", "result_received", "verdict_received"]
    workspace.store.close()


@pytest.mark.slow
def test_what_is_not_for_the_dispatcher_is_left_alone(tmp_path: Path) -> None:
    workspace = Workspace.open(settings_for(tmp_path, max_rejects=1))
    for task_id in ("T-remote", "T-declined", "T-locked", "T-last"):
        add_task(workspace, task_id)
    workspace.store.commit("T-declined", Reject("not wanted"), actor="alice")
    with dispatcher(tmp_path, KIRCERTA_MAX_REJECTS="1"):
        workspace.store.commit("T-remote", Dispatch("d-1", executor="remote", ack_timeout_s=60), actor="cli")
        workspace.store.commit("T-locked", Dispatch("d-2"), actor="cli")
        until_stage(workspace, "T-locked", "needs_review")
        workspace.store.commit("T-locked", Reject("no"), actor="alice")
        workspace.store.commit("T-last", Dispatch("d-3"), actor="cli")
        until_stage(workspace, "T-last", "needs_review")
        assert told(workspace, "T-remote") == ["task_created", "task_dispatched"]
        assert told(workspace, "T-declined") == ["task_created", "task_rejected", "reject_lock"]
        assert told(workspace, "T-locked")[-1] == "reject_lock"
        workspace.store.commit("T-locked", Unlock("another try"), actor="alice")
        until_stage(workspace, "T-locked", "needs_review")
        assert len(workspace.store.task("T-locked").attempts) == 2
    workspace.store.close()


@pytest.mark.slow
def test_rejections_are_not_followed_where_that_is_switched_off(tmp_path: Path) -> None:
    workspace = Workspace.open(settings_for(tmp_path))
    for task_id in ("T-1", "T-2"):
        add_task(workspace, task_id)
    with dispatcher(tmp_path, KIRCERTA_AUTO_REDISPATCH="0"):
        workspace.store.commit("T-1", Dispatch("d-1"), actor="cli")
        until_stage(workspace, "T-1", "needs_review")
        workspace.store.commit("T-1", Reject("no"), actor="alice")
        workspace.store.commit("T-2", Dispatch("d-2"), actor="cli")
        until_stage(workspace, "T-2", "needs_review")
        assert told(workspace, "T-1")[-1] == "task_rejected"
    workspace.store.close()


@pytest.mark.slow
def test_the_dispatcher_is_the_watchdog_too(tmp_path: Path) -> None:
    workspace = Workspace.open(settings_for(tmp_path))
    add_task(workspace)
    with dispatcher(tmp_path):
        workspace.store.commit("T-1", Dispatch("d-1", executor="remote", ack_timeout_s=0.1), actor="cli")
        until_stage(workspace, "T-1", "ended")
    assert told(workspace, "T-1")[-1] == "ack_timeout"
    workspace.store.close()


@pytest.mark.slow
def test_a_second_dispatcher_says_why_it_does_not_start(tmp_path: Path) -> None:
    Workspace.open(settings_for(tmp_path)).store.close()
    with dispatcher(tmp_path), process(tmp_path, "dispatcher", "run_dispatcher") as second:
        assert second.wait(20) == 1
    assert "one is enough" in (tmp_path / "dispatcher.log").read_text()


def test_an_event_is_told_without_what_is_long() -> None:
    from audit.event import Event

    long = "x" * 5000
    event = Event(7, "e-1", "kircerta/api", "task_rejected", "2026-01-31T09:00:00.000000Z", "alice",
                  {"reason": "no", "long": long}, "sha256:0", "T-1", "c-1")  # fmt: skip
    told_as = as_prefect_event(event)
    assert told_as["event"] == "kircerta.task_rejected"
    assert told_as["resource"]["prefect.resource.id"] == "kircerta.task.T-1"
    assert told_as["payload"]["data"] == {"reason": "no"}
    assert told_as == as_prefect_event(event)


# ------------------------------------------------------------------------------------------- with a server


@pytest.mark.slow
@pytest.mark.prefect
def test_on_prefect_decisions_start_runs_and_every_event_is_told(tmp_path: Path, prefect_server: PrefectServer) -> None:
    url = prefect_server.api_url
    workspace = Workspace.open(settings_for(tmp_path, prefect_api_url=url))
    add_task(workspace)
    assert not is_served(workspace.settings)
    with (
        process(tmp_path, "serve", "serve_deployments", PREFECT_API_URL=url),
        dispatcher(tmp_path, PREFECT_API_URL=url),
    ):
        until(lambda: is_served(workspace.settings))
        workspace.store.commit("T-1", Dispatch("d-1", reviewer="fake:reject_first=1"), actor="cli")
        until_stage(workspace, "T-1", "needs_review")
        workspace.store.commit("T-1", Reject("see the verdict"), actor="alice")
        until_stage(workspace, "T-1", "needs_review")
        workspace.store.commit("T-1", Approve(), actor="alice")
        until(lambda: runs(url, tmp_path).get("T-1 closed") == "Closed")
        assert runs(url, tmp_path) == {"T-1 #1": "NeedsReview", "T-1 #2": "NeedsReview", "T-1 closed": "Closed"}
        since = {f"kircerta.{kind}" for kind in told(workspace, "T-1")} - {"kircerta.task_created"}
        until(lambda: kinds_told(url) >= since)
        until(lambda: {one["entrypoint"].rpartition(".")[2] for one in deployments(url, tmp_path)} == served())
        ours = deployments(url, tmp_path)
        assert all(one["entrypoint"].startswith("flows.") and one["description"] for one in ours)
        assert {schedule["active"] for one in ours for schedule in one["schedules"]} == {False}
        at = {one["entrypoint"].rpartition(".")[2]: one["schedules"][0]["schedule"] for one in ours if one["schedules"]}
        assert {at[name]["cron"] for name in ("acceptance", "soak", "prune_runs")} == {
            "30 2 * * *",
            "0 3 * * SAT",
            "30 6 * * *",
        }
        assert (at["report_audit"]["interval"], at["watchdog"]["interval"]) == (3600, 60)
    assert orjson.loads((tmp_path / ".kircerta" / "followed.json").read_bytes())["seq"] >= 10
    workspace.store.close()


@pytest.mark.slow
@pytest.mark.prefect
def test_a_run_that_is_started_in_the_ui_finds_its_workspace(tmp_path: Path, prefect_server: PrefectServer) -> None:
    url = prefect_server.api_url
    workspace = Workspace.open(settings_for(tmp_path))
    add_task(workspace)
    with process(tmp_path, "serve", "serve_deployments", PREFECT_API_URL=url):
        until(lambda: deployment(url, tmp_path, "dispatch_task"))
        found = deployment(url, tmp_path, "dispatch_task")
        asked = {"parameters": {"task_id": "T-1"}, "state": {"type": "SCHEDULED"}}
        start = f"{url}/deployments/{found}/create_flow_run"
        until(lambda: httpx.post(start, json=asked).status_code == 201)  # 503 while SQLite is locked
        until_stage(workspace, "T-1", "needs_review")
        until(lambda: runs(url, tmp_path).get("T-1 #1") == "NeedsReview")
    workspace.store.close()


@pytest.mark.slow
@pytest.mark.prefect
def test_a_server_that_is_gone_delays_no_dispatch(tmp_path: Path) -> None:
    url = "http://127.0.0.1:9/api"  # nobody listens there
    workspace = Workspace.open(settings_for(tmp_path, prefect_api_url=url))
    add_task(workspace)
    with dispatcher(tmp_path, PREFECT_API_URL=url):
        workspace.store.commit("T-1", Dispatch("d-1"), actor="cli")
        until_stage(workspace, "T-1", "needs_review")
        assert waited_s(workspace, "T-1", "task_dispatched", "ack_received") < 5
        until(lambda: dispatcher_of(tmp_path).prefect == "down")  # type: ignore[union-attr]
    workspace.store.close()


def served() -> set[str]:

    return {flow.name for flow in all_flows()}


def runs(url: str, home: Path) -> dict[str, str]:
    wanted = {"flow_runs": {"tags": {"all_": [home_tag(home)]}}}
    found = httpx.post(f"{url}/flow_runs/filter", json=wanted).json()
    return {one["name"]: one["state"]["name"] for one in found}


def kinds_told(url: str) -> set[str]:
    wanted = {"filter": {"event": {"prefix": ["kircerta."]}}, "limit": 50}
    return {one["event"] for one in httpx.post(f"{url}/events/filter", json=wanted).json()["events"]}


def deployments(url: str, home: Path) -> list[dict[str, Any]]:
    wanted = {"deployments": {"tags": {"all_": [home_tag(home)]}}}
    found: list[dict[str, Any]] = httpx.post(f"{url}/deployments/filter", json=wanted).json()
    return found


def deployment(url: str, home: Path, flow: str) -> str | None:
    wanted = {"deployments": {"tags": {"all_": [home_tag(home)]}}, "flows": {"name": {"any_": [flow]}}}
    found = httpx.post(f"{url}/deployments/filter", json=wanted).json()
    return found[0]["id"] if found else None
