"""Checks the whole log: every line of every segment, from the first to the last."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from audit.event import GENESIS
from audit.segments import ACTIVE, closed_segments, open_file

_CHUNK: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Verified:
    """What `verify` found. `problem` is None when the chain holds from the first line to the last."""

    events: int
    bytes: int
    segments: int
    last_seq: int
    head: str
    problem: str | None = None
    torn_bytes: int = 0


Look = Callable[[bytes, Any], None]
"""Looks at one line, given as its exact bytes and as the object that they say."""


def verify(
    folder: Path, progress: Callable[[int], None] = lambda count: None, *, also: Sequence[Look] = ()
) -> Verified:
    """Check every line of every segment: JSON, gapless seq, time never decreasing, and the hash chain.

    A torn tail (bytes behind the last newline) is told apart: it is what a crash leaves, and was never acknowledged.
    `also` are handed each line that continues the chain.
    """
    state = _Chain(also)
    checked: list[int] = []
    while True:
        active = _open_active(folder)  # before the look at the closed ones: a rotation in between shows there
        closed = [first for first in closed_segments(folder) if first not in checked]
        if not closed:
            break
        if active >= 0:
            os.close(active)
        for first in closed:
            name = f"events-{first}.jsonl"
            checked.append(first)
            if not state.check_file(open_file(folder / name), name, progress, last=False):
                return state.verdict(len(checked))
    count = len(checked)
    if active >= 0:
        count += os.fstat(active).st_size > 0
        state.check_file(active, ACTIVE, progress, last=True)
    return state.verdict(count)


def _open_active(folder: Path) -> int:
    try:
        return open_file(folder / ACTIVE)
    except FileNotFoundError:
        return -1


class _Chain:
    """The running state of a verification."""

    def __init__(self, also: Sequence[Look] = ()) -> None:
        self._also = also
        self.seq, self.digest, self.time = 0, GENESIS, ""
        self.events = self.bytes = self.torn = 0
        self.problem: str | None = None

    def verdict(self, segment_count: int) -> Verified:
        return Verified(self.events, self.bytes, segment_count, self.seq, self.digest, self.problem, self.torn)

    def check_file(self, fd: int, name: str, progress: Callable[[int], None], *, last: bool) -> bool:
        """Check one file's lines, and close it. False when something is wrong."""
        rest = b""
        with open(fd, "rb") as file:
            while chunk := file.read(_CHUNK):
                lines = (rest + chunk).split(b"\n")
                rest = lines.pop()
                for line in lines:
                    self._check_line(line, name)
                    if self.problem:
                        return False
                progress(self.events)
        if rest and last:
            self.torn = len(rest)
        elif rest:
            self.problem = f"{name} ends in the middle of a line behind seq {self.seq}"
        return self.problem is None

    def _check_line(self, line: bytes, name: str) -> None:
        try:
            body = orjson.loads(line)
            seq, prev, moment = body["seq"], body["prev"], str(body["time"])
        except (orjson.JSONDecodeError, KeyError, TypeError):
            self.problem = f"{name}: the line behind seq {self.seq} is no event"
            return
        if seq != self.seq + 1:
            self.problem = f"{name}: seq {seq} follows seq {self.seq}"
        elif prev != self.digest:
            self.problem = f"{name}: seq {seq} does not continue seq {self.seq}: a line was changed, added or removed"
        elif moment < self.time:
            self.problem = f"{name}: time goes back at seq {seq}"
        self.seq, self.time = seq, moment
        self.digest = "sha256:" + hashlib.sha256(line).hexdigest()
        self.events += 1
        self.bytes += len(line) + 1
        if self.problem is None:
            for look in self._also:
                look(line, body)
