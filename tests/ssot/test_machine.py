"""Any interleaving of moves, edits by hand, restarts and processes keeps the laws: a machine that tries them."""

from __future__ import annotations

import json
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from audit.verify import verify
from ssot import intents, replay
from ssot.states import status_of
from ssot.store import Refused, Store
from ssot.view import OpenAttempt
from tests import builders
from tests.builders import EXECUTOR, PERSON, REVIEWER, Ticks, Walk, a_store, drop, minimal, task_path

NAMES = ["T-1", "T-2", "T-3"]
names = st.sampled_from(NAMES)
stores = st.integers(0, 1)


class Workspace(RuleBasedStateMachine):
    """Two processes on one workspace, an editor, and restarts."""

    @initialize()
    def begin(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="kircerta-machine-"))
        self.ticks = Ticks()
        self.stores = [self.opened(), self.opened()]
        self.saved: list[bytes] = []
        self.decided: dict[str, list[Any]] = {}

    def opened(self, *, scan: bool = True) -> Store:
        return a_store(self.home, ticks=self.ticks, max_rejects=2, segment_bytes=6000, scan=scan)

    def walk(self, which: int, name: str) -> Walk:
        store = self.stores[which]
        store.refresh()
        return Walk(store, name)

    def exists(self, name: str) -> bool:
        return any(store.document(name) is not None for store in self.stores)

    # ---------------------------------------------------------------------------------------------- moves

    @rule(which=stores, name=names)
    def create(self, which: int, name: str) -> None:
        with suppress(Refused):
            self.walk(which, name).create()

    @rule(which=stores, name=names, ahead=st.sampled_from([0.0, 6.0, 45.0]), data=st.data())
    def move(self, which: int, name: str, ahead: float, data: st.DataObject) -> None:
        """Any move, in its moment or not: it happens whole or not at all."""
        walk = self.walk(which, name)
        if walk.store.document(name) is None:
            return
        self.ticks.ahead(ahead)
        step = data.draw(st.sampled_from(sorted(STEPS)))
        with suppress(Refused, AssertionError):  # a body needs a dispatch, and there may be none
            STEPS[step](walk)

    @rule(which=stores, name=names)
    def whole_attempt(self, which: int, name: str) -> None:
        walk = self.walk(which, name)
        if walk.store.document(name) is None:
            return
        for step in ("dispatch", "ack", "result", "verdict"):
            try:
                STEPS[step](walk)
            except (Refused, AssertionError):
                return

    # --------------------------------------------------------------------------------------------- by hand

    @rule(name=names, title=st.sampled_from(["a", "b", "ç\u2028"]))
    def edit(self, name: str, title: str) -> None:
        try:
            document = json.loads(task_path(self.home, name).read_bytes())
        except (FileNotFoundError, ValueError):
            document = minimal(name)
        if isinstance(document, dict):
            drop(self.home, name, {**document, "title": title})

    @rule(name=names)
    def open_in_an_editor(self, name: str) -> None:
        if task_path(self.home, name).exists():
            self.saved.append(task_path(self.home, name).read_bytes())

    @rule(name=names, data=st.data())
    def save_what_was_opened(self, name: str, data: st.DataObject) -> None:
        mine = [raw for raw in self.saved if b'"task_id": "%s"' % name.encode() in raw]
        if mine:
            raw = data.draw(st.sampled_from(mine))
            drop(self.home, name, raw.replace(b'"title": "', b'"title": "old', 1) if data.draw(st.booleans()) else raw)

    @rule(name=names, raw=st.sampled_from([b"", b"\0\0", b"{", b"[]", b'{"task_id": "T-1"}']))
    def spoil(self, name: str, raw: bytes) -> None:
        drop(self.home, name, raw)

    @rule(name=names)
    def forge(self, name: str) -> None:
        try:
            document = json.loads(task_path(self.home, name).read_bytes())
            attempt = document["attempts"][-1]
        except (FileNotFoundError, ValueError, LookupError, TypeError):
            return
        decision = {"decision": "approved", "by": "eve", "at": document["created_at"], "reason": "", "issues": []}
        attempt["decision"] = {**decision, "review_digest": None}
        drop(self.home, name, document)

    @rule(name=names)
    def remove(self, name: str) -> None:
        task_path(self.home, name).unlink(missing_ok=True)

    @rule(name=names)
    def leave_a_temporary_file(self, name: str) -> None:
        if self.walk(0, name).store.document(name) is not None:
            (self.home / "ssot" / "tasks" / f".{name}.tmp").write_bytes(b'{"schema": 1, "ta')

    # -------------------------------------------------------------------------------------------- processes

    @rule(which=stores)
    def scan(self, which: int) -> None:
        self.stores[which].scan()

    @rule(which=stores, checkpoint=st.booleans(), scan=st.booleans())
    def restart(self, which: int, checkpoint: bool, scan: bool) -> None:
        if checkpoint:
            self.stores[which].refresh()
            self.stores[which].save_checkpoint()
        self.stores[which].close()
        self.stores[which] = self.opened(scan=scan)

    @rule()
    def reboot(self) -> None:
        (self.home / "audit" / ".lock").write_bytes(b"")

    @rule()
    def tear(self) -> None:
        log = self.home / "audit" / "events.jsonl"
        if log.exists():
            with log.open("ab") as file:
                file.write(b'{"specversion":"1.0","id')

    # ----------------------------------------------------------------------------------------------- laws

    @invariant()
    def the_log_holds(self) -> None:
        assert verify(self.home / "audit").problem is None

    @invariant()
    def the_status_is_derived_and_people_decided(self) -> None:
        for store in self.stores:
            store.refresh()
            for name in list(store.view.entries):
                task = store.task(name)
                assert task.status == status_of(task.attempts) == store.view.entries[name].status
                decisions = [attempt.decision.by for attempt in task.attempts if attempt.decision is not None]
                assert set(decisions) <= {PERSON}

    @invariant()
    def both_processes_say_the_same(self) -> None:
        one, two = self.stores
        for store in self.stores:
            store.refresh()
        assert {n: one.document(n) for n in one.view.entries} == {n: two.document(n) for n in two.view.entries}
        assert _opened(one) == _opened(two)

    @rule()
    def a_scan_settles_everything(self) -> None:
        self.settle()

    def settle(self) -> None:
        store = self.stores[0]
        store.scan()
        found = replay.check(self.home)
        assert found.ok, found
        assert not list((self.home / "ssot" / "tasks").glob(".*.tmp"))
        for path in (self.home / "ssot" / "tasks").iterdir():
            seq = _seq_of(path)
            assert seq is None or f"{path.name}" in found.held or seq <= store.last_seq(), "a file is ahead of the log"

    def teardown(self) -> None:
        if not hasattr(self, "stores"):
            return
        self.settle()
        self.stores[0].save_checkpoint()
        from_checkpoint = self.opened()
        (self.home / ".kircerta" / "checkpoint.json").unlink()
        from_nothing = self.opened()
        for name in from_nothing.view.entries:
            assert from_checkpoint.document(name) == from_nothing.document(name) == self.stores[0].document(name)
        assert _opened(from_checkpoint) == _opened(from_nothing)
        assert from_checkpoint.view.counts() == from_nothing.view.counts()
        for store in (*self.stores, from_checkpoint, from_nothing):
            store.close()
        shutil.rmtree(self.home)


