"""The flows on a real Prefect server: named states, one run for many tasks, artifacts, what follows a decision."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from flows.server import PrefectServer
from flows.workspace import Workspace, home_tag, using
from ssot.intents import Approve, Dispatch, Reject
from tests.flows.conftest import Made, add_task, told

pytestmark = [pytest.mark.slow, pytest.mark.prefect]

FAKES = {"executor": "fake-inproc", "reviewer": "fake-inproc"}


def call(workspace: Workspace, name: str, **parameters: Any) -> Any:
    """Call a flow in this process; gives the state that its run ended in."""
    from flows import dispatch, watchdog

    flow = {"watchdog": watchdog.watchdog}.get(name) or getattr(dispatch, name)

    async def run() -> Any:
        with using(workspace):
            return await flow(**parameters, return_state=True)

    return asyncio.run(run())


def asked(server: PrefectServer, path: str, **wanted: Any) -> list[dict[str, Any]]:
    answer = httpx.post(f"{server.api_url}/{path}/filter", json=wanted)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()
    return found


def runs_of(server: PrefectServer, workspace: Workspace) -> list[dict[str, Any]]:
    return asked(server, "flow_runs", flow_runs={"tags": {"all_": [home_tag(workspace.home)]}})


def test_a_dispatch_ends_in_needs_review_named_and_tagged(workspace: Workspace, on_prefect: PrefectServer) -> None:
    add_task(workspace)
    state = call(workspace, "dispatch_task", task_id="T-1", **FAKES)
    assert (state.name, state.type.value) == ("NeedsReview", "COMPLETED")
    (run,) = runs_of(on_prefect, workspace)
    task = workspace.store.task("T-1")
    assert run["name"] == "T-1 #1"
    assert run["state"]["name"] == "NeedsReview"
    assert {task.correlation_id, "task:T-1", "kircerta"} <= set(run["tags"])
    (artifact,) = asked(on_prefect, "artifacts", artifacts={"flow_run_id": {"any_": [run["id"]]}})
    assert "/#/tasks/T-1)" in artifact["data"]
    assert "## Verdict" in artifact["data"]


def test_each_step_is_a_task_of_the_run(workspace: Workspace, on_prefect: PrefectServer) -> None:
    add_task(workspace)
    call(workspace, "dispatch_task", task_id="T-1", **FAKES)
    (run,) = runs_of(on_prefect, workspace)

    async def names() -> list[str]:
        async with httpx.AsyncClient() as client:
            for _ in range(100):  # the server writes task runs down in batches
                wanted = {"task_runs": {"flow_run_id": {"any_": [run["id"]]}}}
                answer = await client.post(f"{on_prefect.api_url}/task_runs/filter", json=wanted)
                found = sorted(one["name"].rsplit("-", 1)[0] for one in answer.json())
                if len(found) == 7:
                    return found
                await asyncio.sleep(0.1)
        return found

    steps = ["ack", "dispatch", "echo check", "execution", "result check", "review", "verdict check"]
    assert asyncio.run(names()) == steps


@pytest.mark.parametrize(
    ("executor", "name"),
    [("fake-inproc:mode=no_ack", "AckTimeout"), ("fake-inproc:mode=crash", "ExecutorFailed"), ("nobody", "Refused")],
)
def test_what_went_wrong_is_the_name_of_a_failed_state(
    open_workspace: Made, on_prefect: PrefectServer, executor: str, name: str
) -> None:
    workspace = open_workspace(ack_timeout_s=0.3)
    add_task(workspace)
    state = call(workspace, "dispatch_task", task_id="T-1", executor=executor)
    assert (state.name, state.type.value) == (name, "FAILED")


def test_a_run_for_a_remote_executor_ends_waiting(workspace: Workspace, on_prefect: PrefectServer) -> None:
    add_task(workspace)
    assert call(workspace, "dispatch_task", task_id="T-1", executor="remote").name == "Waiting"


def test_a_second_run_makes_no_second_dispatch(workspace: Workspace, on_prefect: PrefectServer) -> None:
    add_task(workspace)
    assert call(workspace, "dispatch_task", task_id="T-1", **FAKES).name == "NeedsReview"
    assert call(workspace, "dispatch_task", task_id="T-1", **FAKES).name == "NeedsReview"
    assert told(workspace, "T-1").count("task_dispatched") == 1


def test_all_that_is_pending_goes_to_the_gate_in_one_run(workspace: Workspace, on_prefect: PrefectServer) -> None:
    ids = [add_task(workspace, f"T-{number}") for number in range(1, 13)]
    workspace.store.commit("T-1", Dispatch("d-left", **FAKES), actor="cli")  # as a dead process left it
    workspace.store.commit("T-2", Reject("not wanted"), actor="alice")
    state = call(workspace, "dispatch_pending", limit=10, concurrency=3, **FAKES)
    assert (state.name, state.message) == ("Dispatched", "10 of 10 tasks went their way")
    status = [workspace.store.task(task_id).status for task_id in ids]
    assert status.count("needs_review") == 10
    assert workspace.store.task("T-1").attempts[0].dispatch.dispatch_id == "d-left"  # type: ignore[union-attr]
    assert call(workspace, "dispatch_pending", **FAKES).name == "Dispatched"
    assert call(workspace, "dispatch_pending", **FAKES).name == "NothingPending"
    pages = asked(on_prefect, "artifacts", artifacts={"key": {"any_": ["dispatch-pending"]}})
    assert any(page["data"].startswith("# 10 tasks: 10 NeedsReview") for page in pages)


def test_one_bad_task_does_not_stop_the_others(workspace: Workspace, on_prefect: PrefectServer) -> None:
    for number in range(3):
        add_task(workspace, f"T-{number}")
    workspace.store.commit("T-1", Dispatch("d-1", executor="gone"), actor="cli")
    state = call(workspace, "dispatch_pending", **FAKES)
    assert state.name == "SomeEnded"
    assert "T-1 ExecutorFailed" in state.message
    assert told(workspace, "T-2")[-1] == "verdict_received"


def test_ended_attempts_are_dispatched_again_only_when_asked(workspace: Workspace, on_prefect: PrefectServer) -> None:
    add_task(workspace)
    call(workspace, "dispatch_task", task_id="T-1", executor="fake-inproc:mode=crash")
    assert call(workspace, "dispatch_pending", **FAKES).name == "NothingPending"
    assert call(workspace, "dispatch_pending", retry_ended=True, **FAKES).name == "Dispatched"
    assert workspace.store.task("T-1").status == "needs_review"


def test_a_rejection_and_an_approval_are_followed(workspace: Workspace, on_prefect: PrefectServer) -> None:
    add_task(workspace)
    call(workspace, "dispatch_task", task_id="T-1", executor="fake-inproc", reviewer="fake-inproc:reject_first=1")
    assert call(workspace, "close_task", task_id="T-1").name == "NotApproved"
    workspace.store.commit("T-1", Reject("see the verdict"), actor="alice")
    assert call(workspace, "redispatch", task_id="T-1").name == "NeedsReview"
    first, second = workspace.store.task("T-1").attempts
    assert first.verdict is not None
    assert second.dispatch is not None
    assert second.dispatch.issues == first.verdict.issues
    assert call(workspace, "redispatch", task_id="T-1").name == "NeedsReview"
    before = workspace.store.commit("T-1", Approve(), actor="alice").document
    assert call(workspace, "close_task", task_id="T-1").name == "Closed"
    assert workspace.store.document("T-1") == before
    names = {run["name"] for run in runs_of(on_prefect, workspace)}
    assert names == {"T-1 #1", "T-1 #2", "T-1 closed"}


def test_the_watchdog_flow_names_what_it_found(open_workspace: Made, on_prefect: PrefectServer) -> None:
    workspace = open_workspace(ack_timeout_s=0.05)
    add_task(workspace)
    call(workspace, "dispatch_task", task_id="T-1", executor="remote")
    assert asyncio.run(asyncio.sleep(0.06)) is None
    state = call(workspace, "watchdog")
    assert state.name == "FoundOverdue"
    assert "T-1" in state.message
    assert call(workspace, "watchdog").name == "NothingOverdue"


def test_forms_have_descriptions_patterns_and_bounds(on_prefect: PrefectServer) -> None:
    from flows import dispatch

    one = dispatch.dispatch_task.parameters
    assert one.required == ["task_id"]
    assert one.properties["task_id"]["pattern"]
    assert "agents.toml" in one.properties["executor"]["description"]
    many = dispatch.dispatch_pending.parameters.properties
    assert (many["concurrency"]["minimum"], many["concurrency"]["maximum"]) == (1, 64)
    assert many["retry_ended"]["type"] == "boolean"


def test_parameters_that_are_none_are_refused_before_anything_happens(
    workspace: Workspace, on_prefect: PrefectServer
) -> None:
    state = call(workspace, "dispatch_task", task_id="../../etc/passwd")
    assert state.type.value == "FAILED"
    assert workspace.store.last_seq() == 0
