"""Forks one process for each line on stdin; it waits for ``go``, opens a workspace, commits, and tells what came of it.

A line is ``<home> <limit>``; with a limit the process may not write files beyond that size (bytes; 0 for none), so
that a write ends in the middle. Answers, one a line: ``ready <pid>``, then ``promise <seq> <type> <subject> <digest>``
for each acknowledged event, ``failed <error>``, ``view <task> <digest>`` for each task as the process sees it at the
end, ``at <seq>``, and ``end <status>``.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ssot import intents
from ssot.rules import Policy
from ssot.store import Store, StoreSettings
from ssot.task import ResultBody
from tests.faults import world

SETTINGS = StoreSettings(policy=Policy(max_rejects=1), lock_timeout_s=0.2, segment_bytes=6_000)
"""Nobody else wants the lock: it is waited for in vain, and in full, where a `close` failed and kept it."""


def tell(*words: object) -> None:
    os.write(1, (" ".join(str(word).replace("\n", " ") for word in words) + "\n").encode())


def prepare(home: Path) -> list[world.Promise]:
    """A workspace with a task at each of the stages that `commits` goes on from; gives what was promised."""
    store = Store.open(home, source="kircerta/prepare", settings=SETTINGS)
    for task_id, stage in (("A", "acknowledged"), ("B", "needs_review"), ("C", "new"), ("D", "new"), ("E", "new")):
        world.walk_to(store, task_id, stage)  # type: ignore[arg-type]
    promises = [world.Promise.of(event) for event in store.events()]
    store.close()
    return promises


def commits(store: Store) -> Iterator[tuple[str, str, intents.Intent]]:
    """A new task, a result with a text too long for its line, a rejection that locks, and a dispatch."""
    yield "new", "importer", intents.Create(request_text="Something new")
    long: ResultBody = world.result_of(store.task("A"), summary="long " * 10_000)
    yield "A", "executor", intents.SendResult(long)
    yield "B", "alice", intents.Reject("not like this")
    yield "C", "dispatcher", intents.Dispatch("d-C", ack_timeout_s=3600)


def commit_all(home: Path, limit: int) -> None:
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    store = Store.open(home, source="kircerta/faults", settings=SETTINGS)
    for task_id, actor, intent in commits(store):
        try:
            committed = store.commit(task_id, intent, actor=actor)
        except Exception as error:
            tell("failed", type(error).__name__, error)
            continue
        for event in committed.events:
            tell("promise", event.seq, event.type, event.subject, event.digest)
    store.refresh()
    for task_id, entry in store.view.entries.items():
        tell("view", task_id, entry.digest)
    tell("at", store.last_seq())


def lines() -> Iterator[str]:
    """Lines of stdin, not a byte more than asked for: the rest is for the forked one."""
    line = b""
    while byte := os.read(0, 1):
        line += byte
        if byte == b"\n":
            yield line.decode().strip()
            line = b""


def main() -> None:
    for line in lines():
        if line == "go":  # meant for one that was killed before it could read it
            continue
        home, limit = line.rsplit(" ", 1)
        pid = os.fork()
        if pid == 0:
            tell("ready", os.getpid())
            with suppress(OSError):  # the first call that may be made to fail
                os.read(0, 3)
            try:
                commit_all(Path(home), int(limit))
            except BaseException as error:
                tell("failed", type(error).__name__, error)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        tell("end", os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