def _opened(store: Store) -> dict[str, OpenAttempt]:
    return {one.task_id: one for one in store.open_attempts()}


def _seq_of(path: Path) -> int | None:
    try:
        seq = json.loads(path.read_bytes())["seq"]
    except (ValueError, LookupError, TypeError):
        return None
    return seq if isinstance(seq, int) else None


def _dispatch_id(walk: Walk) -> str:
    current = walk.task.current
    return current.dispatch.dispatch_id if current and current.dispatch else "d-none"


def _landing(walk: Walk, move: Any) -> None:
    """Of a task that was dispatched; a landing knows which dispatch it lands."""
    if _dispatch_id(walk) != "d-none":
        move()


STEPS: dict[str, Any] = {
    "dispatch": lambda walk: walk.do(intents.Dispatch(f"d-{walk.task_id}-{walk.task.revision}"), "dispatcher"),
    "ack": lambda walk: walk.ack(),
    "wrong ack": lambda walk: walk.ack(echo=()),
    "heartbeat": lambda walk: walk.heartbeat(),
    "result": lambda walk: walk.result(),
    "wrong result": lambda walk: walk.result(work_log=()),
    "long result": lambda walk: walk.result(summary="s" * 40_000),
    "verdict": lambda walk: walk.verdict(),
    "bad verdict": lambda walk: walk.verdict("reject"),
    "own verdict": lambda walk: walk.verdict(actor=EXECUTOR),
    "end": lambda walk: walk.end(),
    "time out": lambda walk: walk.do(intents.TimeOutAck(_dispatch_id(walk)), "watchdog"),
    "approve": lambda walk: walk.approve(),
    "own approval": lambda walk: walk.approve(actor=EXECUTOR),
    "reviewer's approval": lambda walk: walk.approve(actor=REVIEWER),
    "reject": lambda walk: walk.reject(issues=(builders.issue(7),)),
    "reject plainly": lambda walk: walk.reject(),
    "unlock": lambda walk: walk.unlock(),
    "fail landing": lambda walk: _landing(walk, walk.fail_landing),
    "resume landing": lambda walk: _landing(walk, walk.resume_landing),
}

_QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large]


class TestAFewHistories(Workspace.TestCase):  # type: ignore[misc, valid-type]
    settings = settings(max_examples=100, stateful_step_count=30, deadline=None, suppress_health_check=_QUIET)


@pytest.mark.slow
class TestManyHistories(Workspace.TestCase):  # type: ignore[misc, valid-type]
    settings = settings(max_examples=400, stateful_step_count=50, deadline=None, suppress_health_check=_QUIET)
