"""Strict JSON for everything that comes from outside: what two parsers could read differently is refused."""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

import orjson

MAX_DEPTH = 64
MAX_SAFE_INTEGER = 2**53
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_BRACKET = re.compile(rb"[\[\]{}]")


class NotStrictJSON(ValueError):
    """The text is not JSON, or is JSON that RFC 8259 readers may understand differently."""


def loads(raw: bytes) -> Any:
    """Parse UTF-8 JSON bytes into plain Python values.

    Refuses what RFC 8259 leaves open and RFC 7493 (I-JSON) forbids: NaN and infinities, integers beyond
    2^53, lone surrogates, duplicate keys, a byte order mark, and nesting deeper than 64.

    Raises:
        NotStrictJSON: with a message for the sender; it names the offending key, number or position.
    """
    try:
        orjson.loads(raw)  # UTF-8, grammar, lone surrogates, NaN: checked in one fast pass
    except orjson.JSONDecodeError as error:
        raise NotStrictJSON(f"not valid JSON: {error}") from None
    _check_depth(raw)  # only now: on a string that never ends its pattern would take quadratic time
    try:
        return json.loads(
            raw,
            object_pairs_hook=_unique_keys,
            parse_int=_safe_integer,
            parse_float=_finite,
            parse_constant=_no_constant,
        )
    except NotStrictJSON:
        raise
    except (ValueError, RecursionError) as error:
        raise NotStrictJSON(f"not valid JSON: {error}") from None


def _check_depth(raw: bytes) -> None:
    if raw.count(b"[") + raw.count(b"{") <= MAX_DEPTH:
        return
    depth = 0
    for bracket in _BRACKET.findall(_STRING.sub(b"", raw)):
        depth += 1 if bracket in b"[{" else -1
        if depth > MAX_DEPTH:
            raise NotStrictJSON(f"nested deeper than {MAX_DEPTH} levels")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise NotStrictJSON(f"the key {twice[:80]!r} stands twice in one object")
    return found


def _safe_integer(text: str) -> int:
    if len(text) > 17 or abs(number := int(text)) > MAX_SAFE_INTEGER:
        raise NotStrictJSON(f"the integer {text[:40]} is beyond 2^53")
    return number


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise NotStrictJSON(f"the number {text[:40]} is too large")
    return number


def _no_constant(text: str) -> NoReturn:
    raise NotStrictJSON(f"{text} is not a JSON number")
