"""What is overdue in a workspace: ACKs, signs of life, and attempts that nobody runs. Needs no other process alive."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from flows.pipeline import waits_for_us
from flows.work import due_warning
from flows.workspace import Workspace
from ssot import beats
from ssot.claims import is_claimed, try_claim
from ssot.intents import EndAttempt, FindDecisionOverdue, RemindOfDecision, TimeOutAck, WarnOfSilence
from ssot.presence import is_dispatcher_alive
from ssot.store import Refused
from ssot.view import OpenAttempt

WATCHDOG: Final = "watchdog"
_LOCK: Final = Path(".kircerta") / "watchdog.lock"
Finding = TimeOutAck | WarnOfSilence | EndAttempt | RemindOfDecision | FindDecisionOverdue


@dataclass(frozen=True, slots=True)
class Overdue:
    """What was found about one task, and whether this turn was the one that recorded it."""

    task_id: str
    finding: Finding
    recorded: bool = True


def find_overdue(
    workspace: Workspace, now: float, is_covered: Callable[[str], bool] | None = None
) -> list[tuple[str, Finding]]:
    """What is overdue at the Unix time `now`. Reads the log and private files; changes nothing.

    Args:
        is_covered: whether somebody runs a dispatch, or will without being asked; by default: it is claimed, or a
            living dispatcher will take it up.
    """
    workspace.store.refresh()
    covered = is_covered or _covered_by_anybody(workspace.home)
    found = []
    for attempt in workspace.store.open_attempts():
        finding = _finding(workspace, attempt, now, covered)
        if finding is not None:
            found.append((attempt.task_id, finding))
    due = list(workspace.store.view.due.values())
    return [*found, *((one.task_id, finding) for one in due for finding in one.findings(now))]


def _covered_by_anybody(home: Path) -> Callable[[str], bool]:
    alive = is_dispatcher_alive(home)
    return lambda dispatch_id: alive or is_claimed(home, dispatch_id)


def _finding(
    workspace: Workspace, attempt: OpenAttempt, now: float, is_covered: Callable[[str], bool]
) -> Finding | None:
    if attempt.stage == "dispatched" and now > attempt.ack_deadline:
        return TimeOutAck(attempt.dispatch_id)
    last = max(attempt.since, attempt.signs.last_sign, beats.last_sign(workspace.home, attempt.dispatch_id))
    quiet_s = now - last
    is_late = quiet_s > workspace.settings.orphan_after_s
    is_local = _is_local(workspace, attempt)
    if is_late and is_local and not is_covered(attempt.dispatch_id):
        return EndAttempt(attempt.dispatch_id, "orphaned", f"no process ran it for {quiet_s:.0f} s")
    if not is_local and (stalled := _stalled(workspace, attempt, quiet_s)) is not None:
        return stalled
    return due_warning(workspace, attempt.task_id, now)


def _stalled(workspace: Workspace, attempt: OpenAttempt, quiet_s: float) -> EndAttempt | None:
    """The end of an attempt whose remote agent stays away. Those that we start are timed where they run."""
    settings = workspace.settings
    if attempt.stage == "delivered" and quiet_s > settings.review_timeout_s:
        return EndAttempt(attempt.dispatch_id, "review_stalled", f"no verdict came for {quiet_s:.0f} s")
    if attempt.stage == "acknowledged" and quiet_s > settings.execution_timeout_s:
        return EndAttempt(attempt.dispatch_id, "execution_timeout", f"no sign of life came for {quiet_s:.0f} s")
    return None


def _is_local(workspace: Workspace, attempt: OpenAttempt) -> bool:
    principal = attempt.executor_principal
    return waits_for_us(workspace, attempt.stage, attempt.executor, attempt.reviewer, principal)


def time_out(workspace: Workspace, task_ids: Collection[str], now: float) -> None:
    """Say of these tasks alone that nobody acknowledged them in time, where that is so and no watchdog said it."""
    for task_id, finding in find_overdue(workspace, now):
        if task_id in task_ids and isinstance(finding, TimeOutAck):
            _commit(workspace, task_id, finding)


def settle(workspace: Workspace, now: float, is_covered: Callable[[str], bool] | None = None) -> list[Overdue]:
    """One turn of the watchdog: find what is overdue and record it, each thing once however many watchdogs there are.

    A projects' file that says something new is told of, too.

    Two of them never turn at the same moment (the second does nothing), and the rules have the last word under the
    workspace's lock. Raises Busy, StorageFailed, Corrupt.
    """
    with _alone(workspace.home) as alone:
        if not alone:
            return []
        workspace.store.notice_projects()
        return [_record(workspace, *found) for found in find_overdue(workspace, now, is_covered)]


def _record(workspace: Workspace, task_id: str, finding: Finding) -> Overdue:
    if not isinstance(finding, EndAttempt):
        return Overdue(task_id, finding, _commit(workspace, task_id, finding))
    claim = try_claim(workspace.home, finding.dispatch_id)
    if claim is None:  # somebody took it up in this moment
        return Overdue(task_id, finding, recorded=False)
    with claim:
        return Overdue(task_id, finding, _commit(workspace, task_id, finding))


def _commit(workspace: Workspace, task_id: str, finding: Finding) -> bool:
    try:
        return bool(workspace.store.commit(task_id, finding, actor=WATCHDOG).events)
    except Refused:  # an ACK, a sign or a decision came in between: then it is not overdue
        return False


@contextmanager
def _alone(home: Path) -> Iterator[bool]:
    path = home / _LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        yield False
        return
    try:
        yield True
    finally:
        os.close(fd)


def settle_now(workspace: Workspace) -> list[Overdue]:
    """One turn at this moment."""
    return settle(workspace, time.time())
