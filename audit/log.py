"""The append-only log: the only reader and the only writer of ``audit/events*.jsonl``."""

from __future__ import annotations

import hashlib
import mmap
import os
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from audit import files
from audit.event import GENESIS, Corrupt, Draft, Event, decode, digest_of
from audit.files import FileLock, Hold, StorageFailed, SyncFailed
from audit.handover import Handover
from audit.stamp import Clock, Stamp

ACTIVE: Final = "events.jsonl"
SEGMENT_BYTES: Final = 64 * 1024 * 1024
_CHUNK: Final = 1 << 20
_MARKER_BYTES: Final = 127


class Rewound(Exception):
    """The log on disk is not a continuation of what was read before: it was replaced, cut or rewritten."""


@dataclass(frozen=True, slots=True)
class Place:
    """A position in the log: the last line taken in, and where the next one begins."""

    seq: int = 0
    digest: str = GENESIS
    time: str = ""


# ------------------------------------------------------------------------------------------- segments


def segments(folder: Path) -> list[tuple[int, Path]]:
    """The log's files in order, each with the seq of its first line; the active one last. Empty ones are left out.

    A rotation may rename the active one at any moment: open them with `open_segment`.
    """
    active = folder / ACTIVE
    while True:
        first = _first_seq(active)
        found = [(number, folder / f"events-{number}.jsonl") for number in _closed(folder)]
        if first is None:
            return found
        if all(number != first for number, _ in found):  # else it was renamed between the two looks
            return [*found, (first, active)]


def open_segment(folder: Path, first: int) -> int:
    """A descriptor for the segment that begins with this seq, under whichever name it stands now."""
    closed = folder / f"events-{first}.jsonl"
    for path in (closed, folder / ACTIVE, closed):
        with suppress(FileNotFoundError):
            fd = _open(path)
            if path is closed or _seq_at_begin(fd) == first:
                return fd
            os.close(fd)
    raise FileNotFoundError(f"{closed} does not exist")


def _first_seq(path: Path) -> int | None:
    try:
        fd = _open(path)
    except FileNotFoundError:
        return None
    try:
        return _seq_at_begin(fd)
    finally:
        os.close(fd)


def _seq_at_begin(fd: int) -> int | None:
    line = _line_at(fd, 0)
    return decode(line).seq if line is not None else None


def _open(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)


def _line_at(fd: int, offset: int) -> bytes | None:
    """The complete line that starts at `offset`, without its newline; None where there is none."""
    data = b""
    while (end := data.find(b"\n")) < 0:
        chunk = os.pread(fd, 64 * 1024, offset + len(data))
        if not chunk:
            return None
        data += chunk
    return data[:end]


def _offset_after(fd: int, seq: int) -> int:
    """Where the line after `seq` begins: bisected, since lines stand in order of their seq."""
    low, high = 0, os.fstat(fd).st_size
    while low < high:
        middle = (low + high) // 2
        start = _line_start(fd, middle)
        line = _line_at(fd, start)
        if line is None:
            high = start if start < high else middle
        elif decode(line).seq <= seq:
            low = start + len(line) + 1
        else:
            high = start
    return low


def _line_start(fd: int, offset: int) -> int:
    """Where the line that holds the byte at `offset` begins."""
    end = offset
    while end > 0:
        begin = max(0, end - 4096)
        newline = os.pread(fd, end - begin, begin).rfind(b"\n")
        if newline >= 0:
            return begin + newline + 1
        end = begin
    return 0


# --------------------------------------------------------------------------------------------- reader


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
            offset = _offset_after(fd, seq)
            line = _line_at(fd, _line_start(fd, offset - 1)) if offset else None
            if line is None or (event := decode(line)).seq != seq:
                os.close(fd)
                break
            reader._adopt(fd, offset)
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
            self._adopt(open_segment(self.folder, following), 0)
            return True
        self._check_continues(following, listed)
        with suppress(FileNotFoundError):
            fd = _open(self.folder / ACTIVE)
            if _line_at(fd, 0) is None and not (self.folder / f"events-{following}.jsonl").exists():
                self._adopt(fd, 0)
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

    def _adopt(self, fd: int, offset: int) -> None:
        self.close()
        self._fd, self.inode, self.offset, self._torn = fd, os.fstat(fd).st_ino, offset, 0

    def _reopen(self, inode: int) -> None:
        """Go on in the file with this inode, at the remembered offset."""
        paths = [self.folder / ACTIVE, *(path for _, path in reversed(segments(self.folder)))]
        for path in paths:
            with suppress(FileNotFoundError):
                fd = _open(path)
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
        line = _line_at(fd, _line_start(fd, self.offset - 1))
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
            end = _line_start(fd, os.fstat(fd).st_size)
            line = _line_at(fd, _line_start(fd, end - 1)) if end else None
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


