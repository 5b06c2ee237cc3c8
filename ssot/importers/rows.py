"""Reads JSON rows, line by line or as one document, each as far as it is sound; what is not is a problem with
its line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ssot import strict_json
from ssot.importers import source
from ssot.importers.draft import Gathering

MAX_ROWS = 100_000
_CONFLICT = re.compile(rb"(<{7}|={7}|>{7}|\|{7})(?:[ \t]|\Z)")


def json_lines(path: Path, name: str, gathering: Gathering) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a JSONL file with their line numbers."""
    try:
        raw = source.content(path)
    except source.Unreadable as error:
        gathering.problem(name, error.line, str(error))
        return
    yield from objects(raw, name, gathering)


def objects(raw: bytes, name: str, gathering: Gathering) -> Iterator[tuple[int, dict[str, Any]]]:
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        gathering.problem(name, 1, "not UTF-8 (it looks like UTF-16); save it as UTF-8")
        return
    found = 0
    for line, row in enumerate(raw.split(b"\n"), 1):
        row = row.strip(b" \t\r")
        if not row:
            continue
        found += 1
        if found > MAX_ROWS:
            gathering.problem(name, line, f"more than {MAX_ROWS} rows; the rest was not read")
            return
        if _CONFLICT.match(row):
            gathering.problem(name, line, f"a merge conflict marker: {row[:80].decode('utf-8', 'replace')}")
            continue
        try:
            value = strict_json.loads(row)
        except ValueError as error:
            gathering.problem(name, line, str(error))
            continue
        if not isinstance(value, dict):
            gathering.problem(name, line, "not a JSON object")
            continue
        yield line, value


def word(value: dict[str, Any], name: str) -> str | None:
    """A field as text, None where it is absent, empty or something else; a number counts as its digits."""
    found = value.get(name)
    if isinstance(found, int) and not isinstance(found, bool):
        return str(found)
    return found if isinstance(found, str) and found.strip() else None
