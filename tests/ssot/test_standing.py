"""How a project stands: each reason for its light, and what is its last run."""

from __future__ import annotations

from pathlib import Path

import pytest

from audit.event import Event
from audit.stamp import rfc3339, seconds_of
from ssot import schedules
from ssot.projects import Projects, parse
from ssot.schedules import ScheduledRun, Schedules
from ssot.standing import MAX_REASONS, LastError, ProjectStanding, error_of, facts_of, standing
from ssot.store import Store
from ssot.task import Task
from tests.builders import START_S, Walk, a_store, events, result_body, walk_to, write_projects

SHOP = b"""
[project.shop]
repositories = ["acme/*"]
[project.shop.policy]
decision_deadline_s = 3600
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return a_store(tmp_path)


def stands(
    tasks: list[Task], now: float = START_S, silent: set[str] = frozenset(), held: set[str] = frozenset()
) -> ProjectStanding:
    """How the shop stands, with these tasks."""
    projects = parse(SHOP)
    return standing(
        "shop",
        projects.project["shop"],
        [facts_of(task, projects) for task in tasks],
        now=now,
        silent=frozenset(silent),
        held=frozenset(held),
        errors=[],
        next_run=None,
    )


def codes(found: ProjectStanding) -> list[tuple[str, str]]:
    return [(reason.code, reason.task_id) for reason in found.reasons]


def shop_task(store: Store, task_id: str, stage: str) -> Walk:
    write_projects(store.home, SHOP.decode())
    return walk_to(store, task_id, stage, metadata={"project": "shop"})  # type: ignore[arg-type]


def test_a_project_without_tasks_is_green() -> None:
    found = stands([])
    assert (found.state, found.counts.total, found.last_run) == ("green", 0, None)


@pytest.mark.parametrize("stage", ["new", "dispatched", "acknowledged", "delivered", "needs_review", "approved"])
def test_a_project_is_green_while_nothing_is_wrong(store: Store, stage: str) -> None:
    found = stands([shop_task(store, "T-1", stage).task])
    assert (found.state, found.reasons) == ("green", ())


def test_a_failed_last_run_is_red_until_another_one_comes_further(store: Store) -> None:
    walk = shop_task(store, "T-1", "ended")
    found = stands([walk.task])
    assert (found.state, codes(found)) == ("red", [("failed", "T-1")])
    assert found.last_run is not None
    assert (found.last_run.outcome, found.last_run.reason) == ("failed", "executor_failed")
    other = shop_task(store, "T-2", "needs_review")
    assert stands([walk.task, other.task]).state == "green"


def test_a_result_that_says_that_it_failed_is_a_failed_run(store: Store) -> None:
    walk = shop_task(store, "T-1", "acknowledged")
    walk.result(outcome="failed", work_log=result_body(walk.task).work_log, diff_snapshot=None)
    assert codes(stands([walk.task])) == [("failed", "T-1")]


def test_a_locked_task_is_red_until_it_is_unlocked(tmp_path: Path) -> None:
    walk = shop_task(a_store(tmp_path, max_rejects=1), "T-1", "rejected")
    assert codes(stands([walk.task])) == [("locked", "T-1")]
    assert stands([walk.task]).counts.locked == 1
    walk.unlock()
    assert stands([walk.task]).state == "green"


def test_a_gate_behind_the_deadline_is_yellow(store: Store) -> None:
    task = shop_task(store, "T-1", "needs_review").task
    assert task.current is not None
    assert task.current.verdict is not None
    since = seconds_of(task.current.verdict.at)
    assert stands([task], since + 3599).state == "green"
    found = stands([task], since + 3601)
    assert (found.state, codes(found)) == ("yellow", [("overdue", "T-1")])


def test_silence_and_held_files_are_yellow_and_red_goes_before_them(store: Store) -> None:
    task = shop_task(store, "T-1", "acknowledged").task
    found = stands([task], silent={"T-1"}, held={"T-1", "T-other"})
    assert (found.state, codes(found)) == ("yellow", [("held", "T-1"), ("silent", "T-1")])
    failed = shop_task(store, "T-2", "ended").task
    found = stands([task, failed], silent={"T-1"})
    assert (found.state, codes(found)) == ("red", [("failed", "T-2"), ("silent", "T-1")])


def test_reasons_have_an_end(store: Store) -> None:
    task = shop_task(store, "T-1", "acknowledged").task
    many = [task.model_copy(update={"task_id": f"T-{number}"}) for number in range(50)]
    found = stands(many, silent={one.task_id for one in many})
    assert (len(found.reasons), found.counts.pending) == (MAX_REASONS, 50)


def test_a_task_is_its_projects_by_name_or_by_where_it_came_from(store: Store) -> None:
    projects = parse(SHOP)
    named = shop_task(store, "T-1", "new").task
    meant = walk_to(store, "T-2", "new", origin={"repository": "Acme/Shop"}).task
    nobody = walk_to(store, "T-3", "new").task
    wrong = walk_to(store, "T-4", "new", metadata={"project": "shoe"}).task
    found = [facts_of(task, projects) for task in (named, meant, nobody, wrong)]
    assert [one.project for one in found] == ["shop", "shop", None, None]
    assert [one.misnamed for one in found] == [False, False, False, True]
    assert facts_of(nobody, Projects()).project is None


def test_the_errors_of_a_log_name_their_task_place_and_cause(tmp_path: Path, store: Store) -> None:
    walk_to(store, "T-1", "ended")
    found = [error for event in events(tmp_path) if (error := error_of(event)) is not None]
    assert [(one.type, one.task_id, one.detail) for one in found] == [("attempt_ended", "T-1", "executor_failed")]
    assert found[0].seq == events(tmp_path)[-1].seq
    told = Event(9, "e-9", "s", "reject_lock", rfc3339(START_S), "a", {"rejects": 3}, "", "T-1")
    assert error_of(told) == LastError(
        seq=9, type="reject_lock", task_id="T-1", at=rfc3339(START_S), detail="after 3 rejections in a row"
    )


# --------------------------------------------------------------------------------------------- schedules


def run(seconds: float, project: str | None = None, flow: str = "dispatch_pending") -> ScheduledRun:
    return ScheduledRun(flow=flow, deployment=f"{flow}/kircerta", at=rfc3339(START_S + seconds), project=project)


def test_the_next_run_is_the_soonest_that_concerns_the_project() -> None:
    told = Schedules(
        at=rfc3339(START_S), runs=(run(-5), run(90), run(30, "other"), run(10, flow="watchdog"), run(60, "shop"))
    )
    flows = frozenset({"dispatch_pending"})
    assert told.next_for("shop", flows, START_S) == run(60, "shop")
    assert told.next_for("bakery", flows, START_S) == run(90)
    assert told.next_for("shop", flows, START_S + 100) is None


def test_schedules_that_nobody_renews_are_not_known_any_more(tmp_path: Path) -> None:
    schedules.save(tmp_path, Schedules(at=rfc3339(START_S), runs=(run(5000),)))
    told = schedules.load(tmp_path)
    assert told is not None
    assert told.next_for("shop", frozenset({"dispatch_pending"}), START_S + 60) is not None
    assert told.next_for("shop", frozenset({"dispatch_pending"}), START_S + 3600) is None


@pytest.mark.parametrize("raw", [b"", b"{}", b"[1]", b'{"at": 5}', b"\xff"])
def test_a_schedules_file_that_makes_no_sense_says_nothing(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / ".kircerta").mkdir()
    (tmp_path / schedules.FILE).write_bytes(raw)
    assert schedules.load(tmp_path) is None
