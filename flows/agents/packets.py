"""A review's job that is too large to be read at once, in packets: all of it is in one, and an index says where."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import orjson

INDEX: Final = "index.json"
_KEPT: Final = ("kind", "task_id", "title", "correlation_id", "attempt", "options")
_ENVELOPE: Final = 256
"""Bytes that a packet needs around what it holds."""


@dataclass(frozen=True, slots=True)
class Packets:
    """The small job that is handed over instead, and the files that it speaks of."""

    job: bytes
    files: dict[str, bytes]


def in_packets(job: bytes, most_bytes: int, folder: str) -> Packets:
    """Split a job into packets of at most `most_bytes`, which will lie in `folder`.

    A packet holds pieces: `at` is a JSON pointer (RFC 6901) into the whole job, `value` what stands there; a long text
    comes as several pieces with `text`, `part` and `parts`, to be joined.
    """
    whole = orjson.loads(job)
    files: dict[str, bytes] = {}
    listed = []
    for number, pieces in enumerate(_packed(whole, most_bytes - _ENVELOPE), 1):
        name = f"packet-{number:03d}.json"
        files[name] = orjson.dumps({"packet": number, "pieces": pieces})
        listed.append(_line_of(name, files[name], pieces))
    warning = (
        f"this review has {len(job)} bytes, more than {most_bytes}: it lies in {len(listed)} packets in {folder}; "
        "read all of them, nothing was left out"
    )
    index = {"warning": warning, "folder": folder, "bytes": len(job), "most_bytes": most_bytes, "packets": listed}
    files[INDEX] = orjson.dumps(index, option=orjson.OPT_INDENT_2)
    return Packets(_small(whole, index, most_bytes), files)


def _small(whole: dict[str, Any], index: dict[str, Any], most_bytes: int) -> bytes:
    """What is handed over: who and what it is about, what was asked where that is short, and the index."""
    small: dict[str, Any] = {key: whole[key] for key in _KEPT if key in whole}
    for key in ("dispatch", "request_text"):
        if len(orjson.dumps(whole[key])) <= most_bytes // 4:
            small[key] = whole[key]
    small.setdefault("dispatch", {"dispatch_id": whole["dispatch"]["dispatch_id"]})
    return orjson.dumps({**small, "result": None, "packets": index}) + b"\n"


def _line_of(name: str, packet: bytes, pieces: list[dict[str, Any]]) -> dict[str, Any]:
    files = [path for piece in pieces for path in piece.get("files", ())]
    line = {
        "file": name,
        "bytes": len(packet),
        "sha256": hashlib.sha256(packet).hexdigest(),
        "first": pieces[0]["at"],
        "last": pieces[-1]["at"],
    }
    return {**line, "files": files} if files else line


def _packed(whole: dict[str, Any], room: int) -> Iterator[list[dict[str, Any]]]:
    """Pieces, in order, as many together as have room."""
    packet: list[dict[str, Any]] = []
    used = 0
    for piece in _pieces(whole, "", room // 2):
        size = len(orjson.dumps(piece)) + 1
        if packet and used + size > room:
            yield packet
            packet, used = [], 0
        packet.append(piece)
        used += size
    yield packet


def _pieces(value: Any, at: str, room: int) -> Iterator[dict[str, Any]]:
    if len(orjson.dumps(value)) <= room:
        yield {"at": at, "value": value}
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _pieces(inner, f"{at}/{key.replace('~', '~0').replace('/', '~1')}", room)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _pieces(inner, f"{at}/{number}", room)
    else:
        parts = list(_parts(value, room))
        for number, text in enumerate(parts, 1):
            piece = {"at": at, "part": number, "parts": len(parts), "text": text}
            yield {**piece, "files": _files_in(text, room)} if at.endswith("/diff_snapshot/text") else piece


def _files_in(text: str, room: int) -> list[str]:
    """The files whose diffs begin in a piece: a convenience, so it takes little room."""
    heads = [line.split(" ", 2)[2] for line in text.split("\n") if line.startswith("diff --git ")]
    return [head.partition(" b/")[0].removeprefix("a/")[:200] for head in heads[: max(1, room // 1000)]]


def _parts(text: str, room: int) -> Iterator[str]:
    """A text in parts that have room, cut at the ends of lines; where a file's diff begins, if that is near."""
    part: list[str] = []
    used = 0
    for line in _short_lines(text, room // 16):
        size = len(orjson.dumps(line))
        begins_anew = line.startswith("diff --git ") and used > room // 4
        if part and (used + size > room // 2 or begins_anew):
            yield "".join(part)
            part, used = [], 0
        part.append(line)
        used += size
    yield "".join(part)


def _short_lines(text: str, most_characters: int) -> Iterator[str]:
    """The lines with their ends. A long one comes in slices: no character takes more than 8 bytes of JSON."""
    begin = 0
    while begin < len(text):
        newline = text.find("\n", begin, begin + most_characters)
        end = newline + 1 if newline >= 0 else begin + most_characters
        yield text[begin:end]
        begin = end
