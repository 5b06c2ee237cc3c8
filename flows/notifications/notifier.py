"""Follows the log and tells people what they must know: at least once, at most one a subject and kind in 30 minutes.

What was told is in the log itself (`notification_sent`, `notification_failed`); a private file keeps how far everything
is settled, so that a notifier that was away goes on from there. What comes within the 30 minutes waits, and is told
when they are over, if it still holds.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from audit.event import Corrupt, Draft, Event
from audit.files import Busy, StorageFailed, replace_file
from audit.reader import LogReader, Rewound, seq_before
from audit.stamp import rfc3339, seconds_of
from flows.notifications.channel import TIMEOUT_S, NotSent, send
from flows.notifications.notice import (
    Message,
    Notice,
    alarm_of,
    digest_of,
    message_of,
    notice_of,
    still_holds,
)
from flows.notifications.targets import BadNotificationsFile, Notifications, NoURL, Target, load, url_of
from flows.workspace import Workspace
from ssot import projects
from ssot.store import Refused
from ssot.task import Task

EVERY_S: Final = 30 * 60.0
"""At most one notification a subject and kind in this time."""
PAUSES_S: Final = (2.0, 10.0, 60.0)
"""How long to wait before each further try; then it has failed."""
MOST_APART: Final = 5
"""More things of one kind at once are one message."""
TURN_S: Final = 1.0
ACTOR: Final = "notifier"
_READ: Final = 1000
_SAVE_EVERY_S: Final = 30.0
_LOG: Final = logging.getLogger("kircerta.notifications")


@dataclass(slots=True)
class _Waiting:
    """A notice on its way: when to look at it next, how often each target was tried, and which are tried again."""

    notice: Notice
    due: float = 0.0
    tries: dict[str, int] = field(default_factory=dict)
    again: set[str] = field(default_factory=set)


@dataclass(slots=True)
class _Told:
    """What was last told about a subject: for which event, when (0 where nothing went out), and the targets settled."""

    seq: int
    at: float = 0.0
    targets: set[str] = field(default_factory=set)


class Notifier:
    """One a workspace (the dispatcher's). A turn can be taken by hand: `turn`. Not thread-safe.

    Args:
        seconds: where the time comes from.
        environment: where `url_env` is looked up.
    """

    def __init__(
        self,
        workspace: Workspace,
        *,
        seconds: Callable[[], float] = time.time,
        environment: Mapping[str, str] = os.environ,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._workspace = workspace
        self._seconds = seconds
        self._environment = environment
        self._timeout_s = timeout_s
        self._path = workspace.home / ".kircerta" / "notified.json"
        self._waiting: dict[tuple[str, str], _Waiting] = {}
        self._told: dict[tuple[str, str], _Told] = {}
        self._owed: list[Draft] = []
        self._failing: dict[str, NotSent] = {}
        self._problem = ""
        self._saved = -1
        self._saved_at = 0.0
        self._settled = self._begin()
        self._reader = LogReader.after(workspace.store.audit_folder, self._first_to_read())

    def _begin(self) -> int:
        """How far everything is settled. Who is here for the first time tells nothing of what was before."""
        last = self._workspace.store.last_seq()
        with suppress(OSError, ValueError, TypeError, KeyError):
            return min(int(orjson.loads(self._path.read_bytes())["seq"]), last)
        return last

    def _first_to_read(self) -> int:
        """Behind what is settled, or early enough to know what was told in the last 30 minutes."""
        store = self._workspace.store
        since = rfc3339(self._seconds() - EVERY_S)
        return min(self._settled, seq_before(store.audit_folder, since, store.last_seq()))

    # ------------------------------------------------------------------------------------------- one turn

    def turn(self) -> None:
        """Take in what is new in the log, and tell what is due. Raises Busy, StorageFailed, Corrupt."""
        self._pay()
        self._read_on()
        now = self._seconds()
        due = [one for one in self._waiting.values() if one.due <= now]
        if due and (told := self._configured()) is not None:
            self._workspace.store.refresh()
            self._tell(due, told, now)
        self._save(now, at_once=bool(due))

    def _read_on(self) -> None:
        try:
            while news := self._reader.read(limit=_READ):
                for event in news:
                    self._take_in(event)
        except Rewound:  # another log stands there: what came before is not ours to tell
            self._reader.close()
            self._settled = self._workspace.store.last_seq()
            self._reader = LogReader.after(self._workspace.store.audit_folder, self._settled)
            self._waiting.clear()
            self._told.clear()

    def _take_in(self, event: Event) -> None:
        if event.type in ("notification_sent", "notification_failed"):
            self._remember(event.data, seconds_of(event.time) if event.type == "notification_sent" else 0.0)
        elif event.type == "alert" and event.data.get("state") == "cleared":
            self._waiting.pop(("alert", alarm_of(event)), None)
        elif event.seq > self._settled and (notice := notice_of(event)) is not None:
            self._waiting[notice.key] = _Waiting(notice)

    def _remember(self, data: dict[str, Any], at: float) -> None:
        """What the log says was told, or given up."""
        if "for_seq" not in data:  # a test, or a file that cannot be used
            return
        key = (str(data["kind"]), str(data["about"]))
        told = self._told.get(key)
        if told is None or told.seq != data["for_seq"]:
            told = self._told[key] = _Told(int(data["for_seq"]), told.at if told and not at else 0.0)
        told.at = max(told.at, at)
        told.targets.add(str(data["target"]))

    def _configured(self) -> Notifications | None:
        """What the file says now; None where it cannot be used: nothing goes out then, what waits goes on waiting."""
        try:
            told = load(self._workspace.home)
        except BadNotificationsFile as error:
            if self._problem != str(error):
                self._problem = str(error)
                self._workspace.store.note(Draft("notification_failed", ACTOR, {"reason": str(error)[:1000]}))
            return None
        self._problem = ""
        return told

    # ---------------------------------------------------------------------------------------------- telling

    def _tell(self, due: list[_Waiting], config: Notifications, now: float) -> None:
        """Tell each target what it has not been told; more than a few things of one kind in one message."""
        self._failing.clear()
        jobs: dict[tuple[str, str], list[_Waiting]] = {}
        for one in due:
            one.again.clear()
            for name in self._targets_left(one, config, now):
                jobs.setdefault((name, one.notice.kind), []).append(one)
        for (name, _), ones in jobs.items():
            for together in [ones] if len(ones) > MOST_APART else [[one] for one in ones]:
                self._tell_target(together, name, config, now)
                self._pay()
        for one in due:
            self._settle(one, now)

    def _targets_left(self, one: _Waiting, config: Notifications, now: float) -> list[str]:
        """The targets to be told now: none where it holds no longer, or has to wait for its 30 minutes."""
        notice = one.notice
        task = self._task(notice.task_id)
        wanting = config.wanting(notice.kind, self._project_of(task))
        told = self._told.get(notice.key)
        if not wanting or not still_holds(notice, task):
            return []
        if told is not None and told.seq == notice.seq:
            return [name for name in wanting if name not in told.targets]
        if told is not None and now < told.at + EVERY_S:
            one.due = told.at + EVERY_S
            return []
        return list(wanting)

    def _settle(self, one: _Waiting, now: float) -> None:
        if one.due > now:
            return
        if not one.again:
            self._waiting.pop(one.notice.key, None)
        else:
            one.due = now + PAUSES_S[max(one.tries[name] for name in one.again) - 1]

    def _tell_target(self, together: list[_Waiting], name: str, config: Notifications, now: float) -> None:
        message = self._message([one.notice for one in together])
        more: dict[str, Any] = {"together": len(together)} if len(together) > 1 else {}
        try:
            if config.dry_run:
                more["dry_run"] = True
                _LOG.warning("dry run: %s would be told: %s", name, message.title)
            else:
                self._send(name, config.target[name], message)
        except (NoURL, NotSent) as error:
            for one in together:
                self._count_failure(one, name, error)
            return
        for one in together:
            self._note("notification_sent", one.notice, name, now, **more)

    def _message(self, notices: list[Notice]) -> Message:
        tasks = [self._task(notice.task_id) for notice in notices]
        api_url = self._workspace.settings.api_url
        return message_of(notices[0], tasks[0], api_url) if len(notices) == 1 else digest_of(notices, tasks, api_url)

    def _count_failure(self, one: _Waiting, name: str, error: NoURL | NotSent) -> None:
        tries = one.tries[name] = one.tries.get(name, 0) + 1
        if tries <= len(PAUSES_S) and not (isinstance(error, NotSent) and error.for_good):
            one.again.add(name)
        else:
            self._note("notification_failed", one.notice, name, 0.0, reason=str(error), tries=tries)

    def _send(self, name: str, target: Target, message: Message) -> None:
        """Raises NoURL, NotSent. A target that fails is asked once a turn: the others do not wait for it again."""
        if name in self._failing:
            raise self._failing[name]
        try:
            send(url_of(target, self._workspace.home, self._environment), message, self._timeout_s)
        except NotSent as error:
            self._failing[name] = error
            raise

    def _note(self, type: str, notice: Notice, target: str, at: float, **more: Any) -> None:
        """Remember it at once: a log that is busy in this moment must not have it told again."""
        data = {"kind": notice.kind, "about": notice.subject, "target": target, "for_seq": notice.seq, **more}
        self._remember(data, at)
        self._owed.append(Draft(type, ACTOR, data, notice.task_id, notice.correlationid))

    def _pay(self) -> None:
        """Write down what went out. A crash before this tells it once more."""
        while self._owed:
            self._workspace.store.note(self._owed[0])
            self._owed.pop(0)

    def _task(self, task_id: str | None) -> Task | None:
        if task_id is None:
            return None
        with suppress(Refused):
            return self._workspace.store.task(task_id)
        return None

    def _project_of(self, task: Task | None) -> str | None:
        if task is None:
            return None
        with suppress(projects.BadProjectsFile):
            found = projects.load(self._workspace.home).of(task)
            return found[0] if found else None
        return None

    # ------------------------------------------------------------------------------------------- position

    def _save(self, now: float, *, at_once: bool) -> None:
        read = self._reader.place.seq
        self._settled = max(self._settled, read) if not self._waiting else self._oldest() - 1
        if self._owed or self._settled == self._saved or (not at_once and now < self._saved_at + _SAVE_EVERY_S):
            return
        with suppress(StorageFailed):  # then more is read at the next start
            replace_file(self._path, orjson.dumps({"seq": self._settled}))
            self._saved, self._saved_at = self._settled, now
        self._forget(now)

    def _oldest(self) -> int:
        return min(one.notice.seq for one in self._waiting.values())

    def _forget(self, now: float) -> None:
        """What is neither waiting nor within its 30 minutes makes no difference any more."""
        self._told = {key: told for key, told in self._told.items() if key in self._waiting or now < told.at + EVERY_S}

    def close(self) -> None:
        self._reader.close()


class NotifierThread:
    """A notifier in a thread of its own: whatever hangs or fails in it delays nobody else."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._stop = threading.Event()
        self._news = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kircerta-notifier", daemon=True)

    def start(self) -> NotifierThread:
        self._thread.start()
        return self

    def ring(self) -> None:
        """There is something new in the log."""
        self._news.set()

    def stop(self, patience_s: float = 2.0) -> None:
        self._stop.set()
        self._news.set()
        self._thread.join(patience_s)

    def _run(self) -> None:
        notifier: Notifier | None = None
        while not self._stop.is_set():
            try:
                notifier = notifier or Notifier(self._workspace)
                notifier.turn()
            except (Busy, StorageFailed, Corrupt) as error:
                _LOG.error("%s", error)
            except Exception:  # a mistake of ours: people are told later, and dispatches go on
                _LOG.exception("a turn of the notifier failed")
                self._stop.wait(TURN_S)
            self._news.wait(TURN_S)
            self._news.clear()
