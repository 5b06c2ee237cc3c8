"""An agent's claims against what was seen from outside: which of them do not hold. Pure."""

from __future__ import annotations

import hashlib
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ssot import diff
from ssot.observed import CommandRun, Observed
from ssot.task import DiffSnapshot, Operation, ResultBody

MOST_NAMED: Final = 5


@dataclass(frozen=True, slots=True)
class Facts:
    """What a result is held against.

    Args:
        observed: what the result will carry; None where nothing could be read, and `problem` says why.
        diff: the change as it really stands in the agent's tree.
        differs: the files in which the agent's own diff makes another tree (`A path`, `M path`, `D path`).
    """

    observed: Observed | None
    diff: str = ""
    differs: tuple[str, ...] = ()
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Contradiction:
    """A claim that the facts contradict: for people, and as data for the event."""

    detail: str
    difference: dict[str, Any]


def contradiction(body: ResultBody, facts: Facts) -> Contradiction | None:
    """The first claim of a result that does not hold; None when all do."""
    if facts.observed is None or facts.problem:
        return Contradiction(f"what was done cannot be read: {facts.problem}", {"problem": facts.problem[:1000]})
    if facts.differs:
        told = f"the diff is not what stands in the work tree; other there: {_first(facts.differs)}"
        return Contradiction(told, {"differs": list(facts.differs[:50])})
    unmentioned = _unmentioned(facts.observed.changed, body.work_log)
    if unmentioned:
        told = f"changed in the work tree, but named by no operation of action edit: {_first(unmentioned)}"
        return Contradiction(told, {"unmentioned": list(unmentioned[:50])})
    if facts.observed.commands_by == "agent":
        return None
    return _never_run(body.work_log, facts.observed.commands)


def with_diff(body: ResultBody, facts: Facts) -> ResultBody:
    """The result with the change as it really stands, from where the work began."""
    if facts.observed is None:
        return body
    if not facts.diff:
        return body.model_copy(update={"diff_snapshot": None})
    digest = hashlib.sha256(facts.diff.encode()).hexdigest()
    snapshot = DiffSnapshot(format="unified", base=facts.observed.base, sha256=digest, text=facts.diff)
    return body.model_copy(update={"diff_snapshot": snapshot})


def _unmentioned(changed: Sequence[str], work_log: Iterable[Operation]) -> tuple[str, ...]:
    named = {_normal(operation.target) for operation in work_log if operation.action == "edit"}
    return tuple(path for path in changed if path not in named)


def _normal(path: str) -> str:
    try:
        return diff.normalise(path)
    except ValueError:
        return path


def _never_run(work_log: Iterable[Operation], commands: Sequence[CommandRun]) -> Contradiction | None:
    """The first run or test that nobody saw. Each command that was seen vouches for one operation."""
    left = Counter((_line(list(one.command)), one.exit_code) for one in commands)
    for operation in work_log:
        if operation.action not in ("run", "test"):
            continue
        seen = next((key for key in left if left[key] and _fits(operation, key)), None)
        if seen is None:
            return _not_seen(operation, commands)
        left[seen] -= 1
    return None


def _fits(operation: Operation, seen: tuple[str, int | None]) -> bool:
    line, exit_code = seen
    return _claimed_line(operation) == line and operation.exit_code in (None, exit_code)


def _not_seen(operation: Operation, commands: Sequence[CommandRun]) -> Contradiction:
    claim = f"operation {operation.op_id} says that {operation.target[:200]!r} was run"
    claim += "" if operation.exit_code is None else f" and ended with {operation.exit_code}"
    same = [one.exit_code for one in commands if _line(list(one.command)) == _claimed_line(operation)]
    told = "it was not run" if not same else f"what was seen of it ended with {', '.join(map(str, same))}"
    way_out = "commands that count are run by `run-for-me`, one for each such operation"
    claimed = {"op_id": operation.op_id, "command": operation.target[:500], "exit_code": operation.exit_code}
    return Contradiction(f"{claim}: {told}; {way_out}", {"claimed": claimed, "seen": same[:50]})


def _claimed_line(operation: Operation) -> str:
    try:
        return _line(shlex.split(operation.target))
    except ValueError:
        return operation.target.strip()


def _line(words: list[str]) -> str:
    """One spelling of a command. A single word with blanks in it is a line for the shell, and counts as such."""
    if len(words) == 1:
        try:
            words = shlex.split(words[0])
        except ValueError:
            return words[0].strip()
    return shlex.join(words)


def _first(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more
