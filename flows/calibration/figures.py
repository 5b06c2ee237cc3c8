"""The figures of a calibration: shares of small counts, with their intervals. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

Z_95: Final = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Judged:
    """What became of one case. `decision` is null where the reviewer gave no verdict that the rules take."""

    name: str
    shown_as: str
    is_good: bool
    defect: str
    decision: str | None
    says_something: bool
    issues: int
    seconds: float
    summary: str
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Share:
    """`count` of `of`, and between what the true share lies with 95 % confidence; null where nothing was counted."""

    count: int
    of: int
    rate: float | None
    low: float | None
    high: float | None


def share(flags: Iterable[bool]) -> Share:
    """How many of them are true, with Wilson's score interval (Wilson 1927): it holds for few cases and near 0, too."""
    all_ = list(flags)
    n, k = len(all_), sum(all_)
    if n == 0:
        return Share(0, 0, None, None, None)
    p, z2 = k / n, Z_95 * Z_95
    middle = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return Share(k, n, p, 0.0 if k == 0 else middle - half, 1.0 if k == n else middle + half)


@dataclass(frozen=True, slots=True)
class Calibration:
    """How a reviewer did.

    Args:
        miss: bad work that it approved, of the bad work that it judged.
        false_block: good work that it rejected, of the good work that it judged.
        rubber_stamp: approvals that say nothing about the work (no criterion, operation or file is named), of all.
        unanswered: cases without a verdict that the rules take, of all. Nothing passes the gate by that.
        irrespective: whether it decided all alike, good and bad.
        told_apart: whether it approves good work more often than bad: the intervals of both shares do not meet.
    """

    miss: Share
    false_block: Share
    rubber_stamp: Share
    unanswered: Share
    irrespective: bool
    told_apart: bool

    def plain(self) -> dict[str, Any]:
        return asdict(self)

    def measures(self) -> dict[str, float]:
        """The rates that were measured, by name, as thresholds name them."""
        shares = {"miss": self.miss, "false_block": self.false_block, "rubber_stamp": self.rubber_stamp}
        rates = {name: one.rate for name, one in {**shares, "unanswered": self.unanswered}.items()}
        return {name: rate for name, rate in rates.items() if rate is not None}


def calibrated(judged: Sequence[Judged]) -> Calibration:
    """The figures of all cases."""
    answered = [one for one in judged if one.decision is not None]
    good = [one.decision == "approve" for one in answered if one.is_good]
    bad = [one.decision == "approve" for one in answered if not one.is_good]
    on_good, on_bad = share(good), share(bad)
    return Calibration(
        miss=on_bad,
        false_block=share(not approved for approved in good),
        rubber_stamp=share(not one.says_something for one in answered if one.decision == "approve"),
        unanswered=share(one.decision is None for one in judged),
        irrespective=bool(good) and bool(bad) and len({*good, *bad}) == 1,
        told_apart=(on_good.low or 0.0) > (1.0 if on_bad.high is None else on_bad.high),
    )


def by_defect(judged: Sequence[Judged]) -> dict[str, Share]:
    """For each kind of seeded defect the share that was missed."""
    kinds = sorted({one.defect for one in judged if one.defect})
    return {
        kind: share(one.decision == "approve" for one in judged if one.defect == kind and one.decision is not None)
        for kind in kinds
    }
