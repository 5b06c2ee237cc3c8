"""Reads the log forward, without a lock: only complete lines that continue the chain count."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson

from audit import files
from audit.event import GENESIS, Corrupt, Event, decode, digest_of
from audit.files import SyncFailed
from audit.segments import ACTIVE, line_at, line_start, offset_after, open_file, open_segment, segments

_CHUNK: Final = 1 << 20


class Rewound(Exception):
    """The log on disk is not a continuation of what was read before: it was replaced, cut or rewritten."""


@dataclass(frozen=True, slots=True)
class Place:
    """A position in the log: the last line taken in, and where the next one begins."""

    seq: int = 0
    digest: str = GENESIS
    time: str = ""


def after(event: Event) -> Place:
    """The place behind a sealed event."""
    return Place(event.seq, event.digest, event.time)


class LogReader:
    """Reads the log forward, line after line, over rotations; checks that each line continues the chain.

    Not thread-safe: its owner guards it. Reading takes no lock: only complete lines count.
    """

    def __init__(self, folder: Path, place: Place | None = None, offset: int = 0, inode: int = 0) -> None:
        self.folder = folder
        self._active = str(folder / ACTIVE)
        self.place = place or Place()
        self.offset = offset
        self.inode = inode
        self._fd = -1
        self._torn = 0  # bytes behind the last newline: not a line yet, or the remains of a crash
        if inode:
            self._reopen(inode)

    @classmethod
    def after(cls, folder: Path, seq: int) -> LogReader:
        """A reader that begins behind `seq`. Raises Rewound when the log has not got that far."""
        reader = cls(folder)
        if seq <= 0:
            return reader
        for first, _ in reversed(segments(folder)):
            if first > seq:
                continue
            fd = open_segment(folder, first)
            offset = offset_after(fd, seq)
            line = line_at(fd, line_start(fd, offset - 1)) if offset else None
            if line is None or (event := decode(line)).seq != seq:
                os.close(fd)
                break
            reader.adopt(fd, offset)
            reader.place = Place(seq, event.digest, event.time)
            return reader
        raise Rewound(f"the log does not reach seq {seq}")

    def close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            with suppress(OSError):  # it was only read
                os.close(fd)

    def restart(self) -> None:
        """Forget what was read: the first line of the log is the next one."""
        self.close()
        self.place, self.offset, self.inode, self._torn = Place(), 0, 0, 0

    def __del__(self) -> None:
        with suppress(Exception):
            self.close()

    def is_current(self) -> bool:
        """Whether everything in the log was taken in: one `stat`, about a microsecond."""
        try:
            status = os.stat(self._active)
        except FileNotFoundError:
            return self._fd < 0 or self.inode == 0
        return status.st_ino == self.inode and status.st_size == self.offset + self._torn

    def is_at_end(self) -> bool:
        """Whether everything was taken in, and its last line is whole."""
        return self._torn == 0 and self._fd >= 0 and self.is_current()

    @property
    def end(self) -> tuple[int, int]:
        """Inode and size of the active file when everything in it was taken in."""
        return self.inode, self.offset + self._torn

    def read(self, limit: int | None = None) -> list[Event]:
        """The complete lines that came since, at most `limit`. Raises Rewound; Corrupt where the chain breaks."""
        found: list[Event] = []
        try:
            while limit is None or len(found) < limit:
                if not self._read_on(found, limit):
                    break
        except OSError:
            if not found:  # else what was taken in is handed over first; the next call fails again
                raise
        return found

    def _read_on(self, found: list[Event], limit: int | None) -> bool:
        """One step: lines of this file, or the change to the next one. False at the log's end."""
        if self._fd < 0:
            return self._open_next()
        if self._take(found, limit):
            return True
        if not self._ended():
            return False
        # what came between the last read and the rotation, else the next file
        return self._take(found, limit) or self._open_next()

    def _take(self, found: list[Event], limit: int | None) -> bool:
        size = os.fstat(self._fd).st_size
        if size < self.offset:
            raise Rewound(f"the log was cut: {size} bytes where {self.offset} were read")
        if size == self.offset:
            self._torn = 0
            return False
        data = os.pread(self._fd, min(size - self.offset, _CHUNK), self.offset)
        whole = data.rfind(b"\n") + 1
        if whole == 0:
            rest = data if len(data) < _CHUNK else self.torn_bytes
            if b"\n" in rest:
                raise Corrupt(f"no line ends within {_CHUNK} bytes behind seq {self.place.seq}")
            self._torn = len(rest)
            return False
        taken = False
        for line in data[: whole - 1].split(b"\n"):
            if limit is not None and len(found) >= limit:
                break
            found.append(self._accept(line))
            taken = True
        self._torn = 0
        return taken

    def _accept(self, line: bytes) -> Event:
        event = decode(line)
        if event.seq != self.place.seq + 1 or event.prev != self.place.digest:
            raise Corrupt(
                f"the log breaks at seq {event.seq}: it does not continue seq {self.place.seq} "
                f"({self.place.digest[:19]}…). `kircerta audit verify` shows where"
            )
        self.advance(event)
        return event

    def advance(self, event: Event) -> None:
        """Count a line as taken in (also those that this process has just written)."""
        self.place = Place(event.seq, event.digest, event.time)
        self.offset += len(event.line) + 1

    def _ended(self) -> bool:
        """Whether the file being read is no longer the active one."""
        try:
            return os.stat(self._active).st_ino != self.inode
        except FileNotFoundError:
            return True

    def _renamed(self) -> bool:
        for first, _ in reversed(segments(self.folder)):
            fd = open_segment(self.folder, first)
            inode = os.fstat(fd).st_ino
            os.close(fd)
            if inode == self.inode:
                return True
        return False

    def _open_next(self) -> bool:
        """Go on with the file that holds the next line. False when there is none yet."""
        following = self.place.seq + 1
        listed = [first for first, _ in segments(self.folder)]
        if following in listed:
            self.adopt(open_segment(self.folder, following), 0)
            return True
        self._check_continues(following, listed)
        with suppress(FileNotFoundError):
            fd = open_file(self.folder / ACTIVE)
            if line_at(fd, 0) is None and not (self.folder / f"events-{following}.jsonl").exists():
                self.adopt(fd, 0)
                return False
            os.close(fd)
        return False

    def _check_continues(self, following: int, listed: list[int]) -> None:
        if self.place.seq and not listed:
            raise Corrupt(f"the log is gone: {self.place.seq} events were read before. Put audit/ back from a copy")
        if listed and listed[-1] > following:
            raise Corrupt(f"the log's segment with seq {following} is missing: another begins with seq {listed[-1]}")
        if self.place.seq and not any(first <= self.place.seq for first in listed):
            raise Rewound(f"the log no longer holds seq {self.place.seq}")
        if self._fd >= 0 and not self._renamed():
            raise Rewound(f"the log was replaced behind seq {self.place.seq}")

    def adopt(self, fd: int, offset: int) -> None:
        """Go on in this file, which the reader closes from now on."""
        self.close()
        self._fd, self.inode, self.offset, self._torn = fd, os.fstat(fd).st_ino, offset, 0

    def _reopen(self, inode: int) -> None:
        """Go on in the file with this inode, at the remembered offset."""
        paths = [self.folder / ACTIVE, *(path for _, path in reversed(segments(self.folder)))]
        for path in paths:
            with suppress(FileNotFoundError):
                fd = open_file(path)
                status = os.fstat(fd)
                if status.st_ino == inode and self._ends_with_place(fd, status.st_size):
                    self._fd = fd
                    return
                os.close(fd)
        raise Rewound(f"the log no longer holds seq {self.place.seq} where it stood")

    def _ends_with_place(self, fd: int, size: int) -> bool:
        if self.offset == 0:
            return True
        if size < self.offset:
            return False
        line = line_at(fd, line_start(fd, self.offset - 1))
        return line is not None and digest_of(line) == self.place.digest

    @property
    def torn_bytes(self) -> bytes:
        """What stands behind the last complete line."""
        if self._fd < 0:
            return b""
        found = b""
        while chunk := os.pread(self._fd, _CHUNK, self.offset + len(found)):
            found += chunk
        return found

    def sync(self) -> None:
        """Make what was read durable. Raises SyncFailed."""
        try:
            files.sync_data(self._fd)
        except OSError as error:
            raise SyncFailed(f"the log could not be synced ({error.strerror}): restart to recover") from None


