"""Forks writers on demand: each commits until it is killed, and tells of a commit only once it was acknowledged.

Commands come on stdin, one a line: a seed starts a writer. What it tells goes to stdout, one line a promise:
``<pid> <seq> <type> <subject> <digest>``, in one write each, so that lines of several writers never mix.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from pathlib import Path

from audit.event import KINDS
from audit.files import Busy
from ssot.rules import Policy
from ssot.store import IdempotencyKey, Refused, Store, StoreSettings
from tests.faults import world

SETTINGS = StoreSettings(policy=Policy(max_rejects=2), lock_timeout_s=30, segment_bytes=200_000)


def tell(*words: object) -> None:
    os.write(1, (" ".join(str(word) for word in (os.getpid(), *words)) + "\n").encode())


def choose(store: Store, dice: random.Random, tasks: int) -> str:
    """One of the undecided tasks, which all writers share; a new one when there are fewer than `tasks` of them."""
    groups = [store.view.by_group.get(status, ()) for status in ("pending", "needs_review", "rejected")]
    at_work = sum(len(group) for group in groups)
    place = dice.randrange(tasks)
    if place >= at_work:
        return f"T-{len(store.view.entries)}"
    for group in groups:
        if place < len(group):
            return str(group[place][1])
        place -= len(group)
    raise AssertionError("a place among those counted")


def write_until_killed(home: Path, seed: int, tasks: int) -> None:
    dice = random.Random(seed)
    store = Store.open(home, source="kircerta/writer", settings=SETTINGS, scan=dice.random() < 0.05)
    tell("up")
    while True:
        store.refresh()
        task_id = choose(store, dice, tasks)
        known = store.document(task_id)
        actor, intent = world.forward(store.task(task_id) if known else None, dice)
        key = IdempotencyKey(f"{seed}-{dice.randrange(10**9)}", "body") if dice.random() < 0.2 else None
        try:
            committed = store.commit(task_id, intent, actor=actor, idempotency=key)
        except (Refused, Busy):
            continue
        for event in committed.events:
            tell(event.seq, event.type, event.subject, event.digest)
        if dice.random() < 0.004:
            store.save_checkpoint()


def main() -> None:
    home, tasks = Path(sys.argv[1]), int(sys.argv[2])
    assert KINDS
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the killed
    for line in sys.stdin:
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.close(0)
            try:
                write_until_killed(home, int(line), tasks)
            except BaseException as error:
                tell("died", repr(error).replace("\n", " ")[:2000])
                os._exit(1)


if __name__ == "__main__":
    main()
