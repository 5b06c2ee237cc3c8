"""Decisions bear the server's mark in the log; no task is made of it, and nobody else can make one."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from audit import mac
from audit.event import GENESIS, Corrupt, decode
from audit.keys import SigningKey
from audit.mac import DecisionCheck, MacKey
from audit.signer import Signer
from audit.verify import verify
from ssot import bundle, intents, replay
from ssot.rules import evolve
from ssot.store import Store, StoreSettings
from ssot.task import document_bytes, document_digest
from tests.builders import Ticks, events, issue, task_path, walk_to

KEY = MacKey.derived("the secret of this server, long enough")
SIGNER = SigningKey(b"k" * 32)


def served(home: Path, key: MacKey | None = KEY, max_rejects: int = 3) -> Store:
    """The store of a server that has (or has not) its secret."""
    settings = replace(StoreSettings(), mac_key=key)
    settings = replace(settings, policy=replace(settings.policy, max_rejects=max_rejects))
    return Store.open(home, source="kircerta/api", settings=settings, clock=Ticks().clock)


def unmarked(home: Path, *keys: MacKey) -> list[str]:
    check = DecisionCheck([*keys] or [KEY])
    assert verify(home / "audit", also=[check.look]).problem is None
    return check.problems


def bodies_of(home: Path) -> list[Any]:
    return [orjson.loads(line) for line in (home / "audit" / "events.jsonl").read_bytes().splitlines()]


def write_anew(home: Path, bodies: list[Any]) -> None:
    """What a process that may write the log can make of it: every digest fits."""
    prev, out = GENESIS, b""
    for seq, body in enumerate(bodies, 1):
        line = orjson.dumps({**body, "seq": seq, "prev": prev})
        prev, out = "sha256:" + hashlib.sha256(line).hexdigest(), out + line + b"\n"
    (home / "audit" / "events.jsonl").write_bytes(out)
    assert verify(home / "audit").problem is None


def all_decisions(store: Store) -> None:
    walk_to(store, "T-1", "approved")
    walk = walk_to(store, "T-2", "rejected")
    if walk.task.locked:
        walk.unlock()


def test_every_decision_and_nothing_else_is_marked(tmp_path: Path) -> None:
    all_decisions(served(tmp_path, max_rejects=1))
    marked = [event.type for event in events(tmp_path) if "mac" in event.data]
    assert marked == ["task_approved", "task_rejected", "task_unlocked"]
    assert unmarked(tmp_path) == []


def test_without_a_secret_there_is_no_mark_and_the_tasks_are_the_same_bytes(tmp_path: Path) -> None:
    for name, key in (("with", KEY), ("without", None)):
        all_decisions(served(tmp_path / name, key, max_rejects=1))
        assert replay.check(tmp_path / name).ok
    assert len(unmarked(tmp_path / "without")) == 3
    assert not (tmp_path / "without" / ".secrets").exists()
    for task_id in ("T-1", "T-2"):
        documents = [(tmp_path / name / f"ssot/tasks/{task_id}.json").read_bytes() for name in ("with", "without")]
        assert documents[0] == documents[1]


def test_a_decision_that_another_process_appended_is_told_from_the_servers_own(tmp_path: Path) -> None:
    """It computes the chain and the document's digest anew, and all of the log is well-formed: but it has no key."""
    walk_to(served(tmp_path), "T-1", "needs_review").store.close()
    stranger = served(tmp_path, None)
    stranger.commit("T-1", intents.Approve("looks good"), actor="alice")
    stranger.close()
    assert replay.check(tmp_path).ok
    (problem,) = unmarked(tmp_path)
    assert "task_approved of T-1 by alice" in problem


@pytest.mark.parametrize("theft", ["mark", "line"])
def test_a_mark_cannot_be_taken_from_another_decision(tmp_path: Path, theft: str) -> None:
    store = served(tmp_path)
    walk_to(store, "T-1", "approved")
    walk_to(store, "T-2", "approved")
    store.close()
    bodies = bodies_of(tmp_path)
    first, second = (body for body in bodies if body["type"] == "task_approved")
    if theft == "mark":
        second["data"]["mac"] = first["data"]["mac"]
    else:
        bodies.append({**second, "seq": len(bodies) + 1, "id": "e-again"})
    write_anew(tmp_path, bodies)
    assert "does not fit" in unmarked(tmp_path)[-1]


def test_marks_of_before_a_new_secret_still_hold(tmp_path: Path) -> None:
    store = served(tmp_path)
    walk_to(store, "T-1", "approved")
    store.close()
    new = MacKey.derived("another secret of this server, long")
    store = served(tmp_path, new)
    walk_to(store, "T-2", "approved")
    assert set(mac.kept(tmp_path)) == {KEY, new}
    assert unmarked(tmp_path, new, *mac.kept(tmp_path)) == []
    assert "not at hand" in unmarked(tmp_path, new)[0]


def test_a_long_decision_is_marked_as_it_stands_in_its_line(tmp_path: Path) -> None:
    store = served(tmp_path)
    walk = walk_to(store, "T-1", "needs_review")
    walk.reject(reason="x" * 70_000)
    walk = walk_to(store, "T-2", "needs_review")
    walk.reject(issues=tuple(issue(number, text="y" * 9000) for number in range(1, 12)))
    assert any("in_blob" in event.data for event in events(tmp_path, "task_rejected"))
    assert unmarked(tmp_path) == []
    assert replay.check(tmp_path).ok


def test_a_folder_for_secrets_that_cannot_be_written_stops_no_decision(tmp_path: Path) -> None:
    (tmp_path / ".secrets").write_bytes(b"in the way")
    walk_to(served(tmp_path), "T-1", "approved")
    assert unmarked(tmp_path) == []


@pytest.mark.parametrize("lie", ["approve", "forget"])
def test_no_other_line_brings_a_decision_along_or_takes_one_away(tmp_path: Path, lie: str) -> None:
    """A forged adoption could say how the whole task is, decision included, and would need no mark."""
    store = served(tmp_path)
    walk = walk_to(store, "T-1", "approved" if lie == "forget" else "needs_review")
    (attempt,) = orjson.loads(store.document("T-1") or b"")["attempts"]
    at = walk.task.updated_at
    decision = {"decision": "approved", "by": "alice", "at": at, "reason": "", "issues": [], "review_digest": None}
    forged = {**attempt, "decision": decision if lie == "approve" else None}
    store.close()
    (*bodies, last) = bodies_of(tmp_path)
    data = {"new": False, "with_history": False, "fields": ["attempts"], "task": {"attempts": [forged]}}
    line = {**last, "id": "e-forged", "type": "task_adopted", "actor": "file", "seq": len(bodies) + 2, "data": data}
    document = document_bytes(evolve(walk.task, decode(orjson.dumps(line)), data))
    data["document_sha256"] = document_digest(document)
    write_anew(tmp_path, [*bodies, last, line])
    task_path(tmp_path, "T-1").write_bytes(document)
    assert unmarked(tmp_path) == []
    assert "changes what was decided" in str(replay.check(tmp_path).problem)
    (tmp_path / ".kircerta" / "checkpoint").unlink(missing_ok=True)
    for path in (tmp_path / ".kircerta").glob("*"):
        path.unlink() if path.is_file() else None
    task_path(tmp_path, "T-1").unlink()
    with pytest.raises(Corrupt, match="changes what was decided"):
        served(tmp_path)
    with pytest.raises(Corrupt, match="changes what was decided"):
        bundle.make(tmp_path, "T-1", Signer(tmp_path / "audit", [SIGNER]).sign(), SIGNER)
