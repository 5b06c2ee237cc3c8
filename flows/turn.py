"""Whose turn it is to speak for a token on this machine, and for how long its server wants to be left alone.

The kernel frees a turn on death. Of the token only a digest is ever written.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

MOST_PATIENCE_S: Final = 86_400.0
"""A server that asks for more than a day is asked again after one: also the clock may have been set."""


class TurnTaken(Exception):
    """Somebody else on this machine speaks for this token."""


class Turn:
    """The right to speak for a token, and what is remembered between turns."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def patience_s(self) -> float:
        """Seconds that the server still wants to be left alone: it may have told an earlier turn."""
        with suppress(ValueError):
            left = float(os.pread(self._fd, 64, 0) or b"0") - time.time()
            return min(left, MOST_PATIENCE_S) if left > 0 else 0.0
        return 0.0

    def keep_patience(self, seconds: float) -> None:
        """The server wants to be left alone for so long: whoever has the next turn shall know, too."""
        until = f"{time.time() + seconds:.3f}".encode()
        os.ftruncate(self._fd, os.pwrite(self._fd, until, 0))


@contextmanager
def only_one(home: Path, what: str, token: str) -> Iterator[Turn]:
    """The turn for a token. Raises TurnTaken.

    A file in the workspace counts, and on Linux a name that the whole machine shares: two workspaces may have one bot.
    """
    digest = hashlib.sha256(token.encode()).hexdigest()[:16]
    folder = home / ".kircerta"
    folder.mkdir(parents=True, exist_ok=True)
    fd = os.open(folder / f"{what}-{digest}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with _named_on_this_machine(f"kircerta-{what}-{digest}"):
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise TurnTaken from None
            yield Turn(fd)
    finally:
        os.close(fd)


@contextmanager
def _named_on_this_machine(name: str) -> Iterator[None]:
    """Hold an abstract socket's name: no file, nobody's folder, gone with its process."""
    if sys.platform != "linux":
        yield
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as held:
        try:
            held.bind(f"\0{name}")
        except OSError:
            raise TurnTaken from None
        yield
