"""The append-only log: the only writer of ``audit/events*.jsonl``."""

from __future__ import annotations

import hashlib
import os
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from audit import files
from audit.event import Corrupt, Draft, Event
from audit.files import FileLock, Hold, StorageFailed, SyncFailed
from audit.handover import Handover
from audit.reader import LogReader, Place
from audit.segments import ACTIVE, first_seq, open_file
from audit.stamp import Clock, Stamp

SEGMENT_BYTES: Final = 64 * 1024 * 1024
_MARKER_BYTES: Final = 127


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
            reader.adopt(open_file(path), 0)
        if reader.offset == 0:
            files.sync_folder(self.folder)

    def _rotate(self, path: Path) -> None:
        first = first_seq(path)
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