# --------------------------------------------------------------------------------------------- writer


@dataclass(frozen=True, slots=True)
class Marker:
    """What the last holder of the lock left behind in the sidecar: a hint that saves work, never a truth.

    `synced` bytes of the file `inode` are durable, and every event up to `applied` shows in its task file (-1:
    nobody knows). It is valid within one boot of the machine: page cache and marker die together.
    """

    boot: str = ""
    inode: int = 0
    synced: int = 0
    applied: int = -1

    @classmethod
    def load(cls, fd: int) -> Marker:
        data = os.pread(fd, _MARKER_BYTES, 0)  # as much as `store` writes: what stands behind it is nobody's
        body, _, checksum = data.rstrip().rpartition(b" ")
        if not body or checksum != b"%08x" % zlib.crc32(body):
            return cls()
        boot, inode, synced, applied = body.split(b" ")
        return cls(boot.decode(), int(inode), int(synced), int(applied))

    def store(self, fd: int) -> None:
        body = b"%s %d %d %d" % (self.boot.encode(), self.inode, self.synced, self.applied)
        line = b"%-*b\n" % (_MARKER_BYTES, body + b" %08x" % zlib.crc32(body))
        with suppress(OSError):  # a full disk: the next holder does the work again
            os.pwrite(fd, line, 0)  # always as long: nothing of an older one is left behind it


def _boot_id() -> str:
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"unknown-{os.getpid()}-{time.monotonic_ns()}"


BOOT: Final = _boot_id()


class Unfinished(Exception):
    """Somebody who came before has left work undone, or asks for another order: begin again, alone."""


