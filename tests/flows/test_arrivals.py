"""Tasks from outside: started where a rule says so, once, never without one; a failed build opens a task of its own."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from flows.dispatch import candidates
from flows.dispatcher import Dispatcher
from flows.release import OUTSIDE, order_by_rule
from flows.workspace import Workspace
from ssot import projects as project_files
from ssot.ingest import github, telegram, xcode
from ssot.ingest.delivery import Delivery
from ssot.intents import Dispatch
from tests import builders
from tests.flows.conftest import add_task, told
from tests.flows.test_dispatcher import dispatcher, until_stage

GH, XC, FIX, TG = "gh-octo-org_hello.world-7", "xcode-0ab1-cd", "fix-0ab1-cd", "tg-n1001-5"
RULES = """
[project.hello]
repositories = ["octo-org/*"]
executor = "fake-inproc"
reviewer = "fake-inproc"

[[project.hello.auto_dispatch]]
source = "github"
labels = ["agent"]
"""
BUILDS = """
[project.hello]
products = ["Hello"]
executor = "fake-inproc"
reviewer = "fake-inproc"
task_for_failed_build = true
"""


def write_rules(home: Path, text: str) -> None:
    """Put a projects file there, old enough to be whole."""
    path = home / project_files.FILE
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    os.utime(path, (1_700_000_000 + len(text), 1_700_000_000 + len(text)))


def an_issue(number: int = 7, delivery_id: str = "", **more: Any) -> Delivery:
    return github.read("issues", delivery_id or f"d-{number}", builders.issue_payload(number=number, **more))


def a_build(progress: str, status: str | None = None) -> Delivery:
    return xcode.read(builders.build_payload(progress, status))


FAILED = ("COMPLETE", "FAILED")


class Turns:
    """A dispatcher that is turned by hand, until nothing follows any more."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace

    def run(self) -> None:
        """Start a dispatcher, let it do what is to be done, and drop it as a kill would."""
        self.drive(self.settle)

    def drive(self, what: Callable[[Dispatcher], Coroutine[Any, Any, None]]) -> None:
        async def main() -> None:
            await what(Dispatcher(self.workspace, None))

        asyncio.run(main())

    async def settle(self, dispatcher: Dispatcher) -> None:
        for _ in range(4):
            await dispatcher.turn()
            while dispatcher._running:
                await asyncio.wait(dispatcher._running.values())
                await dispatcher.turn()


@pytest.fixture
def turns(workspace: Workspace) -> Turns:
    made = Turns(workspace)
    made.run()  # it begins with what comes from now on
    return made


def stage(workspace: Workspace, task_id: str) -> str:
    workspace.store.refresh()
    return workspace.store.view.entries[task_id].stage


# -------------------------------------------------------------------------------------------------- rules


def test_a_task_that_a_rule_names_is_dispatched_in_the_rules_name(workspace: Workspace, turns: Turns) -> None:
    write_rules(workspace.home, RULES)
    turns.run()
    workspace.store.deliver(an_issue())
    turns.run()
    assert stage(workspace, GH) == "needs_review"
    task = workspace.store.task(GH)
    dispatch = task.attempts[0].dispatch
    assert dispatch is not None
    assert (dispatch.by, dispatch.executor, dispatch.reviewer) == ("rule:hello", "fake-inproc", "fake-inproc")


def test_the_correlation_id_of_the_delivery_goes_through_to_the_verdict(workspace: Workspace, turns: Turns) -> None:
    write_rules(workspace.home, RULES)
    workspace.store.deliver(an_issue())
    turns.run()
    events = [event for event in workspace.store.events() if event.subject == GH]
    assert [event.type for event in events][:2] == ["task_created", "task_dispatched"]
    assert {event.correlationid for event in events} == {workspace.store.task(GH).correlation_id}


@pytest.mark.parametrize(
    "rules",
    [
        "",
        RULES.replace('"agent"', '"other"'),
        RULES.replace("octo-org/*", "acme/*"),
        RULES.replace('source = "github"\nlabels = ["agent"]', 'source = "telegram"'),
    ],
)
def test_without_a_rule_that_fits_nothing_from_outside_runs(workspace: Workspace, turns: Turns, rules: str) -> None:
    write_rules(workspace.home, rules)
    workspace.store.deliver(an_issue())
    turns.run()
    assert told(workspace, GH) == ["task_created"]


def test_every_source_has_its_rule(workspace: Workspace, turns: Turns) -> None:
    write_rules(
        workspace.home,
        '[project.a]\nchats = [-1001]\nexecutor = "fake-inproc"\nreviewer = "fake-inproc"\n'
        '[[project.a.auto_dispatch]]\nsource = "telegram"\nchats = [-1001]\n',
    )
    workspace.store.deliver(telegram.read(builders.update_payload()))
    workspace.store.deliver(telegram.read(builders.update_payload(update_id=2, chat_id=-7)))
    turns.run()
    assert (stage(workspace, TG), stage(workspace, "tg-n7-5")) == ("needs_review", "new")


