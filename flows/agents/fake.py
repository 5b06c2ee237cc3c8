"""The fake executor and reviewer: seeded, plausible, and able to misbehave in every way that the rules know.

Standard library only, no imports from the project but `play`: the scripts start in some 30 ms.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

from flows.agents.play import Crash, LeaveBehind, Line, Move, Pause, Raw, now

EXECUTOR_MODES: dict[str, str] = {
    "ok": "acknowledges, works, delivers",
    "no_ack": "never says anything",
    "late_ack": "acknowledges after `delay` seconds (35)",
    "wrong_echo": "repeats a criterion with other words",
    "wrong_order": "repeats the criteria in another order",
    "wrong_scope": "repeats another scope",
    "wrong_issues": "repeats other forwarded issues",
    "twice": "acknowledges twice",
    "wrong_dispatch": "names another dispatch",
    "silent": "acknowledges, then nothing",
    "slow": "sends a heartbeat every `beat` seconds (1) for `seconds` (5), then delivers",
    "failing": "delivers an outcome of `failed`",
    "out_of_scope": "changes a file outside the scope",
    "bad_diff": "delivers a diff that cannot be read",
    "bad_sha": "delivers a diff whose sha256 does not fit",
    "no_operations": "delivers an empty work log",
    "dangling_refs": "refers to criteria that the dispatch does not have",
    "crash": "acknowledges, then ends with exit code 3",
    "crash_before_ack": "ends with exit code 3 at once",
    "garbage": "acknowledges, then writes what is no JSON",
    "flood": "acknowledges, then writes `megabytes` (64) of heartbeats",
    "flood_line": "acknowledges, then writes `megabytes` (64) without a newline",
    "fork": "delivers and leaves a process behind for `seconds` (600)",
}
REVIEWER_MODES: dict[str, str] = {
    "ok": "approves what was completed, rejects what failed",
    "reject": "rejects, with an issue for each criterion",
    "dangling_refs": "rejects, pointing at a criterion and an operation that do not exist",
    "reject_without_issues": "rejects without saying why",
    "approve_with_blocker": "approves, with a blocker among the issues",
    "silent": "never says anything",
    "crash": "ends with exit code 3",
    "garbage": "writes what is no JSON",
    "wrong_dispatch": "names another dispatch",
}
EXECUTOR_OPTIONS = frozenset({"mode", "seed", "delay", "seconds", "beat", "megabytes"})
REVIEWER_OPTIONS = frozenset({"mode", "seed", "reject_first"})

_FOREVER = 86_400.0
_SUMMARIES = ("Done as asked.", "Changed and tested.", "The criteria hold now.", "Small change, tests added.")
_SEVERITIES = ("blocker", "major", "minor")

# The executor


def executor(job: Mapping[str, Any]) -> Iterator[Move]:
    """Play one dispatch. Raises ValueError for a mode or a number that cannot be."""
    mode = _mode(job, EXECUTOR_MODES)
    if mode == "crash_before_ack":
        yield Crash(3, "fake executor: crashed before the ACK\n")
        return
    if mode in ("no_ack", "late_ack"):
        yield Pause(_FOREVER if mode == "no_ack" else _number(job, "delay", 35))
    yield _ack(job, mode)
    if mode == "twice":
        yield _ack(job, mode)
    yield from _work(job, mode)


def _work(job: Mapping[str, Any], mode: str) -> Iterator[Move]:
    if mode in ("silent", "crash", "garbage", "flood", "flood_line"):
        yield from _stop_midway(job, mode)
        return
    if mode == "slow":
        yield from _heartbeats(job)
    if mode == "fork":
        yield LeaveBehind(_number(job, "seconds", 600), f"left-behind-{job['dispatch']['dispatch_id']}")
    yield _result(job, mode)


def _stop_midway(job: Mapping[str, Any], mode: str) -> Iterator[Move]:
    yield _heartbeat(job, "started")
    megabytes = int(_number(job, "megabytes", 64))
    if mode == "silent":
        yield Pause(_FOREVER)
    elif mode == "crash":
        yield Crash(3, "fake executor: crashed midway\n")
    elif mode == "garbage":
        yield Raw(b"Sure! Here is the change you asked for:\n")
    elif mode == "flood":
        for _ in range(megabytes):
            yield _heartbeat(job, "x" * 2**20)
    else:
        for _ in range(megabytes):
            yield Raw(b"x" * 2**20)


def _heartbeats(job: Mapping[str, Any]) -> Iterator[Move]:
    beat, left = _number(job, "beat", 1), _number(job, "seconds", 5)
    while left > 0:
        yield _heartbeat(job, f"{left:g} s to go")
        yield Pause(min(beat, left))
        left -= beat


def _heartbeat(job: Mapping[str, Any], note: str) -> Line:
    return {"type": "heartbeat", "dispatch_id": job["dispatch"]["dispatch_id"], "note": note}


def _ack(job: Mapping[str, Any], mode: str) -> Line:
    dispatch = job["dispatch"]
    echo = [_echo(one) for one in dispatch["acceptance_criteria"]]
    scope, issues = list(dispatch["scope"]), list(dispatch["issues"])
    if mode == "wrong_echo":
        echo = [{**echo[0], "text": f"{echo[0]['text']} (more or less)"}, *echo[1:]] if echo else [_STRAY_ECHO]
    elif mode == "wrong_order":
        echo = echo[::-1] if len(echo) > 1 else [*echo, *(echo or [_STRAY_ECHO])]
    elif mode == "wrong_scope":
        scope = [*scope, "somewhere/else/**"]
    elif mode == "wrong_issues":
        issues = issues[:-1] if issues else [_stray_issue()]
    return {
        "type": "ack",
        "dispatch_id": _dispatch_id(job, mode),
        "echo": echo,
        "scope": scope,
        "issues": issues,
        "issue_digests": list(dispatch.get("issue_digests", ())),
    }


def _echo(criterion: Mapping[str, Any]) -> Line:
    """The criterion as it was told: a long text by its digest, where it came so."""
    told: Line = {key: criterion[key] for key in ("text", "blob") if key in criterion}
    return {"criterion_ref": criterion["id"], **told}


_STRAY_ECHO: Line = {"criterion_ref": "AC-999", "text": "nobody asked for this"}


def _stray_issue() -> Line:
    return {
        "issue_id": "IS-999",
        "criterion_ref": "AC-1",
        "op_refs": [],
        "severity": "minor",
        "text": "nobody said this",
    }


def _result(job: Mapping[str, Any], mode: str) -> Line:
    path = _outside_of(job) if mode == "out_of_scope" else _path_inside(job["dispatch"]["scope"], _seed(job))
    text = _diff(job, path) if mode != "bad_diff" else "@@ -1,3 +1,9 @@\n torn off\n"
    digest = hashlib.sha256(text.encode()).hexdigest()
    return {
        "type": "result",
        "dispatch_id": _dispatch_id(job, mode),
        "outcome": "failed" if mode == "failing" else "completed",
        "summary": "It did not work out." if mode == "failing" else _pick(job, "summary", _SUMMARIES),
        "work_log": [] if mode == "no_operations" else _work_log(job, path, mode),
        "diff_snapshot": {
            "format": "unified",
            "base": hashlib.sha1(f"base {job['task_id']}".encode(), usedforsecurity=False).hexdigest(),
            "sha256": "0" * 64 if mode == "bad_sha" else digest,
            "text": text,
        },
    }


def _work_log(job: Mapping[str, Any], path: str, mode: str) -> list[Line]:
    """Read, answer each forwarded issue, then edit and test for each criterion."""
    log: list[Line] = []
    known = [one["id"] for one in job["dispatch"]["acceptance_criteria"]]
    _log(log, "read", path, f"{job['title']}\n", [])
    for issue in job["dispatch"]["issues"]:
        ref = issue["criterion_ref"]
        answer = f"{issue['issue_id']} ({issue['severity']}): {issue['text']}"
        _log(log, "edit", path, f"Answers {answer}", [ref] if ref in known else [])
    for ref in ["AC-999"] if mode == "dangling_refs" else known:
        _log(log, "edit", path, f"Changed for {ref}.", [ref])
    tested = ["AC-999"] if mode == "dangling_refs" else known
    ok = mode != "failing"
    said = f"{len(tested)} passed" if ok else f"{len(tested)} failed"
    _log(
        log,
        "test",
        f"pytest -q tests/test_{_pick(job, 'test', _WORDS)}.py",
        said,
        tested,
        exit_code=int(not ok),
    )
    return log


def _log(log: list[Line], action: str, target: str, detail: str, refs: list[str], exit_code: int | None = None) -> None:
    log.append(
        {
            "op_id": f"OP-{len(log) + 1}",
            "at": now(),
            "action": action,
            "target": target,
            "detail": detail,
            "exit_code": exit_code,
            "criterion_refs": refs,
        }
    )


_WORDS = ("parser", "cursor", "ledger", "router", "digest", "window", "budget", "signal")


def _diff(job: Mapping[str, Any], path: str) -> str:
    """A new file with a line for each criterion."""
    lines = [f"# {job['task_id']}: {_pick(job, 'remark', _SUMMARIES)}"]
    lines += [f"{one['id']!r}: done" for one in job["dispatch"]["acceptance_criteria"]]
    body = "".join(f"+{line}\n" for line in lines)
    return (
        f"diff --git a/{path} b/{path}\nnew file mode 100644\n--- /dev/null\n+++ b/{path}\n"
        f"@@ -0,0 +1,{len(lines)} @@\n{body}"
    )


def _path_inside(scope: list[str], seed: str) -> str:
    """A path that the first pattern of the scope lets through; any path where nothing limits it."""
    word = _WORDS[int(seed[:8], 16) % len(_WORDS)]
    if not scope:
        return f"src/{word}.py"
    pattern = scope[0] if not scope[0].endswith("/") else f"{scope[0]}**"
    names = [name for name in pattern.split("/") if name not in ("", ".")] or ["**"]
    depth = [_name_for(name, word) for name in names[:-1] if name != "**"]
    last = f"{word}.py" if names[-1] in ("*", "**") else _name_for(names[-1], word)
    return "/".join([*depth, last])


def _name_for(pattern: str, word: str) -> str:
    """One name that a pattern matches: classes by their first character, `?` by a letter."""
    found, at = "", 0
    while at < len(pattern):
        end = pattern.find("]", at + 2) if pattern[at] == "[" else -1
        if end > 0 and pattern[at + 1] not in "!^":
            found += pattern[at + 1]
            at = end
        elif end > 0:
            found += next(letter for letter in "xyz_0" if letter not in pattern[at:end])
            at = end
        else:
            found += {"*": word, "?": "x"}.get(pattern[at], pattern[at])
        at += 1
    return found


def _outside_of(job: Mapping[str, Any]) -> str:
    """A path that no scope lets through where it may begin anywhere, else one beside all of it."""
    scope = job["dispatch"]["scope"]
    anywhere = not scope or any(pattern[:1] in "*?[." for pattern in scope)
    return "../outside.py" if anywhere else "outside-of-the-scope/secret.py"


# The reviewer


def reviewer(job: Mapping[str, Any]) -> Iterator[Move]:
    """Play one review. Raises ValueError for a mode or a number that cannot be."""
    mode = _mode(job, REVIEWER_MODES)
    if mode == "silent":
        yield Pause(_FOREVER)
    elif mode == "crash":
        yield Crash(3, "fake reviewer: crashed\n")
    elif mode == "garbage":
        yield Raw(b"LGTM!\n")
    else:
        yield _heartbeat(job, "reading")
        yield _verdict(job, mode)


def _verdict(job: Mapping[str, Any], mode: str) -> Line:
    result = job["result"] or {}
    early = int(job["attempt"]) <= _number(job, "reject_first", 0)
    issues: list[Line] = []
    reject = early or result.get("outcome") == "failed" or mode not in ("ok", "approve_with_blocker", "wrong_dispatch")
    if mode == "dangling_refs":
        issues = [_issue(1, "AC-999", ["OP-999"], "blocker", "Nobody knows what this is about.")]
    elif mode == "approve_with_blocker":
        issues = _issues(job, ["blocker"])
    elif reject and mode != "reject_without_issues":
        issues = _issues(job, list(_SEVERITIES))
    return {
        "type": "verdict",
        "dispatch_id": _dispatch_id(job, mode),
        "decision": "reject" if reject else "approve",
        "summary": f"{len(issues)} to change." if reject else "All criteria are met.",
        "issues": issues,
    }


def _issues(job: Mapping[str, Any], severities: list[str]) -> list[Line]:
    """One for each criterion, pointing at the operations that name it, or at the last one."""
    log = (job["result"] or {}).get("work_log") or []
    found = []
    for number, criterion in enumerate(job["dispatch"]["acceptance_criteria"], start=1):
        ref = criterion["id"]
        ops = [op["op_id"] for op in log if ref in op["criterion_refs"]] or [op["op_id"] for op in log[-1:]]
        severity = severities[int(_seed(job, ref)[:8], 16) % len(severities)]
        found.append(_issue(number, ref, ops, severity, f"{ref} is not shown: attempt {job['attempt']}."))
    return found


def _issue(number: int, ref: str, ops: list[str], severity: str, text: str) -> Line:
    return {
        "issue_id": f"IS-{number}",
        "criterion_ref": ref,
        "op_refs": ops,
        "severity": severity,
        "text": text,
    }


# Options and seeds


def _mode(job: Mapping[str, Any], modes: Mapping[str, str]) -> str:
    mode = str(job["options"].get("mode", "ok"))
    if mode not in modes:
        raise ValueError(f"no mode {mode!r}; there are {', '.join(modes)}")
    return mode


def _number(job: Mapping[str, Any], name: str, default: float) -> float:
    value = job["options"].get(name, default)
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name}={value!r} is not a number") from None


def _dispatch_id(job: Mapping[str, Any], mode: str) -> str:
    own = str(job["dispatch"]["dispatch_id"])
    return own if mode != "wrong_dispatch" else f"{own}-other"


def _seed(job: Mapping[str, Any], *more: str) -> str:
    """The same for the same seed, task and dispatch."""
    parts = (str(job["options"].get("seed", "")), job["task_id"], job["dispatch"]["dispatch_id"], *more)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _pick(job: Mapping[str, Any], what: str, choices: tuple[str, ...]) -> str:
    return choices[int(_seed(job, what)[:8], 16) % len(choices)]
