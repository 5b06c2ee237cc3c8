"""What happens to a dispatch, with every misbehaviour of the fakes, and when it is killed between any two steps."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import orjson
import pytest

from flows import work
from flows.agents import fake
from flows.agents.registry import UnknownAgent
from flows.here import run_here
from flows.outcome import Outcome
from flows.pipeline import BARE, RESUME, Order, Steps, again, take_to_gate, wish_for
from flows.workspace import Workspace
from ssot.beats import last_sign
from ssot.claims import is_claimed, try_claim
from ssot.intents import Approve, Create, Dispatch, EndAttempt, Reject, SendAck
from ssot.states import stage_of
from ssot.store import Refused
from ssot.task import AckBody, Criterion, Echo, plain
from tests.flows.conftest import CRITERIA, Made, add_task, settings_for, told

HAPPY = ["task_created", "task_dispatched", "ack_received", "result_received", "verdict_received"]

EXECUTOR_ENDS = {
    "ok": "NeedsReview",
    "no_ack": "AckTimeout",
    "late_ack": "AckTimeout",
    "wrong_echo": "AckTimeout",
    "wrong_order": "AckTimeout",
    "wrong_scope": "AckTimeout",
    "wrong_issues": "AckTimeout",
    "wrong_dispatch": "AckTimeout",
    "twice": "NeedsReview",
    "silent": "ExecutionTimeout",
    "slow": "NeedsReview",
    "failing": "NeedsReview",
    "out_of_scope": "ResultRefused",
    "bad_diff": "ResultRefused",
    "bad_sha": "ResultRefused",
    "no_operations": "ResultRefused",
    "dangling_refs": "ResultRefused",
    "crash": "ExecutorFailed",
    "crash_before_ack": "ExecutorFailed",
    "garbage": "ExecutorFailed",
    "flood": "ExecutorFailed",
    "flood_line": "ExecutorFailed",
    "fork": "NeedsReview",
}
REVIEWER_ENDS = dict.fromkeys(fake.REVIEWER_MODES, "ReviewerFailed") | {"ok": "NeedsReview", "reject": "NeedsReview"}
OPTIONS = {"late_ack": ",delay=2", "slow": ",seconds=0.4,beat=0.1", "fork": ",seconds=2", "flood": ",megabytes=40"}
PATIENCE = {"AckTimeout": {"ack_timeout_s": 0.4}, "ExecutionTimeout": {"execution_timeout_s": 0.5}}
"""Brief only where nothing else is to come in that time: a busy machine must not turn one end into another."""


def run(workspace: Workspace, order: Order, task_id: str = "T-1") -> Outcome:
    return asyncio.run(take_to_gate(workspace, task_id, order))


def test_every_misbehaviour_of_the_fakes_has_an_expected_end() -> None:
    assert set(EXECUTOR_ENDS) == set(fake.EXECUTOR_MODES)
    assert set(REVIEWER_ENDS) == set(fake.REVIEWER_MODES)


@pytest.mark.parametrize("mode", EXECUTOR_ENDS)
def test_what_an_executor_does_ends_in_a_name_and_never_in_approval(open_workspace: Made, mode: str) -> None:
    workspace = open_workspace(**PATIENCE.get(EXECUTOR_ENDS[mode], {}))
    add_task(workspace)
    outcome = run(workspace, Order(f"fake:mode={mode}{OPTIONS.get(mode, '')}"))
    assert outcome.name == EXECUTOR_ENDS[mode]
    types = told(workspace, "T-1")
    assert "task_approved" not in types
    assert types[-1] == {"NeedsReview": "verdict_received", "AckTimeout": "ack_timeout"}.get(
        outcome.name, "attempt_ended"
    )
    assert types.count("task_dispatched") == 1
    assert not is_claimed(workspace.home, outcome.dispatch_id)


@pytest.mark.parametrize("mode", REVIEWER_ENDS)
def test_what_a_reviewer_does_ends_in_a_name_and_never_in_approval(open_workspace: Made, mode: str) -> None:
    workspace = open_workspace(**({} if REVIEWER_ENDS[mode] == "NeedsReview" else {"review_timeout_s": 0.5}))
    add_task(workspace)
    outcome = run(workspace, Order("fake-inproc", f"fake:mode={mode}"))
    assert outcome.name == REVIEWER_ENDS[mode]
    assert workspace.store.task("T-1").status == ("needs_review" if outcome.ok else "pending")


def test_a_criterion_that_is_kept_outside_the_document_is_told_whole_and_repeated_whole(workspace: Workspace) -> None:
    long = "the same in other words. " * 2000
    workspace.store.commit("T-1", Create(long, acceptance_criteria=(Criterion(id="AC-1", text=long),)), actor="alice")
    assert run(workspace, Order()).name == "NeedsReview"
    run_again = Reject(reason=long)
    workspace.store.commit("T-1", run_again, actor="alice")
    assert run(workspace, again(workspace.store.task("T-1"))).name == "NeedsReview"
    assert len(list(workspace.store.blobs.folder.iterdir())) >= 1


@pytest.mark.parametrize("text", ["short", 'it says "blob": null', "long, in other words. " * 2000])
def test_an_agent_is_told_each_text_in_its_place(workspace: Workspace, text: str) -> None:
    criteria = (Criterion(id="AC-1", text=text), Criterion(id="AC-2", text="it is fast"))
    workspace.store.commit("T-1", Create("x", acceptance_criteria=criteria), actor="alice")
    task = workspace.store.commit("T-1", Dispatch("d-1"), actor="dispatcher").task
    assert task.current is not None
    assert task.current.dispatch is not None
    told = orjson.loads(orjson.dumps(work.told(task.current.dispatch, workspace.store.blobs.text)))
    assert told["acceptance_criteria"] == [{"id": "AC-1", "text": text}, {"id": "AC-2", "text": "it is fast"}]
    assert list(told) == list(plain(task.current.dispatch))


def test_a_refused_result_says_why_in_the_log_and_in_the_outcome(workspace: Workspace) -> None:
    add_task(workspace)
    outcome = run(workspace, Order("fake-inproc:mode=out_of_scope"))
    assert outcome.detail.startswith("scope_violation: ")
    assert told(workspace, "T-1")[-2:] == ["scope_violation", "attempt_ended"]
    (ended,) = [event for event in workspace.store.events() if event.type == "attempt_ended"]
    assert "scope_violation" in ended.data["detail"]


def test_an_exit_code_and_the_last_words_of_an_executor_stand_in_the_log(workspace: Workspace) -> None:
    add_task(workspace)
    run(workspace, Order("fake:mode=crash"))
    (ended,) = [event for event in workspace.store.events() if event.type == "attempt_ended"]
    assert ended.data["ended"]["reason"] == "executor_failed"
    assert "exit code 3" in ended.data["detail"]
    assert "crashed midway" in ended.data["detail"]


def test_silence_is_warned_of_once(open_workspace: Made) -> None:
    workspace = open_workspace(execution_timeout_s=1.5, heartbeat_warning_s=0.2)
    add_task(workspace)
    run(workspace, Order("fake-inproc:mode=silent"))
    assert told(workspace, "T-1").count("heartbeat_warning") == 1


def test_signs_of_life_between_two_events_are_kept_and_forgotten_at_the_end(open_workspace: Made) -> None:
    workspace = open_workspace()
    add_task(workspace)

    async def watch() -> tuple[float, Outcome]:
        running = asyncio.create_task(take_to_gate(workspace, "T-1", Order("fake:mode=slow,seconds=0.6,beat=0.1")))
        sign = 0.0
        while not running.done() and not sign:
            opened = workspace.store.open_attempts()
            sign = last_sign(workspace.home, opened[0].dispatch_id) if opened else 0.0
            await asyncio.sleep(0.01)
        return sign, await running

    sign, outcome = asyncio.run(watch())
    assert abs(sign - time.time()) < 30
    assert outcome.name == "NeedsReview"
    assert told(workspace, "T-1").count("heartbeat") == 1
    assert last_sign(workspace.home, outcome.dispatch_id) == 0.0


def test_a_remote_executor_is_not_waited_for(workspace: Workspace) -> None:
    add_task(workspace)
    outcome = run(workspace, Order("remote", "remote"))
    assert (outcome.name, outcome.stage) == ("Waiting", "dispatched")
    assert not is_claimed(workspace.home, outcome.dispatch_id)


def test_a_remote_reviewer_is_not_waited_for(workspace: Workspace) -> None:
    add_task(workspace)
    outcome = run(workspace, Order("fake-inproc", "remote"))
    assert (outcome.name, outcome.stage) == ("Waiting", "delivered")


def test_an_attempt_that_somebody_else_acknowledged_is_left_to_them(workspace: Workspace) -> None:
    add_task(workspace)
    claim = try_claim(workspace.home, "d-1")
    assert claim is not None
    task = workspace.store.commit("T-1", Dispatch("d-1"), actor="dispatcher").task
    echo = tuple(Echo(criterion_ref=one.id, text=one.text) for one in task.acceptance_criteria)
    workspace.store.commit("T-1", SendAck(AckBody(dispatch_id="d-1", echo=echo, scope=task.scope)), actor="codex")
    claim.release()
    outcome = run(workspace, RESUME)
    assert (outcome.name, outcome.stage) == ("Waiting", "acknowledged")


def test_an_unknown_agent_is_refused_before_anything_is_dispatched(workspace: Workspace) -> None:
    add_task(workspace)
    with pytest.raises(UnknownAgent, match="nobody"):
        run(workspace, Order("nobody"))
    assert told(workspace, "T-1") == ["task_created"]


def test_an_agent_that_disappeared_from_the_configuration_ends_its_attempt(workspace: Workspace) -> None:
    add_task(workspace)
    workspace.store.commit("T-1", Dispatch("d-1", executor="gone"), actor="cli")
    outcome = run(workspace, RESUME)
    assert outcome.name == "ExecutorFailed"
    assert "gone" in outcome.detail


def test_a_broken_agents_file_ends_the_attempt_and_names_the_file(workspace: Workspace) -> None:
    add_task(workspace)
    workspace.store.commit("T-1", Dispatch("d-1"), actor="cli")
    (workspace.home / "config").mkdir()
    (workspace.home / "config" / "agents.toml").write_text("[executor.x]\ncommand = 7\n")
    outcome = run(workspace, RESUME)
    assert outcome.name == "ExecutorFailed"
    assert "agents.toml" in outcome.detail


def test_a_person_who_rejects_a_running_attempt_stops_its_agent(workspace: Workspace) -> None:
    add_task(workspace)

    async def reject_midway() -> Outcome:
        running = asyncio.create_task(take_to_gate(workspace, "T-1", Order("fake:mode=silent")))
        while stage_of(workspace.store.task("T-1")) != "acknowledged":
            await asyncio.sleep(0.01)
        await asyncio.to_thread(workspace.store.commit, "T-1", Reject("not wanted any more"), actor="alice")
        return await running

    assert asyncio.run(reject_midway()).name == "Rejected"
    moves = [kind for kind in told(workspace, "T-1") if kind not in ("heartbeat", "move_refused")]
    assert moves[-1] == "task_rejected", "a heartbeat that came a moment later is refused, and that is all"


def test_a_task_at_the_gate_is_not_dispatched_again(workspace: Workspace) -> None:
    add_task(workspace)
    first = run(workspace, Order("fake-inproc", "fake-inproc"))
    assert run(workspace, Order("fake-inproc", "fake-inproc")) == first
    assert told(workspace, "T-1") == HAPPY


def test_two_dispatches_of_one_task_at_once_make_one(workspace: Workspace) -> None:
    add_task(workspace)

    async def both() -> list[Outcome]:
        order = Order("fake:mode=slow,seconds=0.3", "fake-inproc")
        return list(await asyncio.gather(*(take_to_gate(workspace, "T-1", order) for _ in range(4))))

    names = sorted(outcome.name for outcome in asyncio.run(both()))
    assert names == ["NeedsReview", "Waiting", "Waiting", "Waiting"]
    assert told(workspace, "T-1").count("task_dispatched") == 1


def test_a_rejection_is_followed_by_the_same_agents_and_its_issues_verbatim(workspace: Workspace) -> None:
    add_task(workspace)
    run(workspace, Order("fake-inproc:seed=5", "fake-inproc:reject_first=1"))
    task = workspace.store.commit("T-1", Reject("as the reviewer says"), actor="alice").task
    issues = task.attempts[0].verdict.issues if task.attempts[0].verdict else ()
    outcome = run(workspace, again(task))
    assert outcome.name == "NeedsReview"
    second = workspace.store.task("T-1").attempts[1]
    assert second.dispatch is not None
    assert second.verdict is not None
    assert issues
    assert second.dispatch.issues == issues
    assert (second.dispatch.executor, second.dispatch.reviewer) == ("fake-inproc:seed=5", "fake-inproc:reject_first=1")
    assert second.verdict.decision == "approve"
    workspace.store.commit("T-1", Approve(), actor="alice")
    assert run(workspace, again(task)).name == "Approved"


def test_a_locked_task_is_refused(open_workspace: Made) -> None:
    workspace = open_workspace(max_rejects=1)
    add_task(workspace)
    run(workspace, Order("fake-inproc", "fake-inproc"))
    workspace.store.commit("T-1", Reject("no"), actor="alice")
    with pytest.raises(Refused, match="locked"):
        run(workspace, Order("fake-inproc", "fake-inproc"))


def test_an_agent_whose_messages_are_refused_over_and_over_is_no_longer_heard(workspace: Workspace) -> None:
    add_task(workspace)
    script = workspace.home / "stubborn.py"
    script.write_text('import time\nfor _ in range(1000): print(\'{"type":"ack"}\', flush=True)\ntime.sleep(60)\n')
    (workspace.home / "config").mkdir()
    (workspace.home / "config" / "agents.toml").write_text(
        f'[executor.stubborn]\ncommand = ["{sys.executable}", "{script}"]\nprincipal = "stubborn"\n'
    )
    outcome = run(workspace, Order("stubborn"))
    assert outcome.name == "ExecutorFailed"
    assert told(workspace, "T-1").count("ack_mismatch") == 8


def test_a_right_ack_after_a_wrong_one_is_taken(workspace: Workspace) -> None:
    add_task(workspace)
    script = workspace.home / "second_thoughts.py"
    script.write_text(
        "import json, sys, time\n"
        "job = json.load(sys.stdin)['dispatch']\n"
        "ack = {'type': 'ack', 'dispatch_id': job['dispatch_id'], 'scope': job['scope'], 'issues': []}\n"
        "echo = [{'criterion_ref': c['id'], 'text': c['text']} for c in job['acceptance_criteria']]\n"
        "print(json.dumps({**ack, 'echo': echo[:1]}), flush=True)\n"
        "print(json.dumps({**ack, 'echo': echo}), flush=True)\n"
        "sys.exit(4)\n"
    )
    (workspace.home / "config").mkdir()
    (workspace.home / "config" / "agents.toml").write_text(
        f'[executor.second]\ncommand = ["{sys.executable}", "{script}"]\nprincipal = "second"\n'
    )
    outcome = run(workspace, Order("second"))
    assert told(workspace, "T-1")[2:] == ["ack_mismatch", "ack_received", "attempt_ended"]
    assert outcome.name == "ExecutorFailed"


# ------------------------------------------------------------------------------------------------- kills


class Killed(BaseException):
    """Stands for the end of the process at this point."""


STEP_NAMES = tuple(Steps.__dataclass_fields__)


def dying(at: str, *, before: bool) -> Steps:
    """The steps, of which one dies: before it has done anything, or after it has done everything."""

    def one(name: str) -> object:
        step = getattr(BARE, name)

        async def dies(*arguments: object) -> object:
            if before:
                raise Killed
            done = await step(*arguments)
            if name == "hand_over" and not isinstance(done, Outcome):
                await done.close()  # the kernel frees the claim of a process that is gone
            raise Killed

        return dies if name == at else step

    return Steps(**{name: one(name) for name in STEP_NAMES})  # type: ignore[arg-type]


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("at", STEP_NAMES)
def test_killed_at_any_step_and_run_again_there_is_one_dispatch(workspace: Workspace, at: str, before: bool) -> None:
    add_task(workspace)
    order = Order("fake-inproc", "fake-inproc")
    with pytest.raises(Killed):
        asyncio.run(take_to_gate(workspace, "T-1", order, dying(at, before=before)))
    assert run(workspace, order).name == "NeedsReview"
    assert told(workspace, "T-1") == HAPPY


def test_an_executor_that_says_something_else_the_second_time_is_not_trusted(workspace: Workspace) -> None:
    add_task(workspace)
    marker = workspace.home / "was-here"
    script = workspace.home / "fickle.py"
    script.write_text(
        "import json, sys, time, pathlib\n"
        f"marker = pathlib.Path({str(marker)!r})\n"
        "job = json.load(sys.stdin)['dispatch']\n"
        "echo = [{'criterion_ref': c['id'], 'text': c['text']} for c in job['acceptance_criteria']]\n"
        "if marker.exists(): echo = echo[:1]\n"
        "marker.touch()\n"
        "ack = {'type': 'ack', 'dispatch_id': job['dispatch_id'], 'scope': job['scope'], 'issues': []}\n"
        "print(json.dumps({**ack, 'echo': echo}), flush=True)\n"
        "time.sleep(60)\n"
    )
    (workspace.home / "config").mkdir()
    (workspace.home / "config" / "agents.toml").write_text(
        f'[executor.fickle]\ncommand = ["{sys.executable}", "{script}"]\nprincipal = "fickle"\n'
    )
    with pytest.raises(Killed):
        asyncio.run(take_to_gate(workspace, "T-1", Order("fickle"), dying("execute", before=True)))
    outcome = run(workspace, RESUME)
    assert outcome.name == "ExecutorFailed"
    assert told(workspace, "T-1")[-2:] == ["ack_mismatch", "attempt_ended"]


@pytest.mark.slow
def test_kill_9_in_the_middle_of_the_execution_and_the_next_process_goes_on(tmp_path: Path) -> None:
    workspace = Workspace.open(settings_for(tmp_path))
    add_task(workspace)
    code = (
        "import sys, pathlib\n"
        "from flows.here import run_here\nfrom flows.pipeline import Order\nfrom flows.workspace import Workspace\n"
        "from ssot.settings import load\n"
        "run_here(Workspace.open(load(home=pathlib.Path(sys.argv[1]))), ['T-1'], Order('fake:mode=slow,seconds=1'))\n"
    )
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) as process:
            wait_for(workspace, "acknowledged")
            os.kill(process.pid, signal.SIGKILL)
        assert not is_claimed(tmp_path, workspace.store.open_attempts()[0].dispatch_id)
    outcome = run(workspace, RESUME)
    assert outcome.name == "NeedsReview"
    assert [one for one in told(workspace, "T-1") if one != "heartbeat"] == HAPPY
    workspace.store.close()


def wait_for(workspace: Workspace, stage: str) -> None:
    deadline = time.monotonic() + 20
    while True:
        workspace.store.refresh()
        if workspace.store.view.entries["T-1"].stage == stage:
            return
        assert time.monotonic() < deadline, f"T-1 did not become {stage}"
        time.sleep(0.01)


# ------------------------------------------------------------------------------------------ in this process


def test_several_tasks_run_here_each_with_its_outcome(workspace: Workspace) -> None:
    ids = [add_task(workspace, f"T-{number}") for number in range(1, 4)]
    workspace.store.commit("T-2", Reject("not wanted"), actor="alice")
    told_of: list[str] = []
    order = Order("fake-inproc", "fake-inproc", actor="bob")
    outcomes = run_here(workspace, [*ids, "T-9"], order, progress=lambda outcome: told_of.append(outcome.task_id))
    assert [outcome.name for outcome in outcomes] == ["NeedsReview", "NeedsReview", "NeedsReview", "Refused"]
    assert sorted(told_of) == ["T-1", "T-2", "T-3", "T-9"]
    attempt = workspace.store.task("T-1").current
    assert attempt is not None
    assert attempt.dispatch is not None
    assert attempt.dispatch.by == "bob"


def test_an_order_that_names_nobody_goes_to_the_agents_of_the_tasks_project(workspace: Workspace) -> None:
    path = workspace.home / "config" / "projects.toml"
    path.parent.mkdir()
    path.write_text('[project.shop]\nexecutor = "fake-inproc:seed=5"\nreviewer = "fake-inproc:reject_first=1"\n')
    wish = Create("Make it work.", acceptance_criteria=CRITERIA, metadata={"project": "shop"})
    workspace.store.commit("T-2", wish, actor="alice")
    (outcome,) = run_here(workspace, ["T-2"], Order())
    dispatch = workspace.store.task("T-2").attempts[-1].dispatch
    assert outcome.name == "NeedsReview"
    assert dispatch is not None
    assert (dispatch.executor, dispatch.reviewer) == ("fake-inproc:seed=5", "fake-inproc:reject_first=1")
    path.write_text("[project.shop")
    workspace.store.commit("T-3", wish, actor="alice")
    (outcome,) = run_here(workspace, ["T-3"], Order())
    assert (outcome.name, "projects.toml" in outcome.detail) == ("Refused", True)
    (outcome,) = run_here(workspace, [add_task(workspace)], Order("fake-inproc", "fake-inproc"))
    assert outcome.name == "NeedsReview", "no file could make it some project's"


def test_the_families_of_configured_agents_go_with_the_dispatch(workspace: Workspace) -> None:
    path = workspace.home / "config" / "agents.toml"
    path.parent.mkdir()
    table = 'command = ["true"]\nprincipal = "one"\nmodel_family = "{}"\n'
    path.write_text(f"[executor.a]\n{table.format('gpt')}[reviewer.b]\n{table.format('claude')}")
    wish, _ = wish_for(workspace, workspace.store.task(add_task(workspace)), Order("a:mode=x", "b"))
    assert (wish.executor_family, wish.reviewer_family) == ("gpt", "claude")


def test_waiting_for_a_remote_executor_ends_with_its_ack_timeout(open_workspace: Made) -> None:
    workspace = open_workspace(ack_timeout_s=0.3)
    add_task(workspace)
    (outcome,) = run_here(workspace, ["T-1"], Order("remote"))
    assert outcome.name == "AckTimeout"


def test_waiting_for_the_decision_ends_with_it(workspace: Workspace) -> None:
    add_task(workspace)

    def approve(outcome: Outcome) -> None:
        if outcome.name == "NeedsReview":
            workspace.store.commit("T-1", Approve(), actor="alice")

    order = Order("fake-inproc", "fake-inproc")
    (outcome,) = run_here(workspace, ["T-1"], order, wait="decision", progress=approve)
    assert outcome.name == "Approved"


def test_an_attempt_that_ended_is_dispatched_again_with_the_same_issues(workspace: Workspace) -> None:
    add_task(workspace)
    run(workspace, Order("fake-inproc", "fake-inproc:reject_first=1"))
    task = workspace.store.commit("T-1", Reject("again"), actor="alice").task
    assert run(workspace, Order("fake-inproc:mode=crash")).name == "ExecutorFailed"
    assert run(workspace, Order("fake-inproc", "fake-inproc")).name == "NeedsReview"
    first = task.attempts[0].verdict
    last = workspace.store.task("T-1").attempts[-1].dispatch
    assert first is not None
    assert last is not None
    assert last.issues == first.issues


def test_an_attempt_ended_by_somebody_else_is_not_gone_on_with(workspace: Workspace) -> None:
    add_task(workspace)
    workspace.store.commit("T-1", Dispatch("d-1"), actor="cli")
    workspace.store.commit("T-1", EndAttempt("d-1", "orphaned"), actor="watchdog")
    assert run(workspace, RESUME).name == "Orphaned"
