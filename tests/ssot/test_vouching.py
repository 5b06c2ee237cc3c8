"""A decision that bears the server's mark rests on nothing that another process appended to the log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from audit.mac import DecisionCheck, MacKey
from ssot import intents, replay
from ssot.store import Store, StoreSettings
from tests.builders import Ticks, Walk, events, projects_file, refusal, task_path, types, walk_to

KEY = MacKey.derived("the secret of this server, long enough")
ANOTHER = MacKey.derived("the secret that came behind it, long")
LOW_RISK: dict[str, Any] = {"human_gate": False, "low_risk": ["src/**"]}


def served(home: Path, key: MacKey | None = KEY, ticks: Ticks | None = None) -> Store:
    settings = StoreSettings(mac_key=key)
    return Store.open(home, source="kircerta/api", settings=settings, clock=(ticks or Ticks()).clock)


def stranger(home: Path) -> Walk:
    """A process that may write the workspace and has not the server's secret."""
    return Walk(served(home, None))


def delivered(home: Path, ticks: Ticks | None = None, **policy: Any) -> Walk:
    """A task of a project, right before its verdict, in a workspace whose server marked a decision already."""
    store = served(home, ticks=ticks)
    walk_to(store, "T-0", "approved")
    projects_file(home, **policy)
    return walk_to(store, "T-1", "delivered", metadata={"project": "shop"})


def at_gate(home: Path, **policy: Any) -> Walk:
    walk = delivered(home, **policy)
    walk.verdict()
    return walk


def status(walk: Walk) -> str:
    return walk.task.status


def unmarked(home: Path) -> list[str]:
    check = DecisionCheck([KEY, ANOTHER])
    for event in events(home):
        check.look(event.line, {"seq": event.seq, "type": event.type, "data": event.data})
    return check.problems


def test_an_appended_approval_is_none_of_a_quorum(tmp_path: Path) -> None:
    walk = at_gate(tmp_path, quorum=2)
    stranger(tmp_path).approve("bob")
    walk.approve("alice")
    assert status(walk) == "needs_review"
    assert events(tmp_path, "approval_given")[-1].data["approvals"] == 1
    assert refusal(walk, intents.Approve(), "alice").code == "already_approved"
    walk.approve("bob")
    assert status(walk) == "approved"
    assert events(tmp_path, "task_approved")[-1].data["approvals"] == 2
    assert len(unmarked(tmp_path)) == 1
    assert replay.check(tmp_path).ok


def test_a_whole_appended_quorum_brings_no_decision(tmp_path: Path) -> None:
    walk = at_gate(tmp_path, quorum=2)
    for name in ("bob", "carol"):
        stranger(tmp_path).approve(name)
    walk_to(walk.store, "T-2", "needs_review")
    walk_to(served(tmp_path), "T-3", "new")
    assert status(walk) == "needs_review"
    assert "task_approved" not in types(tmp_path, "T-1")


@pytest.mark.parametrize("appended", ["dispatch", "ack", "result"])
def test_low_risk_does_not_decide_on_an_attempt_with_an_appended_line(tmp_path: Path, appended: str) -> None:
    """Such a line could name a policy that no project has, or call anything a low risk."""
    walk_to(served(tmp_path), "T-0", "approved")
    projects_file(tmp_path, **LOW_RISK)
    walk_to(served(tmp_path), "T-1", "new", metadata={"project": "shop"})
    for step in ("dispatch", "ack", "result", "verdict"):
        getattr(stranger(tmp_path) if step == appended else Walk(served(tmp_path)), step)()
    assert types(tmp_path, "T-1")[-1] == "verdict_received"


def test_low_risk_decides_where_the_server_wrote_every_line(tmp_path: Path) -> None:
    walk = delivered(tmp_path, **LOW_RISK)
    walk.verdict()
    assert status(walk) == "approved"
    assert unmarked(tmp_path) == []
    assert replay.check(tmp_path).ok


def test_a_mark_that_does_not_fit_is_told_wherever_it_stands(tmp_path: Path) -> None:
    delivered(tmp_path, **LOW_RISK).verdict()
    check = DecisionCheck([KEY])
    marked = [event for event in events(tmp_path, subject="T-1") if "mac" in event.data]
    assert len(marked) == 5
    for event in marked:
        line = event.line.replace(b'"attempt":1', b'"attempt":2').replace(b'"by":"fake', b'"by":"real')
        check.look(line, orjson.loads(line))
    assert len(check.problems) == 5
    assert check.decisions == 1


def test_an_appended_verdict_of_low_risk_brings_no_decision(tmp_path: Path) -> None:
    walk = delivered(tmp_path, **LOW_RISK)
    stranger(tmp_path).verdict()
    walk_to(walk.store, "T-2", "new")
    assert "task_approved" not in types(tmp_path, "T-1")
    walk.approve("alice")
    assert status(walk) == "approved"
    assert unmarked(tmp_path) == []


@pytest.mark.parametrize("appended", ["verdict", "quorum"])
def test_a_deadline_that_expires_does_not_bring_what_was_appended_to_count(tmp_path: Path, appended: str) -> None:
    ticks = Ticks()
    deadline = {"decision_deadline_s": 60, "deadline_outcome": "expired"}
    walk = delivered(tmp_path, ticks, **deadline, **(LOW_RISK if appended == "verdict" else {"quorum": 2}))
    (stranger(tmp_path) if appended == "verdict" else walk).verdict()
    for name in ("bob", "carol") if appended == "quorum" else ():
        stranger(tmp_path).approve(name)
    ticks.ahead(120.0)
    dispatch_id = events(tmp_path, "task_dispatched", "T-1")[0].data["dispatch"]["dispatch_id"]
    walk.do(intents.FindDecisionOverdue(dispatch_id), "watchdog")
    assert status(walk) == "rejected"
    assert types(tmp_path, "T-1")[-2:] == ["decision_overdue", "task_rejected"]


@pytest.mark.parametrize("owing", ["approve", "verdict"])
def test_the_server_takes_up_the_decision_that_a_crash_of_its_own_cut_off(tmp_path: Path, owing: str) -> None:
    """Whoever comes first without the secret leaves it to the server, also when that has a new one by now."""
    if owing == "approve":
        walk = at_gate(tmp_path, quorum=2)
        walk.approve("bob")
    else:
        walk = delivered(tmp_path, **LOW_RISK)
    before = {path: path.read_bytes() for path in (task_path(tmp_path, "T-1"), tmp_path / "audit" / ".lock")}
    getattr(walk, owing)()
    walk.store.close()
    log = tmp_path / "audit" / "events.jsonl"
    *kept, decided = log.read_bytes().splitlines(keepends=True)
    assert b"task_approved" in decided
    for path, content in {**before, log: b"".join(kept)}.items():
        path.write_bytes(content)
    for number in (2, 3):
        walk_to(served(tmp_path, None), f"T-{number}", "new")
    assert "task_approved" not in types(tmp_path, "T-1")
    store = served(tmp_path, ANOTHER)
    assert store.task("T-1").status == "approved"
    assert unmarked(tmp_path) == []


def test_where_no_server_marks_anything_what_the_log_says_counts(tmp_path: Path) -> None:
    projects_file(tmp_path, quorum=2)
    walk = walk_to(served(tmp_path, None), "T-1", "needs_review", metadata={"project": "shop"})
    walk.approve("alice")
    stranger(tmp_path).approve("bob")
    walk.store.refresh()
    assert status(walk) == "approved"
