"""Query parameters, read strictly: an unknown, doubled or unusable one is named in the refusal."""

from __future__ import annotations

import re
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Final
from urllib.parse import parse_qsl

from api.problems import Problem

_RFC3339: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)", re.ASCII | re.IGNORECASE)
_MAX_FIELDS: Final = 50


def query_parameters(raw: bytes, known: Collection[str]) -> dict[str, str]:
    """The parameters of a query string. Raises Problem (invalid_query)."""
    try:
        pairs = parse_qsl(raw.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_MAX_FIELDS)
    except ValueError:
        raise unusable("the query string", "is not URL-encoded UTF-8") from None
    found: dict[str, str] = {}
    for name, value in pairs:
        if name not in known:
            raise unusable(name, f"is not known here; known are {', '.join(sorted(known))}")
        if name in found:
            raise unusable(name, "stands twice")
        if "\x00" in value or len(value) > 1000:
            raise unusable(name, "has at most 1000 characters and no NUL")
        found[name] = value
    return found


def unusable(name: str, reason: str) -> Problem:
    """A parameter that cannot be used, and why."""
    name = name[:100]
    return Problem("invalid_query", f"{name} {reason}", facts={"parameter": name})


def one_of(found: dict[str, str], name: str, choices: Collection[str]) -> str | None:
    value = found.get(name)
    if value is not None and value not in choices:
        raise unusable(name, f"is one of {', '.join(choices)}")
    return value


def whole_number(found: dict[str, str], name: str, *, default: int, least: int, most: int) -> int:
    """A number within bounds. Digits only: no sign, no blanks, no other script's digits."""
    value = found.get(name)
    if value is None:
        return default
    if not re.fullmatch(r"[0-9]{1,16}", value) or not least <= int(value) <= most:
        raise unusable(name, f"is a whole number from {least} to {most}")
    return int(value)


def moment(found: dict[str, str], name: str) -> str | None:
    """An RFC 3339 time as the log writes it: UTC with microseconds; text order is time order."""
    value = found.get(name)
    if value is None:
        return None
    try:
        if not _RFC3339.fullmatch(value):
            raise ValueError(value)
        return datetime.fromisoformat(value.upper()).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    except (ValueError, OverflowError):
        raise unusable(name, "is an RFC 3339 time, e.g. 2026-01-31T09:00:00Z (+ is written %2B)") from None
