"""The one long-lived process that follows the log and calls flows in itself: what a decision starts, starts here.

It holds nothing that counts. What to do is derived from the tasks: an open attempt that nobody runs is gone on with, a
rejection at the gate or a landing that fails begins the next attempt, what came from outside starts where a rule says
so. Only how far the log was followed stands in a private file.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final

from audit.event import Corrupt, Event
from audit.files import Busy, StorageFailed
from audit.keys import BadKey
from audit.reader import LogReader, Rewound
from audit.stamp import rfc3339
from flows.agents import workplace
from flows.arrivals import Arrivals
from flows.followed import Followed, What
from flows.heads import HeadSchedule
from flows.herald import Herald
from flows.landing import is_asked
from flows.notifications.notifier import NotifierThread
from flows.overdue import settle
from flows.pipeline import SENT_BACK, waits_for_us
from flows.planned import keep_schedules
from flows.runner import CALLED, Job, NotNow, Runner
from flows.server import use_environment
from flows.workspace import Workspace, home_tag
from ssot.claims import is_claimed, remove_stale
from ssot.gate import is_wanted_again
from ssot.inbox import Inbox
from ssot.presence import Presence, become_dispatcher
from ssot.runs import is_load_task
from ssot.settings import Settings
from ssot.watch import Watcher

SOURCE: Final = "kircerta/dispatcher"
TURN_S: Final = 1.0
"""How often it looks without having been rung for: claims are freed without a sound."""
_READ: Final = 1000
_STOP_S: Final = 8.0
_BACKOFF_S: Final = (1.0, 2.0, 5.0, 15.0, 60.0)
_AT_THE_END: Final[dict[str, What]] = {"close_task": "closing", "land_approved": "landing"}
"""What follows an approval: it moves the task no further, so that it is done when its run is."""
_SENDS_BACK: Final = frozenset({"task_rejected", "task_unlocked", "landing_failed"})
_LOG = logging.getLogger("kircerta.dispatcher")


class Dispatcher:
    """Turns the news of the log into runs. One turn can be taken by hand: `turn`."""

    def __init__(self, workspace: Workspace, prefect_api_url: str | None) -> None:
        self.workspace = workspace
        self.runner = Runner(workspace, prefect_api_url)
        self.herald = Herald(prefect_api_url) if prefect_api_url is not None else None
        self.notifier = NotifierThread(workspace)
        self.followed = Followed(workspace.home, workspace.store.last_seq())
        self.arrivals = Arrivals(workspace, self.followed)
        self._inbox = Inbox(workspace.home)
        self._heads = HeadSchedule(workspace.settings, workspace.store)
        self._since = rfc3339(time.time())
        self._url = prefect_api_url
        self._reader = LogReader.after(workspace.store.audit_folder, self.followed.seq)
        self._sent_back = {key for key, one in workspace.store.view.entries.items() if one.stage in SENT_BACK}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._waiting: dict[str, Job] = {}
        self._settled: dict[str, int] = {}
        self._failures: dict[str, int] = {}
        self._not_before: dict[str, float] = {}
        self._told_presence: Presence | None = None
        self._news = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    # -------------------------------------------------------------------------------------------- the loop

    async def run(self, stop: asyncio.Event) -> None:
        """Follow the log until `stop`; then stop the agents and leave the open attempts to whoever comes next."""
        watcher = Watcher(self.workspace.store, self._ring, adopt=True).start()
        self.notifier.start()
        beside = [
            asyncio.create_task(self._guard(stop)),
            asyncio.create_task(self._sweep()),
            asyncio.create_task(self._sign(stop)),
        ]
        if self.herald is not None:
            beside.append(asyncio.create_task(self.herald.run()))
        if self._url is not None:
            beside.append(asyncio.create_task(keep_schedules(self.workspace.home, self._url)))
        try:
            while not stop.is_set():
                await self._one_turn()
                await self._next_news(stop)
        finally:
            await self._stop([*beside, *self._running.values()])
            await asyncio.to_thread(self.notifier.stop)
            await asyncio.to_thread(watcher.stop)
            self._reader.close()

    def _ring(self, seq: int) -> None:
        self.notifier.ring()
        with suppress(RuntimeError):  # the loop is closed: we are on our way out
            self._loop.call_soon_threadsafe(self._news.set)

    async def _next_news(self, stop: asyncio.Event) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._news.wait(), TURN_S)
        self._news.clear()

    async def _one_turn(self) -> None:
        try:
            await self.turn()
        except (Busy, StorageFailed, Corrupt) as error:
            _LOG.error("%s", error)
            await asyncio.sleep(TURN_S)

    async def turn(self) -> None:
        """Take in what is new in the log, and start what follows from how the tasks stand."""
        news = await asyncio.to_thread(self._read_on)
        for event in news:
            self._take_in(event)
        if len(news) == _READ:  # there is more
            self._news.set()
        under_way = frozenset({*self._waiting, *self._running})
        for job in await asyncio.to_thread(self._jobs, under_way):
            self._waiting.setdefault(job.task_id, job)
        self._start_waiting()
        await asyncio.to_thread(self._tell_presence)

    def _read_on(self) -> list[Event]:
        self.workspace.store.refresh()
        try:
            return self._reader.read(limit=_READ)
        except Rewound:  # another log stands there now: what came before is not ours to follow
            self._reader.close()
            self._reader = LogReader.after(self.workspace.store.audit_folder, self.workspace.store.last_seq())
            return []

    def _take_in(self, event: Event) -> None:
        self.followed.take_in(event)
        if event.type in _SENDS_BACK and event.subject is not None:
            self._sent_back.add(event.subject)
        if self.herald is not None:
            self.herald.tell(event)

    async def _guard(self, stop: asyncio.Event) -> None:
        """The watchdog and the inbox, once a second."""
        while not stop.is_set():
            try:
                found = await asyncio.to_thread(settle, self.workspace, time.time(), self._is_covered)
                for one in found:
                    _LOG.info("%s: %s", one.task_id, type(one.finding).__name__)
                for tried in await asyncio.to_thread(self._inbox.drain, self.workspace.store):
                    _LOG.info("the kept delivery %s: %s %s", tried.delivery_id, tried.came, tried.error)
            except (Busy, StorageFailed, Corrupt) as error:
                _LOG.error("watchdog: %s", error)
            await asyncio.sleep(TURN_S)

    async def _sign(self, stop: asyncio.Event) -> None:
        """The log's head, signed every 100 events and every minute, where there is a key."""
        while not stop.is_set():
            try:
                signed = await asyncio.to_thread(self._heads.turn, time.monotonic())
                if signed is not None and signed.not_copied is not None:
                    _LOG.error("the checkpoint at %d is not kept elsewhere: %s", signed.head.size, signed.not_copied)
            except (Busy, StorageFailed, Corrupt, BadKey, OSError) as error:
                _LOG.error("the log's head was not signed: %s", error)
            await asyncio.sleep(TURN_S)

    def _is_covered(self, dispatch_id: str) -> bool:
        """Whether a dispatch is run by somebody, or waits for its turn here."""
        ours = {*self._waiting, *self._running}
        opened = self.workspace.store.view.opened
        if any((one := opened.get(task_id)) is not None and one.dispatch_id == dispatch_id for task_id in list(ours)):
            return True
        return is_claimed(self.workspace.home, dispatch_id)

    # -------------------------------------------------------------------------------------- what is to be done

    def _jobs(self, under_way: frozenset[str] = frozenset()) -> list[Job]:
        """Everything that a process of ours has to do now, most urgent first."""
        found = [
            *self._landings(),
            *self._closings(),
            *self._open_attempts(),
            *self._redispatches(),
            *self.arrivals.jobs(under_way),
        ]
        now = time.monotonic()
        return [job for job in found if self._is_due(job, now)]

    def _is_due(self, job: Job, now: float) -> bool:
        if job.task_id in self._running or self._not_before.get(job.task_id, 0.0) > now:
            return False
        return job.kind in _AT_THE_END or self._settled.get(job.task_id) != job.seq

    def _closings(self) -> Iterable[Job]:
        return [Job("close_task", one.task_id, one.seq) for one in self.followed.due("closing")]

    def _landings(self) -> Iterable[Job]:
        """Approved changes whose project wants them on a branch; what nobody asks for is done with."""
        due = self.followed.due("landing")
        asked = {one.seq: is_asked(self.workspace, self.workspace.store.task(one.task_id)) for one in due}
        unasked = [seq for seq, wanted in asked.items() if wanted is False]
        if unasked:
            self.followed.done(unasked, "landing")
        return [Job("land_approved", one.task_id, one.seq) for one in due if asked[one.seq]]

    def _open_attempts(self) -> Iterable[Job]:
        workspace, entries = self.workspace, self.workspace.store.view.entries
        for one in sorted(workspace.store.open_attempts(), key=lambda one: one.ack_deadline):
            if one.task_id in self._running or is_claimed(workspace.home, one.dispatch_id):
                continue
            if waits_for_us(workspace, one.stage, one.executor, one.reviewer, one.executor_principal):
                yield Job("dispatch_task", one.task_id, entries[one.task_id].seq)

    def _redispatches(self) -> Iterable[Job]:
        for task_id in sorted(self._sent_back):
            entry = self.workspace.store.view.entries.get(task_id)
            if entry is None or entry.stage not in SENT_BACK:
                self._sent_back.discard(task_id)
            elif self._settled.get(task_id) != entry.seq and self._is_wanted_again(task_id):
                yield Job("redispatch", task_id, entry.seq)
            else:
                self._sent_back.discard(task_id)

    def _is_wanted_again(self, task_id: str) -> bool:
        """Whether a rejection, or a landing that failed, asks for another attempt."""
        if is_load_task(task_id):  # a load run looks after its own tasks
            return False
        return is_wanted_again(self.workspace.store.task(task_id), default=self.workspace.settings.auto_redispatch)

    # --------------------------------------------------------------------------------------------- running

    def _start_waiting(self) -> None:
        free = self.workspace.settings.dispatch_concurrency - len(self._running)
        for task_id in list(self._waiting)[: max(0, free)]:
            job = self._waiting.pop(task_id)
            self._running[task_id] = asyncio.create_task(self._run(job))

    async def _run(self, job: Job) -> None:
        try:
            await self.runner.run(job)
            self._settle(job)
        except NotNow:
            self._not_before[job.task_id] = time.monotonic() + 2.0
        except Exception as error:  # one task must not stop the others: it is tried again, later and later
            self._back_off(job, error)
        finally:
            del self._running[job.task_id]
            self._news.set()

    def _settle(self, job: Job) -> None:
        """Remember how the task stood at the end of its run: what did not move it is not tried again."""
        if job.kind in _AT_THE_END:
            self.followed.done([job.seq], _AT_THE_END[job.kind])
            return
        entry = self.workspace.store.view.entries.get(job.task_id)
        if entry is not None and entry.seq == job.seq:
            self._back_off(job, None)
        else:
            self._failures.pop(job.task_id, None)

    def _back_off(self, job: Job, error: Exception | None) -> None:
        failures = self._failures.get(job.task_id, 0)
        self._failures[job.task_id] = failures + 1
        self._not_before[job.task_id] = time.monotonic() + _BACKOFF_S[min(failures, len(_BACKOFF_S) - 1)]
        why = f": {error!r}" if error is not None else " and left it as it was"
        _LOG.warning("%s of %s ran%s", job.kind, job.task_id, why)
        if failures + 1 >= len(_BACKOFF_S):
            self._settled[job.task_id] = job.seq  # until the task changes
            if job.kind == "auto_dispatch":
                self.arrivals.give_up(job, str(error) if error is not None else "the rules refuse it")

    async def _stop(self, tasks: list[asyncio.Task[None]]) -> None:
        for one in tasks:
            one.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_STOP_S)

    # ------------------------------------------------------------------------------------------ being seen

    def _tell_presence(self) -> None:
        now = Presence(os.getpid(), self._url, self._since, self.runner.link)
        if now != self._told_presence:
            self._told_presence = now
            with suppress(StorageFailed):
                now.save(self.workspace.home)

    async def _sweep(self) -> None:
        """Runs that a dead dispatcher left behind as running are not: remove its claims and places, too."""
        await asyncio.to_thread(remove_stale, self.workspace.home)
        await asyncio.to_thread(workplace.remove_stale, self.workspace.home)
        while not await self.runner.is_up():
            if self._url is None:
                return
            await asyncio.sleep(2.0)
        try:
            await _mark_crashed(home_tag(self.workspace.home), self._since)
        except Exception as error:
            _LOG.warning("runs that were left behind could not be marked: %r", error)


