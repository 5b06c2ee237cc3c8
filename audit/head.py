"""The log's head as a C2SP checkpoint: what it says, where it is kept, and whether a log is still what it says.

A checkpoint that was kept tells the true log from a rewritten one, also where the chain was computed anew, and from one
whose last lines were cut off.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from audit import files
from audit.event import Corrupt
from audit.files import NotRegular
from audit.keys import PublicKey, strict_base64
from audit.merkle import Frontier, leaf_hash
from audit.note import MOST_NOTE_BYTES, Unproven, open_note

FOLDER: Final = ".checkpoints"
KEPT_WHOLE: Final = 100
"""So many of the newest checkpoints are kept; of older ones the last of each day."""
_DAY_S: Final = 86400
NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,15}")


@dataclass(frozen=True, slots=True)
class Head:
    """The log's head at one moment: which log, how many lines, and the root over them."""

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> str:
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"

    @classmethod
    def of(cls, text: str) -> Head:
        """The head that a checkpoint's text tells. Raises Unproven."""
        lines = text.split("\n")
        root = strict_base64(lines[2]) if len(lines) == 4 else None
        if not lines[0] or root is None or len(root) != 32 or not NUMBER.fullmatch(lines[1]):
            raise Unproven("the note is no checkpoint: origin, size and root are its three lines")
        return cls(lines[0], int(lines[1]), root)


def origin_of(first_line: bytes) -> str:
    """The name of a log, made of its first line: no two logs have the same."""
    return f"kircerta/log-{hashlib.sha256(first_line).hexdigest()[:32]}"


def open_checkpoint(note: bytes, keys: Iterable[PublicKey]) -> tuple[Head, list[PublicKey]]:
    """The head of a checkpoint that a known key signed, and the keys that did. Raises Unproven."""
    origin = note.partition(b"\n")[0].decode(errors="replace")
    text, held = open_note(note, origin, keys)
    return Head.of(text), held


# ------------------------------------------------------------------------------------------------------- kept


class Checkpoints:
    """The kept checkpoints of a workspace, one file each, named by their size.

    Args:
        folder: the workspace's ``audit`` folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / FOLDER

    def sizes(self) -> list[int]:
        names = (path.stem for path in self.folder.glob("*.txt"))
        return sorted(int(name) for name in names if NUMBER.fullmatch(name))

    def load(self, size: int) -> bytes:
        """A kept checkpoint. Raises FileNotFoundError; Corrupt where something else lies there."""
        try:
            return files.read_regular(self.folder / f"{size}.txt", MOST_NOTE_BYTES)[0]
        except NotRegular as error:
            raise Corrupt(f"{self.folder}: {error}") from None

    def latest(self) -> bytes | None:
        sizes = self.sizes()
        return self.load(sizes[-1]) if sizes else None

    def age_s(self, size: int) -> float:
        """Seconds since a checkpoint was kept."""
        return max(0.0, time.time() - (self.folder / f"{size}.txt").stat().st_mtime)

    def keep(self, head: Head, note: bytes) -> None:
        files.keep_durably(self.folder, f"{head.size}.txt", note)
        self._thin_out()

    def _thin_out(self) -> None:
        """A later checkpoint vouches for all before it: older ones only tell when something was still right."""
        days: dict[int, int] = {}
        for size in self.sizes()[:-KEPT_WHOLE]:
            path = self.folder / f"{size}.txt"
            with suppress(OSError):
                day = int(path.stat().st_mtime // _DAY_S)
                if (before := days.get(day)) is not None:
                    os.unlink(self.folder / f"{before}.txt")
                days[day] = size


# --------------------------------------------------------------------------------------------------- checking


class HeadCheck:
    """Compares a log, line by line, with heads that were signed before. `problems` names those that it contradicts."""

    def __init__(self, heads: Sequence[tuple[str, Head]]) -> None:
        self._expected: dict[int, list[tuple[str, Head]]] = {}
        for name, head in heads:
            self._expected.setdefault(head.size, []).append((name, head))
        self._frontier = Frontier()
        self._waiting: list[bytes] = []
        self._size = 0
        self._origin: str | None = None
        self.problems: list[str] = []

    def begin(self, frontier: Frontier) -> None:
        """Go on behind lines that were looked at before."""
        self._frontier, self._size = frontier, frontier.size
        self._compare()

    @property
    def frontier(self) -> Frontier:
        self._fold()
        return self._frontier

    def _fold(self) -> None:
        self._frontier, self._waiting = self._frontier.grown(self._waiting), []

    def look(self, line: bytes, body: object = None) -> None:
        if self._size == 0:
            self._origin = origin_of(line)
        self._waiting.append(leaf_hash(line))
        self._size += 1
        if len(self._waiting) >= 1024 or self._size in self._expected:
            self._compare()

    def _compare(self) -> None:
        for name, head in self._expected.pop(self._size, ()):
            if head.root != self.frontier.root:
                self.problems.append(
                    f"the log was rewritten: its first {head.size} lines are not those of checkpoint {name}"
                )
            elif self._origin is not None and head.origin != self._origin:
                self.problems.append(f"checkpoint {name} is of {head.origin}, and this log is {self._origin}")
        self._fold()

    def end(self) -> None:
        """The log has no more lines."""
        for size, heads in sorted(self._expected.items()):
            self.problems += [
                f"the log was cut: it has {self._size} lines, and checkpoint {name} vouches for {size}"
                for name, _ in heads
            ]
        self._expected.clear()
