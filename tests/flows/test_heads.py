"""The log's head is signed in time, and never against what was signed before."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from audit.event import Draft
from audit.head import Checkpoints
from audit.keys import SigningKey, keep_in_file
from flows.heads import EVERY_EVENTS, EVERY_S, HeadSchedule
from flows.server import PrefectServer
from flows.workspace import Workspace, using
from tests.flows.conftest import Made, add_task


def note(workspace: Workspace, count: int) -> None:
    for number in range(count):
        workspace.store.note(Draft("alert", "test", {"number": number}))


def test_the_head_is_signed_after_so_many_events_or_so_long(open_workspace: Made, tmp_path: Path) -> None:
    workspace = open_workspace(keyring=False)
    keep_in_file(tmp_path, SigningKey.new())
    schedule, now = HeadSchedule(workspace.settings, workspace.store), 1000.0
    assert schedule.turn(now) is None, "nothing was logged yet"
    add_task(workspace)
    first = schedule.turn(now + 1)
    assert first is not None
    assert first.head.size == 1
    note(workspace, 1)
    assert schedule.turn(now + 30) is None
    later = schedule.turn(now + 1 + EVERY_S)
    assert later is not None
    assert later.head.size == 2
    note(workspace, EVERY_EVENTS - 1)
    assert schedule.turn(now + 70) is None
    note(workspace, 1)
    full = schedule.turn(now + 71)
    assert full is not None
    assert full.head.size == EVERY_EVENTS + 2
    assert schedule.turn(now + 500) is None, "nothing came since"


def test_a_key_that_comes_later_is_found(open_workspace: Made, tmp_path: Path) -> None:
    workspace = open_workspace(keyring=False)
    add_task(workspace)
    schedule = HeadSchedule(workspace.settings, workspace.store)
    assert schedule.turn(0.0) is None
    keep_in_file(tmp_path, SigningKey.new())
    assert schedule.turn(1.0) is None
    assert schedule.turn(EVERY_S + 1) is not None


def test_a_log_that_was_rewritten_is_told_once_and_signed_no_more(open_workspace: Made, tmp_path: Path) -> None:
    workspace = open_workspace(keyring=False)
    keep_in_file(tmp_path, SigningKey.new())
    for number in range(3):
        add_task(workspace, f"T-{number}")
    schedule = HeadSchedule(workspace.settings, workspace.store)
    assert schedule.turn(0.0) is not None
    log = tmp_path / "audit" / "events.jsonl"
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:2]))  # the last line is gone, the chain holds
    for name in ("T-2",):
        (tmp_path / "ssot" / "tasks" / f"{name}.json").unlink()
    again = open_workspace(keyring=False)
    schedule = HeadSchedule(again.settings, again.store)
    note(again, 3)
    assert schedule.turn(EVERY_S) is None
    assert schedule.turn(3 * EVERY_S) is None
    assert HeadSchedule(again.settings, again.store).turn(0.0) is None
    told = [(e.data["state"], e.data["reason"]) for e in again.store.events() if e.data.get("alarm") == "log_rewritten"]
    assert [state for state, _ in told] == ["raised"]
    assert Checkpoints(tmp_path / "audit").sizes() == [3]
    shutil.rmtree(tmp_path / "audit" / ".checkpoints")  # a person has looked, and begins anew
    assert HeadSchedule(again.settings, again.store).turn(0.0) is not None
    assert list(again.store.view.alarms) == []


@pytest.mark.slow
@pytest.mark.prefect
def test_the_flow_signs_the_head_and_fails_over_a_rewritten_log(
    open_workspace: Made, tmp_path: Path, on_prefect: PrefectServer
) -> None:
    from flows.sign_head import sign_head

    def run(workspace: Workspace) -> object:
        async def call() -> object:
            with using(workspace):
                return (await sign_head(return_state=True)).name

        return asyncio.run(call())

    workspace = open_workspace(keyring=False)
    add_task(workspace)
    assert run(workspace) == "NothingSigned"
    keep_in_file(tmp_path, SigningKey.new())
    assert run(workspace) == "Signed"
    assert run(workspace) == "SignedBefore"
    log = tmp_path / "audit" / "events.jsonl"
    log.write_bytes(log.read_bytes().replace(b'"alice"', b'"malic"'))
    assert run(workspace) == "Failed"