def read_events(folder: Path, after: int = 0) -> Iterator[Event]:
    """All events behind `after`, in order, from the files as they stand."""
    reader = LogReader.after(folder, after)
    try:
        while batch := reader.read(limit=2048):
            yield from batch
    finally:
        reader.close()


def event_at(folder: Path, seq: int) -> Event | None:
    """The event with this seq, found by bisection; None when there is none."""
    if seq < 1:
        return None
    try:
        reader = LogReader.after(folder, seq - 1)
    except Rewound:
        return None
    try:
        found = reader.read(limit=1)
        return found[0] if found else None
    finally:
        reader.close()


def seq_before(folder: Path, moment: str, last_seq: int) -> int:
    """The seq of the last event before a time (as the log writes it), bisected: time never decreases in the log."""
    low, high = 0, last_seq
    while low < high:
        middle = (low + high + 1) // 2
        event = event_at(folder, middle)
        if event is not None and event.time < moment:
            low = middle
        else:
            high = middle - 1
    return low


def last_event(folder: Path) -> Event | None:
    """The newest complete line; None where the log is empty. Costs a few reads at its end, whatever its size."""
    for first, _ in reversed(segments(folder)):
        fd = open_segment(folder, first)
        try:
            end = line_start(fd, os.fstat(fd).st_size)
            line = line_at(fd, line_start(fd, end - 1)) if end else None
        finally:
            os.close(fd)
        if line is not None:
            return decode(line)
    return None


def events_of(folder: Path, subject: str) -> Iterator[Event]:
    """The events of one task, in order: the files are searched for its id without parsing the other lines."""
    needle = b'"subject":' + orjson.dumps(subject) + b","
    found = segments(folder)
    for number, (first, _) in enumerate(found):
        fd = open_segment(folder, first)
        try:
            if number == len(found) - 1:  # the active one may be cut behind its last line: it is not mapped
                yield from _events_in(_whole(fd), needle, subject)
            else:
                with mmap.mmap(fd, 0, access=mmap.ACCESS_READ) as data:
                    yield from _events_in(data, needle, subject)
        finally:
            os.close(fd)


def _whole(fd: int) -> bytes:
    with open(fd, "rb", closefd=False) as file:
        return file.read()


def _events_in(data: bytes | mmap.mmap, needle: bytes, subject: str) -> Iterator[Event]:
    found = data.find(needle)
    while found >= 0:
        begin = data.rfind(b"\n", 0, found) + 1
        end = data.find(b"\n", found)
        if end < 0:
            return
        event = decode(data[begin:end])
        if event.subject == subject:
            yield event
        found = data.find(needle, end)
