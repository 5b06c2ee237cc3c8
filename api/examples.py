"""One small task and the bodies that take it through the loop: the examples of the API's description. They run."""

from __future__ import annotations

from typing import Any, Final

TASK_ID: Final = "T-1"
DISPATCH_ID: Final = "d-example"
CRITERION: Final = {"id": "AC-1", "text": '`greet()` returns "hello"'}
SCOPE: Final = ["src/**"]

_DIFF: Final = (
    '--- a/src/greet.py\n+++ b/src/greet.py\n@@ -1,2 +1,2 @@\n def greet():\n-    return ""\n+    return "hello"\n'
)
_DIFF_SHA256: Final = "de80c4054de57cb7b53b0c0d367e65564fa95b2aedfca6529ed1a7741b4d2e84"

ACK: Final[dict[str, Any]] = {
    "dispatch_id": DISPATCH_ID,
    "echo": [{"criterion_ref": "AC-1", "text": CRITERION["text"]}],
    "scope": SCOPE,
    "issues": [],
}
HEARTBEAT: Final[dict[str, Any]] = {"dispatch_id": DISPATCH_ID, "note": "running the tests"}
RESULT: Final[dict[str, Any]] = {
    "dispatch_id": DISPATCH_ID,
    "outcome": "completed",
    "summary": "greet() says hello now",
    "work_log": [
        {
            "op_id": "OP-1",
            "at": "2026-01-31T09:00:00Z",
            "action": "edit",
            "target": "src/greet.py",
            "detail": "return the greeting",
            "exit_code": None,
            "criterion_refs": ["AC-1"],
        },
        {
            "op_id": "OP-2",
            "at": "2026-01-31T09:00:05Z",
            "action": "test",
            "target": "tests/test_greet.py",
            "detail": "1 passed",
            "exit_code": 0,
            "criterion_refs": ["AC-1"],
        },
    ],
    "diff_snapshot": {"format": "unified", "base": "main", "sha256": _DIFF_SHA256, "text": _DIFF},
}
VERDICT: Final[dict[str, Any]] = {
    "dispatch_id": DISPATCH_ID,
    "decision": "approve",
    "summary": "does what was asked",
    "issues": [
        {
            "issue_id": "IS-1",
            "criterion_ref": "AC-1",
            "op_refs": ["OP-2"],
            "severity": "minor",
            "text": "one more test for an empty name would not hurt",
        }
    ],
}
APPROVE: Final[dict[str, Any]] = {"reason": "read the diff, ran the tests"}
REJECT: Final[dict[str, Any]] = {
    "reason": "the greeting has to be configurable",
    "issues": [{"criterion_ref": "AC-1", "op_refs": ["OP-1"], "severity": "major", "text": "read it from a setting"}],
}
UNLOCK: Final[dict[str, Any]] = {"reason": "the request was unclear; it has been rewritten"}


def at_the_gate() -> dict[str, Any]:
    """The task's document once all of these bodies but a decision were taken."""
    moment = "2026-01-31T09:00:00.000000Z"
    told = {"dispatch_id": DISPATCH_ID, "at": moment}
    dispatch = {
        **told,
        "by": "dispatcher",
        "executor": "remote",
        "reviewer": "remote",
        "acceptance_criteria": [CRITERION],
        "scope": SCOPE,
        "issues": [],
        "ack_deadline": "2026-01-31T09:00:30.000000Z",
    }
    attempt = {
        "attempt": 1,
        "dispatch": dispatch,
        "ack": {**ACK, **told, "by": "remote-executor"},
        "result": {**RESULT, **told, "by": "remote-executor"},
        "verdict": {**VERDICT, **told, "by": "remote-reviewer"},
    }
    return {
        "schema": 1,
        "task_id": TASK_ID,
        "title": "let greet() say hello",
        "source": "manual",
        "request_text": "let greet() say hello",
        "acceptance_criteria": [CRITERION],
        "scope": SCOPE,
        "status": "needs_review",
        "locked": False,
        "revision": 5,
        "seq": 5,
        "created_at": moment,
        "updated_at": moment,
        "correlation_id": "c-example",
        "origin": {},
        "build": None,
        "attempts": [attempt],
        "metadata": {},
    }
