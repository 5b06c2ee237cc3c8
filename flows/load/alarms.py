"""Alarms that a load run provokes: an ACK that never comes, an executor that falls silent. They must be in the log.

Who finds them is the watchdog of the running system, where a dispatcher lives. Where none does, or where the run is
too short for the silence that it waits for, the run takes the watchdog's turn itself, on its own tasks only.
"""

from __future__ import annotations

import itertools
import time
from contextlib import suppress
from typing import Final

from audit.event import Event
from audit.files import Busy, StorageFailed
from audit.stamp import rfc3339, seconds_of
from flows.load.prepare import EXECUTOR, KEEPER, ack_of, dispatch_for, new_task, told
from flows.overdue import find_overdue
from flows.workspace import Workspace
from ssot.presence import is_dispatcher_alive
from ssot.runs import Alarm, task_prefix
from ssot.settings import Settings
from ssot.store import Refused, Store

EVERY_S: Final = 900.0
ACK_S: Final = 1.0
GRACE_S: Final = 3.0
"""A watchdog looks once a second."""


class Provocations:
    """Provokes alarms from time to time, and finds out where in the log they are. One thread calls `turn`."""

    def __init__(self, settings: Settings, store: Store, run_id: str, duration_s: float) -> None:
        self._store = store
        self._prefix = task_prefix(run_id)
        self._numbers = itertools.count(1)
        self._ends = time.time() + duration_s
        self._next = 0.0
        alive = is_dispatcher_alive(settings.home)
        self._warning_s = settings.heartbeat_warning_s
        too_short = self._warning_s + GRACE_S > duration_s
        if too_short:
            self._warning_s = max(0.2, min(self._warning_s, duration_s / 3))
        self._finds_acks, self._finds_silence = not alive, not alive or too_short
        self._watching = Workspace(settings.model_copy(update={"heartbeat_warning_s": self._warning_s}), store)
        self.alarms: list[Alarm] = []
        self.not_shown = _not_shown(alive=alive, too_short=too_short)

    def turn(self) -> None:
        """Provoke what is due, and look what is overdue where nobody else does."""
        now = time.time()
        if now >= self._next:
            self._next = now + EVERY_S
            self._provoke(now)
        if self._finds_silence or self._finds_acks:
            self._look(now)

    def _provoke(self, now: float) -> None:
        ack_s = min(ACK_S, max(0.2, (self._ends - now) / 4))
        if now + ack_s < self._ends:
            self._no_ack(ack_s)
        if now + self._warning_s < self._ends:
            self._silence()

    def _no_ack(self, ack_s: float) -> None:
        task_id = self._dispatched(ack_s)
        dispatch = told(self._store.task(task_id))
        self._remember("ack_timeout", task_id, dispatch.dispatch_id, seconds_of(dispatch.ack_deadline))

    def _silence(self) -> None:
        task_id = self._dispatched(60.0)
        task = self._store.task(task_id)
        self._store.commit(task_id, ack_of(task), actor=EXECUTOR)
        self._remember("heartbeat_warning", task_id, told(task).dispatch_id, time.time() + self._warning_s)

    def _dispatched(self, ack_s: float) -> str:
        task_id = f"{self._prefix}alarm-{next(self._numbers)}"
        self._store.commit(task_id, new_task(), actor=KEEPER)
        self._store.commit(task_id, dispatch_for(ack_s), actor=KEEPER)
        return task_id

    def _remember(self, type: str, task_id: str, dispatch_id: str, due: float) -> None:
        made = {"type": type, "task_id": task_id, "dispatch_id": dispatch_id}
        self.alarms.append(Alarm.model_validate({**made, "provoked_at": rfc3339(time.time()), "due_at": rfc3339(due)}))

    def _look(self, now: float) -> None:
        for task_id, finding in find_overdue(self._watching, now, lambda dispatch_id: True):
            wanted = self._finds_acks if type(finding).__name__ == "TimeOutAck" else self._finds_silence
            if task_id.startswith(self._prefix) and wanted:
                with suppress(Refused, Busy, StorageFailed):  # the next turn comes soon
                    self._store.commit(task_id, finding, actor=KEEPER)

    def settle(self, patience_s: float) -> None:
        """Wait, for a while, until what was provoked is in the log or is not due any more."""
        until = time.time() + patience_s
        while time.time() < until and any(self._is_due_soon(one, until) for one in self._missing()):
            if self._finds_acks or self._finds_silence:
                self._look(time.time())
            time.sleep(0.1)

    def _is_due_soon(self, alarm: Alarm, until: float) -> bool:
        return seconds_of(alarm.due_at) <= until

    def _missing(self) -> list[Alarm]:
        """Those that the log does not have yet, by what the store knows of their tasks."""
        self._store.refresh()
        return [one for one in self.alarms if not self._is_found(one)]

    def _is_found(self, alarm: Alarm) -> bool:
        opened = self._store.view.opened.get(alarm.task_id)
        if alarm.type == "ack_timeout":
            return opened is None
        return opened is None or opened.signs.warned_at > 0

    def expected(self, now: float) -> list[Alarm]:
        """Those that had their time. A run that was called off does not wait for the others."""
        return [one for one in self.alarms if seconds_of(one.due_at) <= now]

    def missing_types(self) -> list[str]:
        """The kinds of alarm of which none was provoked."""
        provoked = {one.type for one in self.alarms}
        return [name for name in ("ack_timeout", "heartbeat_warning") if name not in provoked]


def _not_shown(*, alive: bool, too_short: bool) -> list[str]:
    found = []
    if not alive:
        found.append("the dispatcher's watchdog: no dispatcher lives for this workspace, the run looked itself")
    elif too_short:
        found.append("the dispatcher's heartbeat_warning: the run is shorter than KIRCERTA_HEARTBEAT_WARNING_S")
    return found


def located(alarm: Alarm, events: dict[tuple[str, str], Event]) -> Alarm:
    """The alarm with its place in the log, by type and task."""
    event = events.get((alarm.type, alarm.task_id))
    if event is None:
        return alarm
    return alarm.model_copy(update={"seq": event.seq, "time": event.time, "actor": event.actor})
