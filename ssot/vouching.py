"""What a decision of the server may rest on, where it marks its decisions: on what bears its mark. It reads the log."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from audit import mac
from audit.event import Draft, Event
from audit.mac import MacKey
from audit.reader import events_of
from ssot import gate
from ssot.ruling import Policy
from ssot.task import Approval, Task

_BEGINS: Final = frozenset({"task_dispatched", "task_redispatched"})


def needs_a_mark(event: Event, task: Task | None) -> bool:
    """Whether the server marks an event: each decision, and what the policy of `task` may decide on by itself."""
    if event.type in mac.DECISIONS:
        return True
    policy = task.policy if task is not None and event.type in mac.GROUNDS else None
    return policy is not None and not policy.human_gate


class Voucher:
    """Tells what the server took from lines that another process appended.

    A workspace without any key marks nothing: there whatever the log says counts. In one that has a key, a process
    without the server's secret never decides in the server's stead; it leaves that to the server.

    Args:
        home: the workspace, where the keys of before are kept.
        folder: that of the log.
        key: the server's, None where its secret is not at hand.
    """

    def __init__(self, home: Path, folder: Path, key: MacKey | None) -> None:
        self._home, self._folder, self._key = home, folder, key
        self.left_to_the_server = False
        """Whether a decision is owed that only the server may write."""

    def counted(self, task: Task, *, own: int = 0) -> Task:
        """The task with the approvals alone that count. Rules judge by it; no document is made of it.

        `own`: how many of the last approvals are this process's own, and not in the log yet.
        """
        attempt = task.current
        if attempt is None or len(attempt.approvals) <= own or not (keys := self._keys()):
            return task
        split = len(attempt.approvals) - own
        logged, mine = attempt.approvals[:split], attempt.approvals[split:]
        kept = (*self._vouched(task.task_id, logged, keys), *mine)
        return task.model_copy(
            update={"attempts": (*task.attempts[:-1], attempt.model_copy(update={"approvals": kept}))}
        )

    def owed(self, task: Task, policy: Policy, after: Event | None = None) -> Draft | None:
        """The event that must follow a task's last one: an approval only if it rests on nothing that is a stranger's.

        `after`: the last one, where this very commit brings it. Low risk decides only on an attempt of which the server
        wrote every line; any other waits for people.
        """
        due = gate.owed(task, policy)
        if due is None or due.type != "task_approved" or not self._keys():
            return due
        brings = after.type if after is not None else ""
        counted = self.counted(task, own=int(brings == "approval_given"))
        parts = 3 if brings == "verdict_received" else 4
        due = gate.owed(counted, policy, low_risk=self._vouches_for_attempt(task.task_id, parts))
        if due is not None and due.type == "task_approved" and self._key is None:
            self.left_to_the_server = True
            return None
        return due

    def _keys(self) -> list[MacKey]:
        return [*([self._key] if self._key is not None else []), *mac.kept(self._home)]

    def _vouches_for_attempt(self, task_id: str, parts: int) -> bool:
        """Whether the current attempt's lines in the log are one for each of its parts, and all bear a mark."""
        lines: list[Event] = []
        for event in events_of(self._folder, task_id):
            if event.type in _BEGINS:
                lines = [event]
            elif event.type in mac.GROUNDS:
                lines.append(event)
        keys = self._keys()
        return len(lines) == parts and all(any(key.holds(line) for key in keys) for line in lines)

    def _vouched(self, task_id: str, logged: tuple[Approval, ...], keys: Sequence[MacKey]) -> list[Approval]:
        """Each approval is of one line, in their order: the last lines are those of the current attempt."""
        lines = [event for event in events_of(self._folder, task_id) if event.type == "approval_given"]
        if len(lines) < len(logged):  # some came by another way than through the log
            return []
        pairs = zip(logged, lines[-len(logged) :], strict=True)
        return [approval for approval, line in pairs if any(key.holds(line) for key in keys)]
