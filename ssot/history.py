"""Attempts that a file brings along: whether any log would have let them happen. Pure.

They are held to the rules that an agent's messages are held to, read back from what stands there. What a rule says of
the moment alone (a deadline, an order of arrival) cannot be seen any more, and who sent them cannot be proven.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from ssot import messages
from ssot.past import identities
from ssot.task import Ack, Attempt, Dispatch, Issue, Result, Verdict

Contradiction = tuple[str, str]
"""Where in an attempt something cannot be, and why."""


def contradiction(attempts: Sequence[Attempt]) -> Contradiction | None:
    """The first thing in attempts without decisions that the rules would not have taken; None where all of it holds."""
    due: tuple[Issue, ...] = ()
    for index, attempt in enumerate(attempts):
        for where, why in _contradictions(attempt, due):
            return f"attempts[{index}].{where}", why
        due = attempt.dispatch.issues if attempt.dispatch is not None else ()
    return None


def _contradictions(attempt: Attempt, due: tuple[Issue, ...]) -> Iterator[Contradiction]:
    dispatch, ack, result, verdict = attempt.dispatch, attempt.ack, attempt.result, attempt.verdict
    assert dispatch is not None
    if dispatch.issues != due:
        yield "dispatch.issues", f"a dispatch carries what the attempt before it left: {_unlike(dispatch, due)}"
    yield from _out_of_order(attempt)
    if ack is not None:
        yield from _of_ack(dispatch, ack)
    if ack is not None and result is not None:
        yield from _of_result(dispatch, ack, result)
    if ack is not None and result is not None and verdict is not None:
        yield from _of_verdict(dispatch, ack, result, verdict)


def _unlike(dispatch: Dispatch, due: tuple[Issue, ...]) -> str:
    return messages.first_unlike(dispatch.issues, due)


def _out_of_order(attempt: Attempt) -> Iterator[Contradiction]:
    """Parts whose predecessor is missing, that belong to another dispatch, or come behind the attempt's end."""
    parts = (("ack", attempt.ack), ("result", attempt.result), ("verdict", attempt.verdict))
    for (before, earlier), (name, part) in pairwise(parts):
        if part is not None and earlier is None:
            yield name, f"it comes behind the {before}, and there is none"
    for name, part in parts:
        if part is not None and attempt.dispatch is not None and part.dispatch_id != attempt.dispatch.dispatch_id:
            yield f"{name}.dispatch_id", f"the attempt's dispatch is {attempt.dispatch.dispatch_id}"
    if attempt.ended is not None and attempt.verdict is not None:
        yield "ended", "an attempt ends before its verdict, or has one"


def _of_ack(dispatch: Dispatch, ack: Ack) -> Iterator[Contradiction]:
    unlike = messages.echo_difference(dispatch, ack)
    if unlike is not None:
        where, expected, got = unlike
        yield f"ack.{where}", f"expected {messages.shown(expected)}, got {messages.shown(got)}"


def _of_result(dispatch: Dispatch, ack: Ack, result: Result) -> Iterator[Contradiction]:
    if result.by != ack.by:
        yield "result.by", f"{ack.by} acknowledged this dispatch: only it may send its result"
    problem = messages.recorded_result_problem(dispatch, result)
    if problem is not None:
        yield "result", problem
    elif outside := messages.paths_outside(dispatch.scope, result):
        yield "result", f"it touches paths outside the scope {list(dispatch.scope)}: {', '.join(outside[:5])}"


def _of_verdict(dispatch: Dispatch, ack: Ack, result: Result, verdict: Verdict) -> Iterator[Contradiction]:
    if identities(ack.by, ack.on_behalf_of) & identities(verdict.by, verdict.on_behalf_of):
        yield "verdict.by", f"{verdict.by} executed this attempt, or had it done: it cannot review it"
    problem = messages.recorded_verdict_problem(dispatch, result.work_log, verdict)
    if problem is not None:
        yield "verdict", problem
