"""Empty files for the next versions, ready before the lock is taken: made, or won back from displaced versions.

Making and freeing an inode costs as much as a sync, or several (ext4 without a journal passes by those that were freed
in the last minutes, one by one), and would be done under the lock. A version that was displaced is an inode already.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import signal
import stat
import threading
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Final

from audit import files
from audit.files import FilePath, Signature

REST_S: Final = 0.02
"""How long a displaced file is left alone: who looked its name up just before has opened it by then."""
MOST: Final = 64
FORGOTTEN_S: Final = 3600.0
"""Blanks of this age belong to a process that died."""
_F_SETSIG: Final = getattr(fcntl, "F_SETSIG", 10)


class Blanks:
    """The blanks of one process. Thread-safe; what goes wrong costs the shortcut, nothing else.

    Args:
        folder: where they lie; private, and made here.
        beside: the folder whose files they become: only where both give new files the same owner and rights.
    """

    def __init__(self, folder: Path, beside: Path) -> None:
        self._folder = folder
        self._beside = beside
        self._guard = threading.Lock()
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._prefix = ""
        self._count = 0
        self._ready: list[str] = []
        self._resting: deque[tuple[float, str]] = deque()
        self._looks: tuple[object, ...] | None = None  # of a new one; empty: none are made here

    def ready(self, count: int = 1) -> None:
        """Have some at hand. To be called before the lock, since it may take longer than all that is done under it."""
        with self._guard, suppress(OSError):
            if self._pid != os.getpid():  # forked: those are the parent's
                self._begin()
            while len(self._ready) < min(count, MOST) and (path := self._next()) is not None:
                self._ready.append(path)

    def fill(self, path: FilePath, data: bytes) -> Signature:
        """Make a file `path` with these bytes, of a blank where there is one. Raises OSError, StorageFailed."""
        blank = self._take()
        if blank is not None:
            try:
                signature = files.fill(blank, data)
                os.rename(blank, path)
                return signature
            except OSError as error:
                files.remove(blank)
                if error.errno == errno.EXDEV:  # two mounts of one device: none of them ever gets there
                    self._looks = ()
        files.remove(path)
        return files.write_new(path, data, sync=False)

    def _take(self) -> str | None:
        with self._guard:
            return self._ready.pop() if self._ready and self._pid == os.getpid() else None

    def take_back(self, path: FilePath) -> None:
        """A displaced file that nobody needs: from now on it has no place beside the others."""
        with self._guard:
            if self._looks and len(self._resting) < MOST and self._pid == os.getpid():
                resting = self._name()
                with suppress(OSError):
                    os.rename(path, resting)
                    self._resting.append((time.monotonic(), resting))
                    return
        files.remove(path)

    def close(self) -> None:
        """Remove those at hand."""
        with self._guard:
            if self._pid == os.getpid():
                for path in (*self._ready, *(path for _, path in self._resting)):
                    files.remove(path)
            self._ready.clear()
            self._resting.clear()

    def clear_forgotten(self) -> None:
        """Remove what processes that died left behind. Who still lived only makes another."""
        with suppress(OSError), os.scandir(self._folder) as listing:
            for item in listing:
                with suppress(OSError):
                    if time.time() - item.stat(follow_symlinks=False).st_mtime > FORGOTTEN_S:
                        os.unlink(item.path)

    def _name(self) -> str:
        self._count += 1
        return f"{self._folder}/{self._prefix}-{self._count}"

    def _next(self) -> str | None:
        if self._looks is None:
            self._prefix = secrets.token_hex(6)
            self._folder.mkdir(exist_ok=True)
            self._looks = () if _gives(self._folder) != _gives(self._beside) else self._looks_of_new()
        if not self._looks:
            return None
        while self._resting and time.monotonic() - self._resting[0][0] > REST_S:
            _, path = self._resting.popleft()
            if _win_back(path, self._looks):
                return path
            files.remove(path)
        return self._new()

    def _new(self) -> str:
        path = self._name()
        files.write_new(path, b"", sync=False)
        return path

    def _looks_of_new(self) -> tuple[object, ...]:
        path = self._new()
        self._ready.append(path)
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            return _looks(fd)
        finally:
            os.close(fd)


def _gives(folder: Path) -> tuple[object, ...]:
    """What a folder passes on to new files: its device, its group, its rules for rights."""
    status = os.stat(folder)
    group = status.st_gid if status.st_mode & stat.S_ISGID else -1
    return status.st_dev, group, tuple(_marks(folder))


def _looks(fd: int) -> tuple[object, ...]:
    """Owner, rights and marks of a file that has one name."""
    status = os.fstat(fd)
    return status.st_nlink, status.st_uid, status.st_gid, status.st_mode, tuple(_marks(fd))


def _marks(place: Path | int) -> list[str]:
    return sorted(os.listxattr(place)) if hasattr(os, "listxattr") else []


def _win_back(path: str, looks: tuple[object, ...]) -> bool:
    """Empty a displaced file, if it looks like a new one and the kernel says that nobody else has it open.

    It says so by granting a lease for writing, which it does to the only one who has a file open (and only on Linux).
    Emptied and not written over: a file system that keeps its journal's order can then never show these old bytes in
    the next version's place after a power cut.
    """
    if not hasattr(fcntl, "F_SETLEASE"):
        return False
    with suppress(OSError):
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            fcntl.fcntl(fd, _F_SETSIG, signal.SIGURG)  # tells of who opens it in this instant, and is ignored
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            if _looks(fd) == looks:
                os.ftruncate(fd, 0)
                return True
        finally:
            os.close(fd)  # and with it the lease
    return False