def test_a_label_that_comes_later_starts_the_task_then(workspace: Workspace, turns: Turns) -> None:
    write_rules(workspace.home, RULES)
    plain = builders.issue_payload()
    plain["issue"]["labels"] = []
    workspace.store.deliver(github.read("issues", "d-1", plain))
    turns.run()
    assert stage(workspace, GH) == "new"
    workspace.store.deliver(an_issue(delivery_id="d-2", action="labeled", updated_at="2026-02-01T00:00:00Z"))
    turns.run()
    assert stage(workspace, GH) == "needs_review"


def test_a_new_rule_does_not_reach_back_to_tasks_that_wait(workspace: Workspace, turns: Turns) -> None:
    for number in range(5):
        workspace.store.deliver(an_issue(number + 1))
    turns.run()
    write_rules(workspace.home, RULES)
    turns.run()
    assert {stage(workspace, f"gh-octo-org_hello.world-{number + 1}") for number in range(5)} == {"new"}
    workspace.store.deliver(an_issue())
    turns.run()
    assert stage(workspace, GH) == "needs_review"


def test_what_came_while_no_dispatcher_ran_is_started_by_the_next_one(workspace: Workspace, turns: Turns) -> None:
    write_rules(workspace.home, RULES)
    turns.run()
    workspace.store.deliver(an_issue())
    turns.run()
    turns.run()
    assert told(workspace, GH).count("task_dispatched") == 1


def test_a_task_that_a_person_dispatched_meanwhile_is_left_alone(workspace: Workspace, turns: Turns) -> None:
    write_rules(workspace.home, RULES)
    workspace.store.deliver(an_issue())
    workspace.store.commit(GH, Dispatch("d-mine", executor="remote"), actor="alice")
    turns.run()
    assert told(workspace, GH) == ["task_created", "task_dispatched"]


def test_one_that_cannot_be_dispatched_is_told_once_and_left_to_a_person(workspace: Workspace, turns: Turns) -> None:
    write_rules(workspace.home, RULES.replace('executor = "fake-inproc"', 'executor = "nobody"'))
    workspace.store.deliver(an_issue())

    async def until_given_up(dispatcher: Dispatcher) -> None:
        while not builders.events(workspace.home, "move_refused"):
            await dispatcher.turn()
            dispatcher._not_before.clear()  # without the pauses in between
            if dispatcher._running:
                await asyncio.wait(dispatcher._running.values())
        for _ in range(3):
            await dispatcher.turn()

    turns.drive(until_given_up)
    (refused,) = builders.events(workspace.home, "move_refused")
    assert (refused.subject, refused.data["code"]) == (GH, "auto_dispatch_failed")
    assert "nobody" in refused.data["detail"]
    turns.run()
    assert stage(workspace, GH) == "new"


# ------------------------------------------------------------------------------------------ a broken file


def test_with_a_broken_projects_file_nothing_starts_and_it_is_said_once(workspace: Workspace, turns: Turns) -> None:
    write_rules(workspace.home, RULES + "\n[project.hello.policy]\nquorum = 0\n")
    workspace.store.deliver(an_issue())
    turns.run()
    turns.run()
    (alert,) = builders.events(workspace.home, "alert")
    assert (alert.data["alarm"], alert.data["state"]) == ("bad_projects_file", "raised")
    assert "quorum" in alert.data["reason"]
    assert stage(workspace, GH) == "new"


def test_mended_it_is_said_too_and_what_waited_for_it_starts(workspace: Workspace, turns: Turns) -> None:
    write_rules(workspace.home, "[project")
    workspace.store.deliver(an_issue())
    turns.run()
    write_rules(workspace.home, RULES)
    turns.run()
    turns.run()
    assert [event.data["state"] for event in builders.events(workspace.home, "alert")] == ["raised", "cleared"]
    assert stage(workspace, GH) == "needs_review"


def test_a_broken_file_holds_up_nobody_elses_dispatch(workspace: Workspace, turns: Turns) -> None:
    write_rules(workspace.home, "[project")
    add_task(workspace)
    workspace.store.commit("T-1", Dispatch("d-1", "fake-inproc", "fake-inproc"), actor="alice")
    turns.run()
    assert stage(workspace, "T-1") == "needs_review"


def test_a_file_that_is_just_being_written_is_looked_at_later(workspace: Workspace, turns: Turns) -> None:
    write_rules(workspace.home, RULES)
    workspace.store.deliver(an_issue())
    (workspace.home / project_files.FILE).write_text("")  # an editor empties it, then writes

    async def before_it_settles(dispatcher: Dispatcher) -> None:
        await dispatcher.turn()
        write_rules(workspace.home, RULES)
        await turns.settle(dispatcher)

    turns.drive(before_it_settles)
    assert stage(workspace, GH) == "needs_review"


# ---------------------------------------------------------------------------------------- dispatch_pending