class Transaction:
    """What may be done while it is one's turn: place events, append them durably, show what they make.

    There are two locks. Whoever has the turn reads the log and decides on it. Whoever has the log's lock, too, may
    append; it can pass the turn on as soon as its lines are written, and makes them durable and visible while the next
    one decides already. That one appends when all before it is done, or knows that it must do it itself.
    """

    def __init__(self, log: AuditLog, reader: LogReader, turn: Hold, hold: Hold) -> None:
        self._log = log
        self._reader = reader
        self._turn = turn
        self._hold = hold
        self._known: Marker | None = None
        self._found: Marker | None = None
        self.stamp: Stamp = Stamp("", log.clock.new_id)
        self.is_over = False

    @property
    def _marker(self) -> Marker:
        """What the last holder left behind; read when it is asked for."""
        if self._known is None:
            self._known = self._found = Marker.load(self._hold.fd)
        return self._known

    @property
    def applied(self) -> int:
        """Up to which seq the task files are known to show the log; -1 when nobody knows."""
        known = self._marker.boot == BOOT and self._marker.applied <= self._reader.place.seq  # else it was replaced
        return self._marker.applied if known else -1

    def mark_applied(self) -> None:
        """Every event so far shows in its task file."""
        marker = self._marker
        self._known = Marker(BOOT, marker.inode, marker.synced, self._reader.place.seq)

    @property
    def is_alone(self) -> bool:
        """Whether everybody who appended before has shown it, or is dead."""
        return self._hold.is_taken

    def be_alone(self, deadline: float, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Wait until whoever appended before has shown what it appended, or is dead. Raises Busy."""
        self._hold.take(deadline, meanwhile)
        self._known = None

    def begin_beside(self, take_in: Callable[[list[Event]], object]) -> None:
        """Catch up with the others, of whom one may still be showing what it appended.

        Raises Unfinished where the log's end has to be mended first. What the files show is asked when one is alone.
        """
        if not self._reader.is_at_end():
            take_in(self._reader.read())
            if not self._reader.is_at_end():
                raise Unfinished

    def take_stamp(self) -> None:
        """The moment and the ids of what is decided now; `begin` takes it by itself."""
        self.stamp = self._log.clock.stamp(self._reader.place.time)

    def check_finished(self) -> None:
        """Whether everything before is durable and shown. Raises Unfinished."""
        if self.applied != self._reader.place.seq or not self._is_synced():
            raise Unfinished

    def begin(self, take_in: Callable[[list[Event]], object]) -> None:
        """Catch up with the others, put a torn tail aside, make sure that what was read is durable.

        What was read is handed to `take_in` before anything that can fail: the reader and its owner stay together.
        """
        torn = b""
        if not self._reader.is_at_end():
            take_in(self._reader.read())
            torn = self._reader.torn_bytes
        self.take_stamp()
        if torn:
            take_in(self._set_aside(torn))
        elif self._reader.place.seq and not self._is_synced():
            # a writer may have died between its write and its sync: nobody builds on a line that could vanish,
            # nor repeats an answer that it gives (also one that this process has read without the lock)
            self._sync()
        if self._reader.place.seq == 0:
            self.mark_applied()  # a new workspace: from here on it is known what the files show

    def _is_synced(self) -> bool:
        marker, reader = self._marker, self._reader
        return marker.boot == BOOT and marker.inode == reader.inode and marker.synced >= reader.offset

    def _sync(self) -> None:
        self._reader.sync()
        self._note_synced()

    def _set_aside(self, torn: bytes) -> list[Event]:
        """A tail without newline was never acknowledged: keep a copy, cut it off, and say so in the log."""
        reader = self._reader
        digest = hashlib.sha256(torn).hexdigest()
        folder = self._log.folder / ".torn"
        try:
            folder.mkdir(exist_ok=True)
            files.keep_durably(folder, f"{reader.place.seq + 1}-{digest[:16]}", torn)
        except OSError as error:
            raise files.storage_error(error, str(folder)) from None
        fd = self._log.open_active()
        try:
            if os.fstat(fd).st_ino != reader.inode:
                raise Corrupt(f"a closed segment of the log ends in the middle of a line behind seq {reader.place.seq}")
            os.ftruncate(fd, reader.offset)
            files.sync_data(fd)
        except OSError as error:
            raise SyncFailed(f"the torn log could not be cut ({error.strerror})") from None
        finally:
            os.close(fd)
        reader.read()
        draft = Draft(
            "log_recovered",
            "kircerta",
            {
                "torn_bytes": len(torn),
                "torn_sha256": digest,
                "kept_as": f"audit/.torn/{reader.place.seq + 1}-{digest[:16]}",
            },
        )
        return self.append([self.place(draft, reader.place)])

    def place(self, draft: Draft, after: Place | None = None) -> Event:
        """Give a draft its place behind `after` (the log's end by default). Its line comes with `Event.sealed`."""
        behind = after or self._reader.place
        return Event(
            seq=behind.seq + 1,
            id=self.stamp.new_id("e"),
            source=self._log.source,
            type=draft.type,
            time=self.stamp.now,
            actor=draft.actor,
            data=draft.data,
            prev=behind.digest,
            subject=draft.subject,
            correlationid=draft.correlationid,
        )

    def append(self, events: Sequence[Event], *, last: bool = False) -> list[Event]:
        """Append placed events, all in one write and one sync. This call's return is the commit point.

        A crash inside leaves a prefix of them, or a torn tail that the next holder of the lock puts aside.
        `last`: no more is appended in this transaction, so that the next one can decide during the sync.
        Raises StorageFailed (nothing was written), SyncFailed (this process must stop writing).
        """
        sealed = [event.sealed() for event in events]
        log, reader = self._log, self._reader
        log.check_healthy()
        fd = log.open_active(rotate_at=log.segment_bytes, reader=reader)
        try:
            files.append(fd, b"".join(event.line + b"\n" for event in sealed), reader.offset)
            if last:
                self._turn.give_back()
            files.sync_appended(fd)
        finally:
            os.close(fd)
        for event in sealed:
            reader.advance(event)
        self._note_synced()  # written down at the end: who dies before that costs the next one a sync
        return sealed

    def _note_synced(self) -> None:
        applied = self._marker.applied if self._marker.boot == BOOT else -1
        self._known = Marker(BOOT, self._reader.inode, self._reader.offset, applied)

    def end(self) -> None:
        """Leave behind what the next one may rely on, and let it go on; once."""
        if self.is_over:
            return
        self.is_over = True
        if self._hold.is_taken and self._known is not None and self._known is not self._found:
            self._known.store(self._hold.fd)
        self._hold.give_back()
        self._turn.give_back()


def after(event: Event) -> Place:
    """The place behind a sealed event."""
    return Place(event.seq, event.digest, event.time)


class AuditLog:
    """The log of one workspace, as one process sees it.

    Args:
        folder: the workspace's ``audit`` folder.
        source: the process kind for the events' `source`, e.g. ``kircerta/api``.
        segment_bytes: a segment is closed when it has reached this size.
    """

    def __init__(
        self, folder: Path, *, source: str, clock: Clock | None = None, segment_bytes: int = SEGMENT_BYTES
    ) -> None:
        self.folder = folder
        self.source = source
        self.clock = clock or Clock()
        self.segment_bytes = segment_bytes
        self._active = folder / ACTIVE
        self._handovers = [Handover(folder / name) for name in (".turn", ".lock")]
        self._turn, self._lock = (FileLock(one.sidecar, one) for one in self._handovers)
        self._poisoned: StorageFailed | None = None

    @contextmanager
    def transact(
        self,
        reader: LogReader,
        timeout: float = files.LOCK_TIMEOUT_S,
        meanwhile: Callable[[], None] = lambda: None,
        *,
        alone: bool = True,
    ) -> Iterator[Transaction]:
        """Have the turn and the log's lock; `begin` comes next. Raises Busy, StorageFailed.

        `meanwhile` is called now and then while another process has what is waited for. Not `alone`: the turn only;
        `begin_beside` comes next, and `be_alone` before anything is appended.
        """
        self.check_healthy()
        deadline = time.monotonic() + timeout
        hold = self._lock.open()
        try:
            with self._turn.hold(timeout, meanwhile) as turn:
                transaction = Transaction(self, reader, turn, hold)
                try:
                    if alone:
                        transaction.be_alone(deadline, meanwhile)
                    yield transaction
                except SyncFailed as error:
                    self._poisoned = self._poisoned or error
                    raise
                finally:
                    transaction.end()
        finally:
            hold.give_back()

    def close(self) -> None:
        """Give back what waiting for the lock needs; the log may be used again."""
        for handover in self._handovers:
            handover.close()

    def open_active(self, rotate_at: int | None = None, reader: LogReader | None = None) -> int:
        """The active file's descriptor for writing; made, or begun anew when it is full, with its name durable."""
        path = self._active
        try:
            if rotate_at is not None and reader is not None and reader.offset >= rotate_at:
                self._rotate(path)
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_CREAT, 0o644)
        except OSError as error:
            raise files.storage_error(error, f"the log {path}") from None
        try:
            if reader is not None:
                self._begin_file(fd, path, reader)
        except BaseException as error:
            os.close(fd)
            if isinstance(error, OSError):
                raise files.storage_error(error, f"the log {path}") from None
            raise
        return fd

    def _begin_file(self, fd: int, path: Path, reader: LogReader) -> None:
        """Before the first line of a file its name is made durable: whoever made it may have died before that."""
        if os.fstat(fd).st_ino != reader.inode:
            reader._adopt(_open(path), 0)
        if reader.offset == 0:
            files.sync_folder(self.folder)

    def _rotate(self, path: Path) -> None:
        first = _first_seq(path)
        if first is None:
            return
        closed = self.folder / f"events-{first}.jsonl"
        if closed.exists():
            raise Corrupt(f"{closed.name} stands already, and {path.name} begins with seq {first}, too")
        os.rename(path, closed)
        files.sync_folder(self.folder)

    def check_healthy(self) -> None:
        """After a failed sync nobody knows what is on the disk: this process writes no more. Raises SyncFailed."""
        if self._poisoned is not None:
            raise SyncFailed(f"{self._poisoned}; writing stopped until a restart")


# --------------------------------------------------------------------------------------------- verify


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


def _closed(folder: Path) -> list[int]:
    """The first seqs of the closed segments, in order."""
    numbers = (path.stem.removeprefix("events-") for path in folder.glob("events-*.jsonl"))
    return sorted(int(number) for number in numbers if number.isdigit())


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
        closed = [first for first in _closed(folder) if first not in checked]
        if not closed:
            break
        if active >= 0:
            os.close(active)
        for first in closed:
            name = f"events-{first}.jsonl"
            checked.append(first)
            if not state.check_file(_open(folder / name), name, progress, last=False):
                return state.verdict(len(checked))
    count = len(checked)
    if active >= 0:
        count += os.fstat(active).st_size > 0
        state.check_file(active, ACTIVE, progress, last=True)
    return state.verdict(count)


def _open_active(folder: Path) -> int:
    try:
        return _open(folder / ACTIVE)
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
