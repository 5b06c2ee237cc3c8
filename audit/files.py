"""Durable files: the workspace lock, the durable append, the atomic replace. The only fsync."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import itertools
import os
import re
import stat
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from audit.handover import Handover

MAX_FILE_BYTES: Final = 8 * 1024 * 1024
LOCK_TIMEOUT_S: Final = 5.0
_EAGER_S: Final = 0.01
_READ_BYTES: Final = 64 * 1024


class Busy(Exception):
    """The workspace's lock was not free in time. Try again."""


class StorageFailed(Exception):
    """The disk refused. `full` says whether room is what is missing; nothing was half-written."""

    def __init__(self, message: str, *, full: bool = False) -> None:
        super().__init__(message)
        self.full = full


class SyncFailed(StorageFailed):
    """An fsync failed: the kernel may have dropped the pages, so it is never tried again (PostgreSQL's "fsyncgate").

    This process must stop writing; a restart reads back what really stands on the disk.
    """


class NotRegular(Exception):
    """A symlink, FIFO, socket, device or folder where a regular file should be, or a file over 8 MiB."""


FilePath = Path | str
"""Where a path is made for each commit it is a text: joining paths costs as much as the system call."""


@dataclass(frozen=True, slots=True)
class Signature:
    """What `stat` says of one version of a file. Equal signatures: the same bytes, without reading them."""

    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Signature:
        return cls(status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def storage_error(error: OSError, what: str) -> StorageFailed:
    """The one translation of an OSError of a write into what a caller can act on."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    advice = "free some space and try again" if full else "check the folder's permissions and the disk"
    return StorageFailed(f"{what} could not be written ({error.strerror}): {advice}", full=full)


# ---------------------------------------------------------------------------------------------- lock


class FileLock:
    """One `flock` for everybody who writes a workspace: threads, processes, replicas.

    It lies on a sidecar that is never renamed or deleted (a lock on a file that is renamed over loses updates), is
    opened for each hold, and is freed by the kernel when its process dies. No fork happens while it is held: a
    child would keep it.

    Args:
        path: the sidecar.
        handover: tells when it is given back, for a lock that many processes wait for in turn.
    """

    _instances: weakref.WeakSet[FileLock] = weakref.WeakSet()
    _numbers = itertools.count()

    def __init__(self, path: Path, handover: Handover | None = None) -> None:
        self.path = path
        self._number = next(FileLock._numbers)
        self._handover = handover
        self._thread = threading.Lock()
        FileLock._instances.add(self)

    @contextmanager
    def hold(self, timeout: float = LOCK_TIMEOUT_S, meanwhile: Callable[[], None] = lambda: None) -> Iterator[Hold]:
        """Hold the lock. Raises Busy after `timeout` seconds.

        `meanwhile` is called now and then while another process has it, so that less is left to do under it.
        """
        hold = self.open()
        try:
            hold.take(time.monotonic() + timeout, meanwhile)
            yield hold
        finally:
            hold.give_back()

    def open(self) -> Hold:
        """Its sidecar, open; the lock is taken later."""
        try:
            return Hold(self, os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644))
        except OSError as error:
            raise storage_error(error, f"the lock {self.path}") from None

    def _take(self, fd: int, deadline: float, meanwhile: Callable[[], None]) -> None:
        timeout = max(0.0, deadline - time.monotonic())
        if not self._thread.acquire(timeout=timeout):
            raise Busy(self._busy(timeout))
        try:
            self._wait(fd, deadline, timeout, meanwhile)
        except BaseException:
            self._thread.release()
            raise

    def _wait(self, fd: int, deadline: float, timeout: float, meanwhile: Callable[[], None]) -> None:
        """Ask a few times, then stand in the kernel's queue: who only asks now and then may starve.

        Whoever asks too often, or works meanwhile, slows down the holder, whom all of them wait for.
        """
        pause, patient_from = 0.0003, time.monotonic() + _EAGER_S
        while (now := time.monotonic()) < patient_from:
            with suppress(BlockingIOError):
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            if now >= deadline:
                raise Busy(self._busy(timeout))
            if self._handover is None or not self._handover.wait():
                time.sleep(pause)
                pause = min(pause * 1.5, 0.0006)
        if not _Queued(fd).wait(deadline, meanwhile):
            raise Busy(self._busy(timeout))

    def _busy(self, timeout: float) -> str:
        return f"the workspace's lock {self.path} was not free within {timeout:g} s: try again"


class Hold:
    """One opening of a lock's sidecar: the lock is taken at most once, and given back once."""

    def __init__(self, lock: FileLock, fd: int) -> None:
        self.fd = fd
        self.is_taken = False
        self._lock = lock

    def take(self, deadline: float, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Take the lock. Raises Busy when `time.monotonic()` has reached the deadline."""
        self._lock._take(self.fd, deadline, meanwhile)
        self.is_taken = True

    def give_back(self) -> None:
        """Let the next one have it. What was given back stays so."""
        fd, self.fd = self.fd, -1
        taken, self.is_taken = self.is_taken, False
        if taken:
            with suppress(OSError):  # explicitly: a child between fork and exec may share the descriptor
                fcntl.flock(fd, fcntl.LOCK_UN)
        if fd >= 0:
            os.close(fd)
        if taken:
            self._lock._thread.release()


class _Queued(threading.Thread):
    """Waits in the kernel's queue for a `flock`, which knows no time-out: a thread does that can be left behind.

    It works on a descriptor of its own for the same open file. Left behind, it gives the lock back once it has it.
    """

    def __init__(self, fd: int) -> None:
        super().__init__(name="kircerta-lock", daemon=True)
        self._fd = os.dup(fd)
        self._guard = threading.Lock()
        self._left_behind = False
        self._error: OSError | None = None
        self._done = threading.Event()

    def wait(self, deadline: float, meanwhile: Callable[[], None]) -> bool:
        """Whether the lock came before the deadline."""
        self.start()
        try:
            while not self._done.wait(min(0.002, max(0.0, deadline - time.monotonic()))):
                if time.monotonic() >= deadline:
                    return not self._leave()
                meanwhile()
        except BaseException:
            self._leave()
            raise
        if self._error is not None:
            raise self._error
        return True

    def _leave(self) -> bool:
        with self._guard:
            self._left_behind = not self._done.is_set()
            return self._left_behind

    def run(self) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX)
        except OSError as error:
            self._error = error
        with self._guard:
            if self._left_behind:
                with suppress(OSError):
                    fcntl.flock(self._fd, fcntl.LOCK_UN)
            os.close(self._fd)
            self._done.set()


_over_fork = threading.local()


def _acquire_all() -> None:
    # in the order in which they were made: who needs two locks has made the outer one first
    _over_fork.held = sorted(FileLock._instances, key=lambda lock: lock._number)
    for lock in _over_fork.held:
        lock._thread.acquire()


def _release_all() -> None:
    for lock in _over_fork.held:  # exactly those: one that came meanwhile belongs to another thread
        lock._thread.release()
    _over_fork.held = []


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_acquire_all, after_in_parent=_release_all, after_in_child=_release_all)


# -------------------------------------------------------------------------------------------- append

sync_data: Callable[[int], None] = getattr(os, "fdatasync", os.fsync)


def append(fd: int, data: bytes, end: int) -> None:
    """Write `data` at offset `end` of the file, its end. It is not durable yet: `sync_appended` comes next.

    A failed write is taken back, so that the file ends where it ended. Raises StorageFailed; SyncFailed when
    nobody can know what is on the disk.
    """
    try:
        _write_all(fd, data, end)
    except OSError as error:
        try:
            os.ftruncate(fd, end)
        except OSError as second:
            raise SyncFailed(f"the log could not be cut back to {end} bytes ({second.strerror})") from error
        raise storage_error(error, "the log") from None


def sync_appended(fd: int) -> None:
    """Make what was appended durable: this call's return is the commit point. Raises SyncFailed."""
    try:
        sync_data(fd)
    except OSError as error:
        raise SyncFailed(f"the log could not be synced ({error.strerror}): restart to recover") from None


def _write_all(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        if written == 0:
            raise OSError(errno.ENOSPC, "nothing was written")
        view = view[written:]
        offset += written


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable (after a create or a rename)."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        raise SyncFailed(f"the folder {folder} could not be synced ({error.strerror})") from None
    finally:
        os.close(fd)


def sync_filesystem(folder: Path) -> None:
    """Flush everything that was written to the folder's file system (Linux `syncfs`, elsewhere `sync`)."""
    if _LIBC is None or not hasattr(_LIBC, "syncfs"):
        os.sync()
        return
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _LIBC.syncfs(fd) != 0:
            raise SyncFailed(f"the file system of {folder} could not be synced")
    finally:
        os.close(fd)


# ------------------------------------------------------------------------------------- read, replace


def read_regular(path: FilePath, limit: int = MAX_FILE_BYTES) -> tuple[bytes, Signature]:
    """The bytes and signature of a regular file.

    Never blocks on a FIFO and never follows a symlink. Raises FileNotFoundError; NotRegular.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EMLINK):
            raise NotRegular(f"{os.path.basename(path)} is not a regular file") from None
        raise
    try:
        before = os.fstat(fd)
        if not stat.S_ISREG(before.st_mode):
            raise NotRegular(f"{os.path.basename(path)} is not a regular file")
        if before.st_size > limit:
            raise NotRegular(f"{os.path.basename(path)} has {before.st_size} bytes, more than {limit}")
        data = os.read(fd, before.st_size + 1)
        while chunk := os.read(fd, _READ_BYTES):  # it grows, or a read gave less than it could
            data += chunk
            if len(data) > limit:
                raise NotRegular(f"{os.path.basename(path)} has more than {limit} bytes")
        return data, Signature.of(before)
    finally:
        os.close(fd)


def write_new(path: FilePath, data: bytes, *, sync: bool, mode: int = 0o644) -> Signature:
    """Create a file that must not exist yet."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    try:
        _write_all(fd, data, 0)
        if sync:
            try:
                os.fsync(fd)
            except OSError as error:
                raise SyncFailed(f"{os.path.basename(path)} could not be synced ({error.strerror})") from None
        return Signature.of(os.fstat(fd))
    finally:
        os.close(fd)


def fill(path: FilePath, data: bytes) -> Signature:
    """Write into an empty file that nobody else knows of."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        _write_all(fd, data, 0)
        return Signature.of(os.fstat(fd))
    finally:
        os.close(fd)


def remove(path: FilePath) -> None:
    """Remove a file that may be gone already; a folder in its place stays."""
    with suppress(OSError):
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            os.unlink(path)


def swap_in(temporary: FilePath, target: FilePath) -> bool:
    """Put `temporary` in the place of `target`, atomically.

    Where the kernel can exchange names, what stood at `target` afterwards stands at `temporary`, and the answer is
    True: the caller looks at it, so that a save by an editor in that very instant is not lost. False: nothing stood
    there before, or it is gone (systems without the exchange).
    """
    if _renameat2 is not None:
        if _renameat2(temporary, target, _RENAME_EXCHANGE):
            return True
        if _renameat2(temporary, target, _RENAME_NOREPLACE):
            return False
        if _renameat2(temporary, target, _RENAME_EXCHANGE):  # it was made in between
            return True
    os.rename(temporary, target)
    return False


def replace_file(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Replace a private file (a cache, an address book) atomically; not durable, nobody else writes it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        write_new(temporary, data, sync=False, mode=mode)
        os.rename(temporary, path)
    except OSError as error:
        with suppress(OSError):
            os.unlink(temporary)
        raise storage_error(error, str(path)) from None


def keep_durably(folder: Path, name: str, data: bytes, *, mode: int = 0o644) -> None:
    """Keep a file that is never changed again (named by its content): durable when this returns."""
    path = folder / name
    temporary = folder / f".{name}.{os.getpid()}.{threading.get_ident()}.tmp"
    try:
        if not _holds(path, data):
            with suppress(FileNotFoundError):
                os.unlink(temporary)
            write_new(temporary, data, sync=True, mode=mode)
            os.rename(temporary, path)
    except (OSError, StorageFailed) as error:
        with suppress(OSError):
            os.unlink(temporary)
        raise (storage_error(error, str(path)) if isinstance(error, OSError) else error) from None
    sync_folder(folder)  # also for one that stood there: who renamed it may have died before this


def keep_secret(path: Path, data: bytes) -> None:
    """Keep a secret, durably and atomically, readable by its owner alone. Raises StorageFailed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            _write_all(fd, data, 0)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except OSError as error:
        with suppress(OSError):
            os.unlink(temporary)
        raise storage_error(error, str(path)) from None
    sync_folder(path.parent)


def _holds(path: Path, data: bytes) -> bool:
    try:
        return read_regular(path, max(len(data), 1))[0] == data
    except (FileNotFoundError, NotRegular):
        return False


# ------------------------------------------------------------------------------------------ the kernel

_RENAME_NOREPLACE: Final = 1
_RENAME_EXCHANGE: Final = 2
_AT_FDCWD: Final = -100


def _load_libc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    with suppress(OSError):
        return ctypes.CDLL(None, use_errno=True)
    return None


_LIBC: Final = _load_libc()


def _find_renameat2() -> Callable[[FilePath, FilePath, int], bool] | None:
    function = getattr(_LIBC, "renameat2", None)
    if function is None:
        return None
    function.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]

    def renameat2(old: FilePath, new: FilePath, flags: int) -> bool:
        """True when it was done; False when the names' state or the file system does not allow it."""
        if function(_AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), flags) == 0:
            return True
        code = ctypes.get_errno()
        if code in (errno.EEXIST, errno.ENOENT, errno.EINVAL, errno.ENOSYS):
            return False
        raise OSError(code, os.strerror(code), str(new))

    return renameat2


_renameat2: Final = _find_renameat2()

# ---------------------------------------------------------------------------------------- what is refused

_NETWORK_FILE_SYSTEMS: Final = frozenset(
    {
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "smbfs",
        "9p",
        "fuse.sshfs",
        "afs",
        "ceph",
        "glusterfs",
        "lustre",
        "ncpfs",
    }
)


def check_supported(folder: Path) -> None:
    """Refuse what cannot keep the promises: Windows, and file systems whose locks or renames cross a network.

    Raises StorageFailed with the reason.
    """
    if os.name != "posix":
        raise StorageFailed("kircerta needs Unix file locks: use Linux, macOS or WSL2, not Windows itself")
    kind = _file_system_of(folder)
    if kind in _NETWORK_FILE_SYSTEMS:
        raise StorageFailed(
            f"{folder} lies on {kind}, a network file system, whose locks and renames do not hold under a crash: "
            "set KIRCERTA_HOME to a folder on a local disk"
        )


def _file_system_of(folder: Path) -> str:
    """The file system's type, from /proc/self/mountinfo; empty where the system does not say."""
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return ""
    where = os.path.realpath(folder)
    best, kind = "", ""
    for line in lines:
        left, _, right = line.partition(" - ")
        mount = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), left.split()[4])
        inside = where == mount or where.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best):
            best, kind = mount, right.split()[0]
    return kind
