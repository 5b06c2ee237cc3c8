"""Prices in whole cents."""

from __future__ import annotations


def reduced(cents: int, percent: int) -> int:
    """A price reduced by so many per cent; half a cent is rounded up."""
    return cents * (100 - percent) // 100
