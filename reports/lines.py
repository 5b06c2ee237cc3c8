"""The log's complete lines as Arrow tables, a chunk at a time. Reads files only; a torn tail is no line yet.

Arrow's JSON reader takes a million lines in a few seconds, where one Python object per line takes ten. It wants every
field to be of one type, so what breaks that (a line that was tampered with, an older version's field) is read again
slowly: lines that are no event are left out and counted, fields of another type are null.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import orjson
import pyarrow as pa
import pyarrow.json as pj

from audit.event import Corrupt
from audit.segments import open_segment, segments
from ssot.blobs import Blobs

CHUNK_BYTES: Final = 64 * 1024 * 1024
_BLOCK_BYTES: Final = 4 * 1024 * 1024
TIME: Final = pa.timestamp("us", tz="UTC")
_MOMENT: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?Z", re.ASCII)


@dataclass(slots=True)
class Lines:
    """The log of a workspace, and what could not be read of it so far."""

    home: Path
    unreadable: int = 0
    """Complete lines that are no event."""
    torn_bytes: int = 0
    """What stands behind the last newline: the remains of a crash, or a line that is just being written."""
    _blobs: Blobs = field(init=False)

    def __post_init__(self) -> None:
        self._blobs = Blobs(self.home / "ssot" / "blobs")

    def chunks(self) -> Iterator[bytes]:
        """Complete lines, many at a time, in order, from all segments."""
        folder = self.home / "audit"
        for first, _ in segments(folder) if folder.is_dir() else ():
            fd = open_segment(folder, first)
            try:
                yield from self._chunks_of(fd)
            finally:
                os.close(fd)

    def _chunks_of(self, fd: int) -> Iterator[bytes]:
        rest = b""
        while data := os.read(fd, CHUNK_BYTES):
            whole = data.rfind(b"\n") + 1
            if whole:
                yield rest + data[:whole]
                rest = data[whole:]
            else:
                rest += data
        self.torn_bytes = len(rest)

    def events(self, *types: str) -> Iterator[dict[str, Any]]:
        """The events of some types as plain objects; lines of other types are not parsed."""
        needles = [b'"type":' + orjson.dumps(name) + b"," for name in types]
        for chunk in self.chunks():
            for line in chunk.split(b"\n"):
                if any(needle in line for needle in needles):
                    event = self._parsed(line)
                    if event is not None and event["type"] in types:
                        yield event

    def tables(self, schema: pa.Schema) -> Iterator[pa.Table]:
        """The lines as tables of this schema; other fields are left out."""
        for chunk in self.chunks():
            if b'"in_blob"' in chunk:
                yield self._slowly(chunk, schema)
                continue
            try:
                yield _table(chunk, schema)
            except pa.ArrowInvalid:
                yield self._slowly(chunk, schema)

    def _slowly(self, chunk: bytes, schema: pa.Schema) -> pa.Table:
        found = []
        for line in chunk.split(b"\n"):
            event = self._parsed(line) if line else None
            if event is not None:
                found.append({part.name: fitted(event.get(part.name), part.type) for part in schema})
        return pa.Table.from_pylist(found, schema=schema)

    def _parsed(self, line: bytes) -> dict[str, Any] | None:
        """An event with what did not fit its line put back; None (and counted) where the line is none."""
        try:
            event = orjson.loads(line)
            data = event["data"]
            whole = isinstance(event["seq"], int) and isinstance(event["type"], str) and _is_moment(event["time"])
        except (orjson.JSONDecodeError, KeyError, TypeError):
            whole = False
        if not whole or not isinstance(data, dict):
            self.unreadable += 1
            return None
        if "in_blob" in data:
            event["data"] = {**data, **self._blob(data.get("blob"))}
        assert isinstance(event, dict)
        return event

    def _blob(self, name: Any) -> dict[str, Any]:
        """A part of an event that was too long for its line; nothing where the blob is gone."""
        try:
            raw = self._blobs.load(str(name))
            found = orjson.loads(raw) if raw is not None else {}
        except (Corrupt, orjson.JSONDecodeError):
            found = {}
        return found if isinstance(found, dict) else {}


def _is_moment(told: Any) -> bool:
    """Whether Arrow reads it as a time, too: in the form that the log's writer gives it, and a day that there is."""
    try:
        return bool(_MOMENT.fullmatch(told)) and datetime.fromisoformat(told).year > 0
    except ValueError:
        return False


def _table(chunk: bytes, schema: pa.Schema) -> pa.Table:
    table = pj.read_json(
        pa.BufferReader(chunk),
        read_options=pj.ReadOptions(block_size=_BLOCK_BYTES),
        parse_options=pj.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
    )
    table.validate(full=True)
    table["time"].cast(TIME)
    if any(table[name].null_count for name in ("seq", "type", "time")):
        raise pa.ArrowInvalid("a line lacks what every event has")
    return table


def fitted(value: Any, kind: pa.DataType) -> Any:
    """A JSON value as this type takes it; None where it is of another."""
    if isinstance(value, dict) and pa.types.is_struct(kind):
        return {part.name: fitted(value.get(part.name), part.type) for part in kind}
    if isinstance(value, list) and pa.types.is_list(kind):
        return [fitted(one, kind.value_type) for one in value]
    fits = {
        pa.types.is_string: isinstance(value, str),
        pa.types.is_boolean: isinstance(value, bool),
        pa.types.is_integer: isinstance(value, int) and not isinstance(value, bool),
        pa.types.is_floating: isinstance(value, int | float) and not isinstance(value, bool),
    }
    return value if any(fits[test] for test in fits if test(kind)) else None
