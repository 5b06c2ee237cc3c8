"""Says how many of something there are, for people. Pure."""

from __future__ import annotations


def counted(number: int, one: str, many: str = "") -> str:
    """``1 event``, ``1,234 events``. `many` is the plural where it is not `one` with an s, or where a verb follows."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
