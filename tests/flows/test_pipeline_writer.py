"""Commits of several runs go into the log together, each with its own answer."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager

import pytest

from flows import writer
from flows.outcome import Outcome
from flows.pipeline import Order, take_to_gate
from flows.workspace import Workspace
from ssot.intents import Create, Dispatch, Reject
from ssot.store import Answer, Committed, Refused, Wish
from tests.flows.conftest import add_task


def all_of(answers: list[Future[Committed]]) -> list[str]:
    found = []
    for answer in answers:
        error = answer.exception(timeout=10)
        assert error is None or isinstance(error, Refused)
        found.append("committed" if error is None else error.code)
    return found


def test_each_wish_gets_its_own_answer(workspace: Workspace) -> None:
    for number in range(20):
        add_task(workspace, f"T-{number}")
    commit = workspace.writer.commit
    answers = [commit(f"T-{number}", Dispatch(f"d-{number}"), "dispatcher") for number in range(20)]
    answers += [commit("T-nobody", Dispatch("d-x"), "dispatcher"), commit("T-1", Reject(" "), "alice")]
    assert all_of(answers) == ["committed"] * 20 + ["not_found", "reason_required"]
    assert answers[3].result().task.task_id == "T-3"
    kinds = Counter(event.type for event in workspace.store.events())
    assert kinds["task_dispatched"] == 20


def test_wishes_for_one_task_are_judged_one_after_the_other(workspace: Workspace) -> None:
    add_task(workspace)
    answers = [workspace.writer.commit("T-1", Dispatch(f"d-{number}"), "dispatcher") for number in range(5)]
    assert sorted(all_of(answers)) == ["committed"] + ["invalid_transition"] * 4


def test_a_wish_that_was_taken_back_in_time_is_not_carried_out(workspace: Workspace) -> None:
    holding, release = threading.Event(), threading.Event()

    def hold() -> None:
        with workspace.store.log.transact(workspace.store._reader):
            holding.set()
            release.wait(5)

    holder = threading.Thread(target=hold)
    holder.start()
    holding.wait(5)
    first = workspace.writer.commit("T-1", Create("x"), "alice")
    while not first.running():
        pass
    second = workspace.writer.commit("T-2", Create("x"), "alice")
    assert second.cancel()
    release.set()
    holder.join()
    third = workspace.writer.commit("T-3", Create("x"), "alice")
    assert all_of([first, third]) == ["committed", "committed"]
    with pytest.raises(Refused, match="T-2"):
        workspace.store.task("T-2")


@contextmanager
def under_way(workspace: Workspace, count: int) -> Iterator[None]:
    """So many dispatches are under way."""
    with ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(workspace.writer.under_way())
        yield


def batches_of(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many commits went together, batch by batch, from now on."""
    sizes: list[int] = []
    commit_all = workspace.store.commit_all

    def counted(wishes: Sequence[Wish], timeout: float | None = None) -> list[Answer]:
        sizes.append(len(wishes))
        return commit_all(wishes, timeout)

    monkeypatch.setattr(workspace.store, "commit_all", counted)
    return sizes


def test_a_commit_waits_for_the_others_that_are_under_way(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "DELAY_S", 60.0)
    sizes = batches_of(workspace, monkeypatch)
    with under_way(workspace, writer.SIBLINGS):
        answers = [workspace.writer.commit(f"T-{n}", Create("x"), f"actor-{n}") for n in range(writer.SIBLINGS)]
        assert all_of(answers) == ["committed"] * writer.SIBLINGS
    assert sizes == [writer.SIBLINGS]


def test_a_commit_waits_no_longer_when_the_others_have_gone(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "DELAY_S", 60.0)
    with under_way(workspace, writer.SIBLINGS):
        answer = workspace.writer.commit("T-1", Create("x"), "alice")
        assert not answer.done()
    assert all_of([answer]) == ["committed"]


def test_a_commit_waits_for_a_moment_only_and_for_few_not_at_all(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    with under_way(workspace, writer.SIBLINGS):
        assert all_of([workspace.writer.commit("T-1", Create("x"), "alice")]) == ["committed"]
    monkeypatch.setattr(writer, "DELAY_S", 60.0)
    with under_way(workspace, writer.SIBLINGS - 1):
        assert all_of([workspace.writer.commit("T-2", Create("x"), "alice")]) == ["committed"]


def test_a_commit_waits_for_no_more_than_go_together(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "DELAY_S", 60.0)
    with under_way(workspace, writer.MOST + 1):
        answers = [workspace.writer.commit(f"T-{n}", Create("x"), "alice") for n in range(writer.MOST)]
        assert all_of(answers) == ["committed"] * writer.MOST


def test_who_takes_back_its_wish_while_it_waits_for_company_gets_nothing(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "DELAY_S", 60.0)
    with under_way(workspace, writer.SIBLINGS):
        taken_back, other = (workspace.writer.commit(name, Create("x"), "alice") for name in ("T-1", "T-2"))
        assert taken_back.cancel()
    assert all_of([other]) == ["committed"]
    assert workspace.store.task_or_none("T-1") is None
    assert all_of([workspace.writer.commit("T-1", Create("x"), "alice")]) == ["committed"], "and the next one does"


def test_ids_that_differ_in_case_only_do_not_go_together(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "DELAY_S", 60.0)
    sizes = batches_of(workspace, monkeypatch)
    with under_way(workspace, writer.SIBLINGS):
        answers = [workspace.writer.commit(name, Create("x"), "alice") for name in ("T-1", "T-2", "t-1", "T-3")]
    assert all_of(answers) == ["committed", "committed", "exists", "committed"]
    assert sizes == [2, 2]


def test_whatever_stops_a_batch_is_told_to_each_and_the_next_one_goes_on(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit_all = workspace.store.commit_all

    def stopped(wishes: Sequence[Wish], timeout: float | None = None) -> list[Answer]:
        raise KeyboardInterrupt

    monkeypatch.setattr(workspace.store, "commit_all", stopped)
    with under_way(workspace, writer.SIBLINGS):
        answers = [workspace.writer.commit(name, Create("x"), "alice") for name in ("T-1", "T-2")]
        assert [type(one.exception(timeout=10)) for one in answers] == [KeyboardInterrupt] * 2
    monkeypatch.setattr(workspace.store, "commit_all", commit_all)
    assert all_of([workspace.writer.commit("T-1", Create("x"), "alice")]) == ["committed"]


def test_a_dispatch_counts_as_under_way_from_its_beginning_to_its_end(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_task(workspace)
    monkeypatch.setattr(writer, "SIBLINGS", 2)
    monkeypatch.setattr(writer, "DELAY_S", 60.0)
    sizes, outcomes = batches_of(workspace, monkeypatch), list[Outcome]()
    dispatch = threading.Thread(target=lambda: outcomes.append(asyncio.run(take_to_gate(workspace, "T-1", Order()))))
    with workspace.writer.under_way():
        dispatch.start()
        while not workspace.writer._asked and not sizes:
            time.sleep(0.001)
        time.sleep(0.05)
        assert all_of([workspace.writer.commit("T-2", Create("x"), "alice")]) == ["committed"]
        assert sizes[0] == 2, "it waited for us"
    dispatch.join(30)
    assert [outcome.name for outcome in outcomes] == ["NeedsReview"]
    with workspace.writer.under_way():
        assert all_of([workspace.writer.commit("T-3", Create("x"), "alice")]) == ["committed"], "it has gone"
