"""Expressions such as ``read_p95<200``: parsed strictly, judged on what was measured. Pure."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from flows.load.plan import Plan
from ssot.runs import Bound

_SHAPE: Final = re.compile(r"\s*([a-z][a-z0-9_]*)\s*(<=|>=|==|!=|<|>)\s*(-?\d{1,12}(?:\.\d{1,6})?)\s*", re.ASCII)
_OPERATORS: Final[dict[str, Callable[[float, float], bool]]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
_OPERATIONS: Final = ("read", "write", "stream", "flood", "calibration")
_PHASES: Final = ("before", "during", "after")
_STATISTICS: Final = (
    "p50",
    "p95",
    "p99",
    "max",
    "service_p50",
    "service_p95",
    "service_p99",
    "service_max",
    "count",
    "errors",
    "error_rate",
)
SPECIAL: Final[dict[str, str]] = {
    "stream_silence_max": "the longest time that any stream showed nothing, in seconds",
    "stream_gaps": "events that a stream missed",
    "stream_repeats": "events that a stream showed twice",
    "stream_disconnections": "how often a stream was cut off",
    "alarms_missing": "provoked alarms that are not in the log",
    "lost_decisions": "decisions that were acknowledged and are not in the log",
    "chaos_problems": "promises that did not hold after chaos",
    "flood_accepted": "deliveries with a bad signature that were taken",
    "rss_slope_low": "growth of the server's memory, lower end of its interval, MiB an hour",
    "fds_slope_low": "growth of the server's open files, lower end of its interval, an hour",
    "loop_lag_max": "the worst lag of the server's event loop, in ms",
}
_NEVER_BROKEN: Final = frozenset({"stream_gaps", "stream_repeats", "lost_decisions", "chaos_problems"})
GATES: Final[dict[str, str]] = {
    "generator_cpu": "the generator's share of one core",
    "dispatch_lag_p99": "how late the generator itself was, in ms",
    "achieved": "arrivals that the generator sent, or could not send because the server was late, of those planned",
    "foreign_cpu": "share of the machine that others used, or that was stolen",
}
DEFAULT_GATES: Final = ("generator_cpu<=0.7", "dispatch_lag_p99<=10", "achieved>=0.99", "foreign_cpu<=0.1")
"""Where one of these does not hold, the generator or its machine was measured, not the server: INVALID."""


class BadExpression(ValueError):
    """No expression, or about something that is not measured."""


@dataclass(frozen=True, slots=True)
class Expression:
    """A measure, how it is compared, and with what."""

    measure: str
    sign: str
    limit: float

    def __str__(self) -> str:
        return f"{self.measure}{self.sign}{self.limit:g}"

    def judge(self, measured: Mapping[str, float]) -> Bound:
        """Whether it holds. What was not measured does not hold."""
        value = measured.get(self.measure)
        ok = value is not None and _OPERATORS[self.sign](value, self.limit)
        return Bound(expression=str(self), value=None if value is None else round(value, 6), ok=ok)


def measured_by(plan: Plan) -> Callable[[str], bool]:
    """Whether a run of this plan measures something: its settings' thresholds about anything else are passed by.

    While servers are killed nobody promises times: of chaos only what must never break is asked by itself.
    """
    if plan.kind == "chaos":
        return lambda measure: measure in _NEVER_BROKEN
    absent = [
        prefix
        for prefix, there in (
            ("read_", plan.readers),
            ("write_", plan.deciders),
            ("lost_", plan.deciders),
            ("stream_", plan.streams),
            ("flood_", plan.flooders),
            ("alarms_", plan.alarms),
            ("chaos_", False),
        )
        if not there
    ]
    return lambda measure: not measure.startswith(tuple(absent))


def catalogue() -> frozenset[str]:
    """Everything that a threshold may be about."""
    names = {f"{of}_{statistic}" for of in _OPERATIONS for statistic in _STATISTICS}
    names |= {f"{of}_{phase}_{statistic}" for of in ("read",) for phase in _PHASES for statistic in _STATISTICS}
    return frozenset(names | set(SPECIAL))


def parse(text: str, known: Iterable[str]) -> Expression:
    """One expression. Raises BadExpression."""
    found = _SHAPE.fullmatch(text)
    if found is None:
        raise BadExpression(f"{text!r:.100} is no expression: a measure, < <= > >= == or !=, a number: read_p95<200")
    if found[1] not in known:
        raise BadExpression(f"{found[1]} is not measured; there are {', '.join(sorted(known)[:12])} …")
    return Expression(found[1], found[2], float(found[3]))


def parse_list(text: str, known: Iterable[str]) -> tuple[Expression, ...]:
    """Comma-separated expressions. Raises BadExpression."""
    return tuple(parse(part, known) for part in text.split(",") if part.strip())


def laid_over(first: Iterable[Expression], then: Iterable[Expression]) -> tuple[Expression, ...]:
    """The expressions of `first`, but for measures of which `then` speaks: there its own count, all of them."""
    later = tuple(then)
    named = {one.measure for one in later}
    return (*(one for one in first if one.measure not in named), *later)
