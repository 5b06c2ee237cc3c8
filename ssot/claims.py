"""Who runs a dispatch: an `flock` on a file named by it, held while it is run. The kernel frees it on death."""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from ssot.task import TASK_ID

_FOLDER: Final = Path(".kircerta") / "claims"
_PAUSES_S: Final = (0.002, 0.01)
"""`is_claimed` of somebody else holds the lock for microseconds: worth a second and a third look."""


class Claim:
    """The right to run one dispatch. Released by `release`, by leaving the context, or by the death of the process."""

    def __init__(self, path: Path, fd: int) -> None:
        self._path = path
        self._fd = fd

    def release(self) -> None:
        """Give the dispatch free. The file goes first, under its own lock: whoever opened it meanwhile looks again."""
        if self._fd < 0:
            return
        with suppress(OSError):
            os.unlink(self._path)
        with suppress(OSError):  # explicitly: a child between fork and exec may share the descriptor
            fcntl.flock(self._fd, fcntl.LOCK_UN)
        os.close(self._fd)
        self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()


def try_claim(home: Path, dispatch_id: str) -> Claim | None:
    """Claim a dispatch; None when another process, or another run in this one, has it."""
    path = claim_file(home, dispatch_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    for pause in (*_PAUSES_S, None):
        claim = _claimed(path)
        if claim is not None or pause is None:
            return claim
        time.sleep(pause)
    return None


def _claimed(path: Path) -> Claim | None:
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        if _is_named(fd, path):
            return Claim(path, fd)
        os.close(fd)  # its last holder removed it between our open and our lock: this lock is worth nothing


def _is_named(fd: int, path: Path) -> bool:
    try:
        named = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    held = os.fstat(fd)
    return (named.st_dev, named.st_ino) == (held.st_dev, held.st_ino)


def is_claimed(home: Path, dispatch_id: str) -> bool:
    """Whether a living process runs the dispatch."""
    return is_locked(claim_file(home, dispatch_id))


def is_locked(path: Path) -> bool:
    """Whether some process holds the `flock` of a file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def claim_file(home: Path, dispatch_id: str) -> Path:
    """A claim's file. An id that came inside a file by hand may be anything: then its digest is the name."""
    safe = TASK_ID.fullmatch(dispatch_id) is not None
    return home / _FOLDER / (dispatch_id if safe else hashlib.sha256(dispatch_id.encode()).hexdigest())


def remove_stale(home: Path) -> int:
    """Remove the files that dead processes left behind; gives their number."""
    removed = 0
    for path in (home / _FOLDER).glob("*"):
        claim = _claimed(path) if path.is_file() else None
        if claim is not None:
            claim.release()
            removed += 1
    return removed
