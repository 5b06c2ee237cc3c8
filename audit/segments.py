"""The files of the log: closed segments named by their first seq, the active one, and where lines begin in them."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from audit.event import decode

ACTIVE: Final = "events.jsonl"


def segments(folder: Path) -> list[tuple[int, Path]]:
    """The log's files in order, each with the seq of its first line; the active one last. Empty ones are left out.

    A rotation may rename the active one at any moment: open them with `open_segment`.
    """
    active = folder / ACTIVE
    while True:
        first = first_seq(active)
        found = [(number, folder / f"events-{number}.jsonl") for number in closed_segments(folder)]
        if first is None:
            return found
        if all(number != first for number, _ in found):  # else it was renamed between the two looks
            return [*found, (first, active)]


def open_segment(folder: Path, first: int) -> int:
    """A descriptor for the segment that begins with this seq, under whichever name it stands now."""
    closed = folder / f"events-{first}.jsonl"
    for path in (closed, folder / ACTIVE, closed):
        with suppress(FileNotFoundError):
            fd = open_file(path)
            if path is closed or seq_at_begin(fd) == first:
                return fd
            os.close(fd)
    raise FileNotFoundError(f"{closed} does not exist")


def first_seq(path: Path) -> int | None:
    """The seq that a file begins with; None where there is no file, or no complete line in it."""
    try:
        fd = open_file(path)
    except FileNotFoundError:
        return None
    try:
        return seq_at_begin(fd)
    finally:
        os.close(fd)


def seq_at_begin(fd: int) -> int | None:
    """The seq of the first line; None where there is none yet."""
    line = line_at(fd, 0)
    return decode(line).seq if line is not None else None


def open_file(path: Path) -> int:
    """A descriptor for reading. Never blocks on a FIFO, never follows a symlink. Raises OSError."""
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)


def line_at(fd: int, offset: int) -> bytes | None:
    """The complete line that starts at `offset`, without its newline; None where there is none."""
    data = b""
    while (end := data.find(b"\n")) < 0:
        chunk = os.pread(fd, 64 * 1024, offset + len(data))
        if not chunk:
            return None
        data += chunk
    return data[:end]


def offset_after(fd: int, seq: int) -> int:
    """Where the line after `seq` begins: bisected, since lines stand in order of their seq."""
    low, high = 0, os.fstat(fd).st_size
    while low < high:
        middle = (low + high) // 2
        start = line_start(fd, middle)
        line = line_at(fd, start)
        if line is None:
            high = start if start < high else middle
        elif decode(line).seq <= seq:
            low = start + len(line) + 1
        else:
            high = start
    return low


def line_start(fd: int, offset: int) -> int:
    """Where the line that holds the byte at `offset` begins."""
    end = offset
    while end > 0:
        begin = max(0, end - 4096)
        newline = os.pread(fd, end - begin, begin).rfind(b"\n")
        if newline >= 0:
            return begin + newline + 1
        end = begin
    return 0


def closed_segments(folder: Path) -> list[int]:
    """The first seqs of the closed segments, in order."""
    numbers = (path.stem.removeprefix("events-") for path in folder.glob("events-*.jsonl"))
    return sorted(int(number) for number in numbers if number.isdigit())
