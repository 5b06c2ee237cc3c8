"""The audit of forwarded issues: an honest history passes, a rewritten one contradicts itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

from audit.event import GENESIS, digest_of
from audit.verify import verify
from ssot import fidelity, intents
from tests import builders
from tests.builders import Walk, a_store, issue, minimal

SCRIPT = Path(__file__).parents[2] / "scripts" / "validation" / "fidelity_audit.py"


def three_rejections(home: Path) -> Walk:
    """Rejected at the gate, ended midway, rejected once more with long texts; dispatched again each time."""
    walk = Walk(a_store(home, max_rejects=9, segment_bytes=6000))
    walk.create()
    walk.to_gate("reject")
    walk.reject(issues=(issue(3), issue(4, text="ä" * 40_000)))
    walk.dispatch()
    walk.ack()
    walk.end()
    walk.to_gate("reject")
    walk.reject()
    walk.to_gate()
    walk.approve()
    return walk


def test_an_honest_history_passes(tmp_path: Path) -> None:
    three_rejections(tmp_path)
    found = fidelity.audit(tmp_path)
    assert found.ok, found
    assert (found.tasks, found.dispatches, found.redispatches) == (1, 4, 3)
    assert found.forwarded == found.digests == 4 + 4 + 2
    assert (found.bare_approvals, found.unread_decisions) == (0, 1)


def test_a_task_declined_or_brought_by_a_file_passes(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    declined = Walk(store, "T-1")
    declined.create()
    declined.reject(issues=(issue(1, op_refs=()),))
    declined.to_gate()
    builders.walk_to(a_store(tmp_path / "other"), "T-2", "needs_review")
    attempts = builders.read(tmp_path / "other", "T-2")["attempts"]
    attempts[0]["verdict"] |= {"decision": "reject", "issues": [issue(5).model_dump()]}
    criteria = attempts[0]["dispatch"]["acceptance_criteria"]
    builders.drop(tmp_path, "T-2", minimal("T-2", attempts=attempts, acceptance_criteria=criteria))
    store.scan()
    brought = Walk(store, "T-2")
    brought.reject()
    brought.to_gate()
    found = fidelity.audit(tmp_path)
    assert found.ok, found
    assert found.forwarded == 2


def test_bare_approvals_are_counted(tmp_path: Path) -> None:
    walk = builders.walk_to(a_store(tmp_path), "T-1", "delivered")
    walk.verdict(summary=" ")
    assert fidelity.audit(tmp_path).bare_approvals == 1


def rewrite(home: Path, change: Any, kind: str) -> None:
    """Change the last event of a kind and make the chain whole again, as whoever keeps the log can."""
    segments = [*sorted(home.glob("audit/events-*.jsonl")), home / "audit" / "events.jsonl"]
    lines = [(path, orjson.loads(line)) for path in segments for line in path.read_bytes().splitlines()]
    next(body for _, body in reversed(lines) if body["type"] == kind and change(body["data"]) is not False)
    prev, written = GENESIS, dict.fromkeys(segments, b"")
    for path, body in lines:
        body["prev"] = prev
        line = orjson.dumps(body)
        prev = digest_of(line)
        written[path] += line + b"\n"
    for path, raw in written.items():
        path.write_bytes(raw)


def _reword(data: dict[str, Any]) -> Any:
    issues = data["dispatch"]["issues"]
    return bool(issues) and issues[0].update(text="something harmless")


def _drop_one(data: dict[str, Any]) -> Any:
    return bool(data["dispatch"]["issues"]) and data["dispatch"]["issues"].pop()


def _swap(data: dict[str, Any]) -> Any:
    issues = data["dispatch"]["issues"]
    return len(issues) > 1 and issues.reverse()


def _soften(data: dict[str, Any]) -> Any:
    found = data["verdict"]["issues"]
    return bool(found) and found[0].update(severity="minor")


def _reword_ack(data: dict[str, Any]) -> Any:
    return bool(data["ack"]["issues"]) and data["ack"]["issues"][0].update(text="nothing")


def _other_digest(data: dict[str, Any]) -> Any:
    digests = data["dispatch"].get("issue_digests")
    return bool(digests) and digests.__setitem__(0, "sha256:" + "0" * 64)


@pytest.mark.parametrize(
    ("change", "kind", "where"),
    [
        (_reword, "task_redispatched", "dispatch.issues[0]"),
        (_drop_one, "task_redispatched", "dispatch.issues[1]"),
        (_swap, "task_redispatched", "dispatch.issues[0]"),
        (_soften, "verdict_received", "dispatch.issues[0]"),
        (_reword_ack, "ack_received", "ack.issues[0]"),
        (_other_digest, "task_redispatched", "dispatch.issue_digests[0]"),
    ],
)
def test_a_rewritten_log_contradicts_itself(tmp_path: Path, change: Any, kind: str, where: str) -> None:
    three_rejections(tmp_path)
    rewrite(tmp_path, change, kind)
    assert verify(tmp_path / "audit").problem is None, "the chain alone does not tell"
    found = fidelity.audit(tmp_path)
    assert found.differences[0].where == where
    assert found.differences[0].expected != found.differences[0].found
    ran = subprocess.run([sys.executable, str(SCRIPT), str(tmp_path)], capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert where in ran.stdout


def test_a_log_that_makes_no_sense_is_no_success(tmp_path: Path) -> None:
    three_rejections(tmp_path)
    rewrite(tmp_path, lambda data: data.pop("dispatch"), "task_redispatched")
    assert fidelity.audit(tmp_path).problem is not None


def test_a_dispatch_with_other_issues_is_refused_and_told(tmp_path: Path) -> None:
    walk = Walk(a_store(tmp_path))
    walk.create()
    walk.to_gate("reject")
    walk.reject()
    changed = tuple(one.model_copy(update={"text": "softer"}) for one in walk.task.attempts[-1].verdict.issues)  # type: ignore[union-attr]
    refused = builders.refusal(walk, intents.Dispatch("d-x", issues=changed), "dispatcher")
    assert refused.code == "fidelity_violation"
    assert "softer" in refused.detail
    assert "issue 1" in refused.detail
    assert fidelity.audit(tmp_path).ok


def test_the_script_passes_an_empty_workspace_and_knows_wrong_use(tmp_path: Path) -> None:
    codes = [
        subprocess.run([sys.executable, str(SCRIPT), *more], capture_output=True, check=False).returncode
        for more in ([str(tmp_path)], [str(tmp_path / "none")], ["a", "b"])
    ]
    assert codes == [0, 2, 2]
