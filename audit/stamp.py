"""The only clock and the only source of ids: everything else is handed a `Stamp`."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta


def rfc3339(seconds: float) -> str:
    """Unix seconds as RFC 3339 UTC with microseconds, e.g. ``2026-01-31T09:00:00.000000Z`` (27 characters)."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def seconds_of(timestamp: str) -> float:
    """Unix seconds of an RFC 3339 timestamp. Raises ValueError when it is none or has no UTC offset."""
    moment = datetime.fromisoformat(timestamp)
    if moment.tzinfo is None:
        raise ValueError(f"{timestamp!r} has no UTC offset")
    return moment.timestamp()


def later(timestamp: str, seconds: float) -> str:
    """The timestamp `seconds` after another one."""
    return (datetime.fromisoformat(timestamp) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def random_id(prefix: str) -> str:
    """A fresh id such as ``d-018f6a0c3b2e9d41a7c05e6f``: sorts by creation second, 64 random bits."""
    return f"{prefix}-{int(time.time()):08x}{secrets.token_hex(8)}"


@dataclass(frozen=True, slots=True)
class Clock:
    """Where time and ids come from. Tests pass their own two functions."""

    seconds: Callable[[], float] = time.time
    new_id: Callable[[str], str] = random_id

    def stamp(self, not_before: str = "") -> Stamp:
        """The moment of one commit. A clock that jumped back is held at `not_before`, so that time never decreases."""
        return Stamp(now=max(rfc3339(self.seconds()), not_before), new_id=self.new_id)


@dataclass(frozen=True, slots=True)
class Stamp:
    """One moment and the ids made in it, as the rules see them."""

    now: str
    new_id: Callable[[str], str]
