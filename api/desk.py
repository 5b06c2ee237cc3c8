"""What all routes of one process share: the store, the thread that writes, the gate, and answers kept ready."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, TypeVar, cast

from starlette.requests import Request

from api.answers import Tagged
from api.auth import Gate
from api.bodies import BodyLimits
from api.problems import Problem
from api.refusals import RefusalCounter
from audit.event import Draft, Event
from audit.files import Busy
from ssot.settings import Settings
from ssot.store import Committed, Store, Wish
from ssot.task import TASK_ID, Task, document_digest

T = TypeVar("T")
_OVERHEAD: Final = 2048
DETAIL_CACHE_BYTES: Final = 32 * 1024 * 1024
PAGE_CACHE_BYTES: Final = 32 * 1024 * 1024
MOST_TOGETHER: Final = 32
"""Commits that share a lock and a sync: the first of them waits for the last."""


@dataclass(frozen=True, slots=True)
class Detail:
    """The detail answer of one document, named by the document's digest."""

    digest: str
    tagged: Tagged

    @classmethod
    def of(cls, store: Store, document: bytes, task: Task | None = None) -> Detail:
        """Made from a document; reads the blobs it names: for a worker thread."""
        return cls(document_digest(document), Tagged(store.detail_of(document, task)))


def _detail_now(store: Store, task_id: str) -> Detail:
    document = store.document(task_id)
    if document is None:
        raise not_found(task_id)
    return Detail.of(store, document)


class Desk:
    """One process's API. The store is there from the end of recovery on."""

    def __init__(
        self, settings: Settings, refusals: RefusalCounter, *, loopback: bool, body_timeout_s: float = 10.0
    ) -> None:
        self.settings = settings
        self.gate = Gate(settings, refusals, loopback=loopback)
        self.limits = BodyLimits(settings.max_body_bytes, body_timeout_s)
        self.pages = Pages()
        self.details = Details()
        self.writer = Writer(settings.lock_timeout_s)
        self._store: Store | None = None
        self._turn: asyncio.Task[None] | None = None
        self._making: dict[object, asyncio.Task[Any]] = {}

    @property
    def store(self) -> Store:
        if self._store is None:
            raise Problem(
                "starting", "the workspace is being read: try again in a moment", headers={"Retry-After": "1"}
            )
        return self._store

    def take(self, store: Store) -> None:
        """Recovery is done: from now on there is something to answer with."""
        self._store = store

    async def catch_up(self) -> Store:
        """The store, holding every line that the log had when this was called. One `stat` when nothing is new."""
        store = self.store
        if store.is_current():
            return store
        if self._turn is not None and not self._turn.done():
            await asyncio.wait({self._turn})  # it began before this call: it may have missed the newest lines
            if store.is_current():
                return store
        if self._turn is None or self._turn.done():
            self._turn = asyncio.create_task(asyncio.to_thread(store.refresh))
        await asyncio.shield(self._turn)
        return store

    async def once(self, key: object, make: Callable[[], T]) -> T:
        """Make something in a worker thread; whoever asks for the same meanwhile gets the same."""
        making = self._making.get(key)
        if making is None:
            making = self._making[key] = asyncio.create_task(asyncio.to_thread(make))
            making.add_done_callback(lambda _: self._making.pop(key, None))
        result: T = await asyncio.shield(making)
        return result

    async def detail(self, task_id: str) -> Tagged:
        """The task's detail answer as the log has it now. Raises Problem (not_found)."""
        store = await self.catch_up()
        entry = store.view.entries.get(task_id)
        if entry is None:
            raise not_found(task_id)
        ready = self.details.get(task_id, entry.digest)
        if ready is None:
            made = await self.once((task_id, entry.digest), lambda: _detail_now(store, task_id))
            ready = self.keep(task_id, made)
        return ready

    def keep(self, task_id: str, made: Detail) -> Tagged:
        """Keep a detail answer for the next who asks."""
        self.details.put(task_id, made)
        return made.tagged

    async def note_all(self, drafts: Sequence[Draft]) -> list[Event]:
        """Log events that change no task: all of them in one commit, or none."""
        store = self.store
        return await self.writer.do(lambda left_s: store.note_all(drafts, timeout=left_s))


def task_id_of(request: Request) -> str:
    """The path's task id. Raises Problem: what is no task id never becomes a path or a lookup."""
    task_id = request.path_params["task_id"]
    if not TASK_ID.fullmatch(task_id):
        raise not_found(task_id)
    return str(task_id)


def not_found(task_id: str) -> Problem:
    return Problem("not_found", f"there is no task {task_id[:200]!r}")


@dataclass(eq=False, slots=True)
class _Waiting:
    """A commit that waits for its turn, and who waits for it."""

    task_id: str
    prepare: Callable[[float], Wish]
    finish: Callable[[Committed], Any]
    deadline: float
    future: asyncio.Future[Any]


