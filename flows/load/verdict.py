"""What a run's figures mean: pass, fail, or invalid where the generator or its machine was the bottleneck. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flows.load.thresholds import Expression
from ssot.runs import Bound, Outcome


def judged(expressions: Sequence[Expression], measured: Mapping[str, float]) -> tuple[Bound, ...]:
    """Each expression with what was measured."""
    return tuple(one.judge(measured) for one in expressions)


def outcome_of(thresholds: Sequence[Bound], gates: Sequence[Bound]) -> Outcome:
    """A gate comes first: figures that are not the server's cannot break its thresholds, nor hold them."""
    if not all(gate.ok for gate in gates):
        return "invalid"
    return "pass" if all(threshold.ok for threshold in thresholds) else "fail"
