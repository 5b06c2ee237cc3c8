"""Figures against the targets: each module measures one promise, as ratios inside one run. `python -m benchmarks`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One figure.

    Args:
        name: what was measured, in a few words.
        value: the figure, in `unit`.
        compared_to: what it stands against in the same run, empty where it stands alone.
        ratio: `value` over the figure of `compared_to`; None where it stands alone.
        target: what is asked, as people write it: ``>= 0.5``; empty where the figure is for information.
        ok: whether the target is met; None where there is none.
    """

    name: str
    value: float
    unit: str
    compared_to: str = ""
    ratio: float | None = None
    target: str = ""
    ok: bool | None = None


def at_least(name: str, value: float, unit: str, compared_to: str, ratio: float, target: float) -> Row:
    """A figure whose ratio must reach `target`."""
    return Row(name, value, unit, compared_to, ratio, f">= {target:g}", ratio >= target)


def at_most(name: str, value: float, unit: str, compared_to: str, ratio: float, target: float) -> Row:
    """A figure whose ratio must not pass `target`."""
    return Row(name, value, unit, compared_to, ratio, f"<= {target:g}", ratio <= target)


def for_information(name: str, value: float, unit: str, compared_to: str = "", ratio: float | None = None) -> Row:
    """A figure without a target."""
    return Row(name, value, unit, compared_to, ratio)