class Writer:
    """One thread in which all writes of this process happen, one after the other: they share one lock anyway.

    Commits that came while it was busy go together, with one lock and one sync, where they are about different tasks.
    """

    def __init__(self, lock_timeout_s: float) -> None:
        self._timeout_s = lock_timeout_s
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="kircerta-write")
        self._waiting: deque[_Waiting] = deque()

    async def do(self, work: Callable[[float], T], *, timeout_s: float | None = None) -> T:
        """Do `work`, which gets the seconds that are left to wait for the workspace's lock. Raises Busy.

        `timeout_s`: how long it may wait for its turn and the lock, where that is not what the settings say.
        """
        limit = self._timeout_s if timeout_s is None else timeout_s
        deadline = time.monotonic() + limit
        return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: work(self._left(deadline, limit)))

    async def commit(
        self, store: Store, task_id: str, prepare: Callable[[float], Wish], finish: Callable[[Committed], T]
    ) -> T:
        """Commit what `prepare` asks for on a task, and give what `finish` makes of it; both happen in the thread.

        `prepare` gets the seconds that are left to wait. Raises Busy, what the commit raises, and what they raise.
        """
        loop = asyncio.get_running_loop()
        deadline = time.monotonic() + self._timeout_s
        waiting = _Waiting(task_id, prepare, finish, deadline, loop.create_future())
        self._waiting.append(waiting)
        self._pool.submit(self._turn, store, loop)  # as many turns as commits: the last ones may find nothing to do
        return cast(T, await waiting.future)

    def _turn(self, store: Store, loop: asyncio.AbstractEventLoop) -> None:
        told: list[tuple[_Waiting, Any]] = []
        ready: list[tuple[_Waiting, Wish]] = []
        for one in self._taken():
            try:
                ready.append((one, one.prepare(self._left(one.deadline, self._timeout_s))))
            except Exception as error:
                told.append((one, error))
        told += _together(store, ready)
        loop.call_soon_threadsafe(_tell, told)

    def _taken(self) -> list[_Waiting]:
        """Those that waited longest, up to the first that is about a task of another."""
        taken: dict[str, _Waiting] = {}
        while self._waiting and len(taken) < MOST_TOGETHER and self._waiting[0].task_id.casefold() not in taken:
            one = self._waiting.popleft()
            if not one.future.cancelled():  # nobody waits for it any more
                taken[one.task_id.casefold()] = one
        return list(taken.values())

    def _left(self, deadline: float, limit: float) -> float:
        left = deadline - time.monotonic()
        if left <= 0:
            raise Busy(f"other writes came first for {limit:g} s: try again")
        return left

    def close(self) -> None:
        """Wait for the write under way."""
        self._pool.shutdown(wait=True)


def _together(store: Store, ready: Sequence[tuple[_Waiting, Wish]]) -> list[tuple[_Waiting, Any]]:
    """Each commit with what came of it: what its `finish` made, or the exception."""
    told: list[tuple[_Waiting, Any]] = []
    while ready:
        first = min(one.deadline for one, _ in ready)
        try:
            answers = store.commit_all([wish for _, wish in ready], max(0.0, first - time.monotonic()))
        except Busy as busy:  # for whoever had least time left; the others go on
            told += [(one, busy) for one, _ in ready if one.deadline <= first]
            ready = [(one, wish) for one, wish in ready if one.deadline > first]
        except Exception as error:  # of none of them anything was done
            return [*told, *((one, error) for one, _ in ready)]
        else:
            return [*told, *((one, _finished(one, answer)) for (one, _), answer in zip(ready, answers, strict=True))]
    return told


def _finished(one: _Waiting, answer: Committed | Exception) -> Any:
    if isinstance(answer, Exception):
        return answer
    try:
        return one.finish(answer)
    except Exception as error:
        return error


def _tell(told: Sequence[tuple[_Waiting, Any]]) -> None:
    for one, answer in told:
        if one.future.done():  # cancelled: whoever asked has gone
            continue
        if isinstance(answer, Exception):
            one.future.set_exception(answer)
        else:
            one.future.set_result(answer)


class Pages:
    """Ready pages of the list, all made at one position of the log."""

    def __init__(self) -> None:
        self._at: tuple[int, str] = (-1, "")
        self._ready: dict[bytes, Tagged] = {}
        self._size = 0

    def get(self, at: tuple[int, str], query: bytes) -> Tagged | None:
        return self._ready.get(query) if at == self._at else None

    def put(self, at: tuple[int, str], query: bytes, page: Tagged) -> None:
        """Keep a page that shows the tasks at `at` or later."""
        if at != self._at or self._size > PAGE_CACHE_BYTES:
            self._at, self._ready, self._size = at, {}, 0
        self._ready[query] = page
        self._size += page.size + len(query) + _OVERHEAD


class Details:
    """Ready detail answers, the ones made last."""

    def __init__(self) -> None:
        self._ready: OrderedDict[str, Detail] = OrderedDict()
        self._size = 0

    def get(self, task_id: str, digest: str) -> Tagged | None:
        """The answer made from the document with this digest."""
        kept = self._ready.get(task_id)
        return kept.tagged if kept is not None and kept.digest == digest else None

    def put(self, task_id: str, made: Detail) -> None:
        before = self._ready.pop(task_id, None)
        self._size += made.tagged.size - before.tagged.size if before else made.tagged.size + _OVERHEAD
        self._ready[task_id] = made
        while self._size > DETAIL_CACHE_BYTES and len(self._ready) > 1:
            self._size -= self._ready.popitem(last=False)[1].tagged.size + _OVERHEAD
