"""A process that dies, or whose disk fails, at one chosen point of a commit. Only ever run as a child of a test."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from audit import files
from audit.files import SyncFailed
from audit.stamp import Clock
from ssot import intents
from ssot.rules import Policy
from ssot.store import Store, StoreSettings
from tests.builders import PERSON, Walk, create, issue, projects_file

POINTS: dict[str, tuple[Any, str]] = {
    "write": (files, "_write_all"),
    "sync": (files, "sync_data"),
    "sync folder": (files, "sync_folder"),
    "new file": (files, "write_new"),
    "fill": (files, "fill"),
    "exchange": (files, "swap_in"),
    "rename": (os, "rename"),
    "unlink": (os, "unlink"),
    "marker": (os, "pwrite"),
    "cut": (os, "ftruncate"),
}
"""Where a commit touches the disk."""
DIED = 86


def open_store(home: Path, *, segment_bytes: int = 1 << 26) -> Store:
    """With a real clock: several of these follow each other on one workspace."""
    settings = StoreSettings(Policy(max_rejects=1), segment_bytes=segment_bytes)
    return Store.open(home, source="kircerta/test", settings=settings, clock=Clock(), scan=False)


POLICIES: dict[str, dict[str, Any]] = {
    "quorum": {"quorum": 2},
    "low risk": {"human_gate": False, "low_risk": ["src/**"]},
    "expired": {"decision_deadline_s": 1, "deadline_outcome": "expired"},
}
"""Scenarios of one commit that owes a decision, and the policy of each."""


def bring_to_the_edge(store: Store, scenario: str) -> None:
    """A task of a project, right before the commit that decides it."""
    projects_file(store.home, **POLICIES[scenario])
    walk = Walk(store)
    walk.create(metadata={"project": "shop"})
    for step in ("dispatch", "ack", "result"):
        getattr(walk, step)()
    if scenario == "quorum":
        walk.verdict()
        walk.approve("alice")
    elif scenario == "expired":
        walk.verdict()
        time.sleep(1.01)  # the clock is the true one here, and a deadline is whole seconds


def move(store: Store, scenario: str) -> None:
    """The one commit that is cut short."""
    walk = Walk(store)
    if scenario == "create":
        walk.create()
    elif scenario == "reject and lock":
        walk.reject()
    elif scenario == "long texts":
        walk.reject(reason="r" * 40_000, issues=tuple(issue(n, text="i" * 40_000, op_refs=()) for n in range(3)))
    elif scenario == "quorum":
        walk.approve("bob")
    elif scenario == "low risk":
        walk.verdict()
    elif scenario == "expired":
        current = walk.task.current
        assert current is not None
        assert current.dispatch is not None
        walk.do(intents.FindDecisionOverdue(current.dispatch.dispatch_id), "watchdog")
    elif scenario == "adopt":
        store.scan()
    elif scenario == "many":
        store.commit_many([(f"M-{n}", create()) for n in range(5)], actor=PERSON)
    else:
        walk.do(intents.Dispatch("d-1"), "dispatcher")


def die(home: str, scenario: str, point: str, nth: int, when: str, segment_bytes: int) -> None:
    """Open the workspace, then die at the nth call of a function: before it, after it, or in the middle of a write."""
    store = open_store(Path(home), segment_bytes=segment_bytes)
    calls = [0]

    def wrap(real: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **more: Any) -> Any:
            calls[0] += 1
            if calls[0] != nth:
                return real(*arguments, **more)
            if when == "half":
                fd, data, offset = arguments
                os.write(fd, b"") if not data else os.pwrite(fd, data[: len(data) // 2], offset)
            elif when == "after":
                real(*arguments, **more)
            os._exit(DIED)

        return wrapped

    owner, name = POINTS[point]
    setattr(owner, name, wrap(getattr(owner, name)))
    move(store, scenario)
    os._exit(0)


def fail_to_sync(home: str, what: str) -> None:
    """A sync that fails once: this process may never write again. The exit code says whether it held to that."""
    store = open_store(Path(home))
    walk = Walk(store)
    owner, name = POINTS[what]
    real = getattr(owner, name)

    def failing(*arguments: Any) -> None:
        setattr(owner, name, real)
        raise SyncFailed("the folder could not be synced") if what == "sync folder" else OSError(5, "I/O error")

    setattr(owner, name, failing)
    refused = 0
    for _ in range(2):
        try:
            walk.reject(reason="r" * 40_000)
        except SyncFailed:
            refused += 1
    os._exit(0 if refused == 2 else 1)