async def _mark_crashed(tag: str, before: str) -> None:
    from prefect import get_client
    from prefect.client.schemas.filters import FlowRunFilter
    from prefect.states import Crashed

    wanted: dict[str, Any] = {
        "tags": {"all_": [tag, CALLED]},
        "state": {"type": {"any_": ["RUNNING", "PENDING"]}},
        "start_time": {"before_": before},
    }
    async with get_client() as client:
        for run in await client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate(wanted), limit=200):
            state: Any = Crashed(message="the dispatcher that called it is gone; the dispatch goes on in another run")
            await client.set_flow_run_state(run.id, state, force=True)


# ------------------------------------------------------------------------------------------------ the process


def run_dispatcher(settings: Settings) -> None:
    """Be the dispatcher of a workspace until SIGTERM or Ctrl-C. Raises AlreadyRunning, StorageFailed, Corrupt.

    The loop runs beside the main thread: Prefect takes the main thread's signals while a flow runs in it.
    """
    lock = become_dispatcher(settings.home)
    try:
        use_environment(settings)
        # A server that hangs: with the usual 5 retries a finished run would hold its place for a minute.
        os.environ.setdefault("PREFECT_CLIENT_MAX_RETRIES", "2")
        workspace = Workspace.open(settings, SOURCE)
        over = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: over.set())
        failed: list[BaseException] = []
        thread = threading.Thread(target=_run_loop, args=(workspace, over, failed), name="dispatcher")
        thread.start()
        while thread.is_alive() and not over.wait(0.5):
            pass
        over.set()
        thread.join(_STOP_S + 4.0)
        workspace.store.close()
        if failed:
            raise failed[0]
    finally:
        os.close(lock)


def _run_loop(workspace: Workspace, over: threading.Event, failed: list[BaseException]) -> None:
    try:
        asyncio.run(_follow(workspace, over))
    except BaseException as error:
        failed.append(error)


async def _follow(workspace: Workspace, over: threading.Event) -> None:
    if workspace.settings.prefect_api_url is not None:
        await asyncio.to_thread(__import__, "flows.dispatch")  # two seconds of imports, before the first decision
    gc.freeze()  # what was loaded stays: the collector need not go through all of Prefect again and again
    stop = asyncio.Event()
    dispatcher = Dispatcher(workspace, workspace.settings.prefect_api_url)
    following = asyncio.create_task(dispatcher.run(stop))
    while not following.done() and not over.is_set():
        await asyncio.wait({following}, timeout=0.1)
    stop.set()
    await following
