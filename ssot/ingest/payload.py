"""Careful steps into a payload that somebody else made: a value of the expected type, or a clear refusal."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from ssot.ingest.delivery import BadPayload
from ssot.task import Criterion

MAX_TITLE: Final = 1000


def inside(payload: Any, *path: str) -> Any:
    """The value at a path of keys; None where there is none."""
    for key in path:
        payload = payload.get(key) if isinstance(payload, dict) else None
    return payload


def text(payload: Any, *path: str) -> str | None:
    """The text at a path; None where there is none, or something else."""
    found = inside(payload, *path)
    return found if isinstance(found, str) else None


def needed_text(payload: Any, *path: str) -> str:
    """The text at a path. Raises BadPayload."""
    found = text(payload, *path)
    if not found:
        raise BadPayload(f"{'.'.join(path)}: a text is expected")
    return found


def whole(payload: Any, *path: str) -> int | None:
    """The whole number at a path; None where there is none."""
    found = inside(payload, *path)
    return found if isinstance(found, int) and not isinstance(found, bool) else None


def needed_whole(payload: Any, *path: str, least: int | None = None) -> int:
    """The whole number at a path. Raises BadPayload."""
    found = whole(payload, *path)
    if found is None or (least is not None and found < least):
        raise BadPayload(f"{'.'.join(path)}: a whole number is expected" + (f", at least {least}" if least else ""))
    return found


def one_line(told: str, longest: int = MAX_TITLE) -> str:
    """A text as one printable line; empty where nothing of it can be shown."""
    line = " ".join("".join(char if char.isprintable() or char == "\u200d" else " " for char in told).split())
    return line if len(line) <= longest else line[: longest - 1].rstrip() + "…"


def moment(told: Any) -> str | None:
    """A time as RFC 3339 in UTC with microseconds; None where it is none. Any offset and number of digits is read."""
    if not isinstance(told, str):
        return None
    try:
        found = datetime.fromisoformat(told)
        if found.tzinfo is None:
            return None
        utc = found.astimezone(UTC)  # strftime writes years before 1000 without their zeros
        return utc.strftime("%Y-%m-%dT%H:%M:%S.%fZ") if utc.year >= 1000 else None
    except (ValueError, OverflowError):
        return None


def moment_of_seconds(told: Any) -> str | None:
    """Unix seconds as RFC 3339; None where they are none."""
    if not isinstance(told, int) or isinstance(told, bool) or not 0 <= told < 253402300800:
        return None
    return datetime.fromtimestamp(told, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def criteria(texts: list[str]) -> tuple[Criterion, ...]:
    """Criteria with ids in order, out of the texts that say something."""
    said = [one for one in texts if one.strip()]
    return tuple(Criterion(id=f"AC-{number}", text=one) for number, one in enumerate(said, 1))
