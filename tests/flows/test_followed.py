"""How far the log was followed: a crash repeats what was due, and never skips it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from audit.event import Event
from flows.followed import Followed


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / ".kircerta").mkdir()
    return tmp_path


def event(seq: int, type: str) -> Event:
    moment = "2026-01-31T09:00:00.000000Z"
    return Event(seq, f"e-{seq}", "kircerta/api", type, moment, "alice", {}, "sha256:0", f"T-{seq}")


def test_a_new_workspace_is_followed_from_its_end(home: Path) -> None:
    assert Followed(home, 7).seq == 7


def test_what_was_due_at_a_crash_is_met_again_by_the_next_one(home: Path) -> None:
    followed = Followed(home, 0)
    for seq, kind in enumerate(("task_created", "heartbeat", "task_approved", "task_refreshed", "build_status"), 1):
        followed.take_in(event(seq, kind))
    assert [one.seq for one in followed.due("arrival")] == [1, 4]
    followed.done([1, 4, 5])
    assert [(one.what, one.task_id) for one in followed.due("closing", "build")] == [("closing", "T-3")]
    assert Followed(home, 5).seq == 2
    followed.done([3])
    assert Followed(home, 5).seq == 5


def test_a_log_that_is_shorter_than_the_position_is_followed_from_its_end(home: Path) -> None:
    Followed(home, 100)
    assert Followed(home, 3).seq == 3


def test_a_load_run_s_own_tasks_ask_for_nothing(home: Path) -> None:
    followed = Followed(home, 0)
    for seq, kind in enumerate(("task_created", "task_approved"), 1):
        followed.take_in(replace(event(seq, kind), subject="load-soak-20261101T080000Z-0f3a9c-1"))
    assert followed.due("arrival", "closing") == []