def test_pending_tasks_from_outside_are_not_taken_without_a_rule(workspace: Workspace) -> None:
    add_task(workspace)
    workspace.store.deliver(an_issue())
    workspace.store.deliver(telegram.read(builders.update_payload()))
    assert list(candidates(workspace, 10)) == ["T-1"]
    assert set(candidates(workspace, 10, include_outside=True)) == {"T-1", GH, TG}
    assert len(candidates(workspace, 2, include_outside=True)) == 2


def test_pending_takes_what_a_rule_lets_run_with_the_projects_agents(workspace: Workspace) -> None:
    write_rules(workspace.home, RULES)
    workspace.store.deliver(an_issue())
    workspace.store.deliver(telegram.read(builders.update_payload()))
    found = candidates(workspace, 10)
    assert list(found) == [GH]
    order = found[GH]
    assert order is not None
    assert (order.executor, order.actor, order.of) == ("fake-inproc", "rule:hello", ("new",))


def test_with_a_broken_file_no_rule_holds(workspace: Workspace) -> None:
    write_rules(workspace.home, "[project")
    workspace.store.deliver(an_issue())
    assert candidates(workspace, 10) == {}
    assert order_by_rule(None, workspace.store.task(GH)) is None


def test_outside_is_where_nobody_here_asks() -> None:
    assert set(OUTSIDE) == {"github", "xcode", "telegram"}


# ------------------------------------------------------------------------------------------- failed builds


def test_a_failed_build_opens_one_task_that_names_it(workspace: Workspace, turns: Turns) -> None:
    write_rules(workspace.home, BUILDS)
    for delivery in (a_build("PENDING"), a_build("RUNNING"), a_build(*FAILED), a_build(*FAILED)):
        workspace.store.deliver(delivery)
        turns.run()
    build, task = workspace.store.task(XC), workspace.store.task(FIX)
    assert (task.source, task.origin["build_run_id"], task.origin["build_task"]) == ("xcode", "0AB1-cd", XC)
    assert task.correlation_id == build.correlation_id
    for named in ("Hello build 12", "FAILED", "Pull Requests", "0AB1-cd", XC):
        assert named in (task.request_text or "")
    assert told(workspace, FIX) == ["task_created"]


@pytest.mark.parametrize("order", list(permutations(range(3))), ids=str)
def test_in_any_order_and_with_restarts_it_is_one_task(workspace: Workspace, turns: Turns, order: tuple[int]) -> None:
    write_rules(workspace.home, BUILDS)
    deliveries = [a_build("PENDING"), a_build("RUNNING"), a_build(*FAILED)]
    for number in order:
        workspace.store.deliver(deliveries[number])
        workspace.store.deliver(deliveries[number])
        turns.run()
    assert [event.subject for event in builders.events(workspace.home, "task_created")] == [XC, FIX]


@pytest.mark.parametrize("outcome", ["SUCCEEDED", "CANCELED", "SKIPPED", "NEW_WORD"])
def test_a_build_that_did_not_fail_opens_none(workspace: Workspace, turns: Turns, outcome: str) -> None:
    write_rules(workspace.home, BUILDS)
    workspace.store.deliver(a_build("COMPLETE", outcome))
    turns.run()
    assert set(workspace.store.view.entries) == {XC}


@pytest.mark.parametrize("rules", ["", BUILDS.replace("true", "false"), BUILDS.replace('"Hello"', '"Other"')])
def test_without_a_project_that_asks_for_it_none_is_opened(workspace: Workspace, turns: Turns, rules: str) -> None:
    write_rules(workspace.home, rules)
    workspace.store.deliver(a_build("COMPLETE", "ERRORED"))
    turns.run()
    assert set(workspace.store.view.entries) == {XC}


def test_a_rule_may_start_the_mending_and_not_the_builds(workspace: Workspace, turns: Turns) -> None:
    rule = '[[project.hello.auto_dispatch]]\nsource = "xcode"\nfailed_builds = true\n'
    write_rules(workspace.home, BUILDS + rule)
    workspace.store.deliver(a_build("COMPLETE", "ERRORED"))
    turns.run()
    assert (stage(workspace, XC), stage(workspace, FIX)) == ("new", "needs_review")


# ---------------------------------------------------------------------------------------- as processes


@pytest.mark.slow
def test_killed_at_any_moment_every_task_is_dispatched_exactly_once(workspace: Workspace) -> None:
    write_rules(workspace.home, RULES)
    with dispatcher(workspace.home):
        pass
    numbers = range(1, 5)
    for number in numbers:
        with dispatcher(workspace.home) as started:
            workspace.store.deliver(an_issue(number))
            started.send_signal(signal.SIGKILL)
            started.wait()
    with dispatcher(workspace.home):
        for number in numbers:
            task_id = f"gh-octo-org_hello.world-{number}"
            until_stage(workspace, task_id, "needs_review")
            assert told(workspace, task_id).count("task_dispatched") == 1
