"""Whether a dispatcher lives for a workspace, and where it runs its flows."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal

import orjson

from audit.files import replace_file
from ssot.claims import is_locked

_FOLDER: Final = Path(".kircerta")
Link = Literal["none", "unknown", "up", "down"]


class AlreadyRunning(Exception):
    """Another dispatcher lives for this workspace."""


@dataclass(frozen=True, slots=True)
class Presence:
    """The dispatcher of a workspace: its process, the Prefect server it uses, since when, and how that server is."""

    pid: int
    prefect_api_url: str | None
    since: str
    prefect: Link = "unknown"

    def save(self, home: Path) -> None:
        replace_file(home / _FOLDER / "dispatcher.json", orjson.dumps(asdict(self)))


def lock_file(home: Path) -> Path:
    """Who holds this file's lock is the one dispatcher of the workspace."""
    return home / _FOLDER / "dispatcher.lock"


def is_dispatcher_alive(home: Path) -> bool:
    """Whether a dispatcher lives for the workspace."""
    return is_locked(lock_file(home))


def dispatcher_of(home: Path) -> Presence | None:
    """The living dispatcher; None when there is none. What a dead one left behind does not count."""
    if not is_dispatcher_alive(home):
        return None
    with suppress(OSError, ValueError, TypeError):
        return Presence(**orjson.loads((home / _FOLDER / "dispatcher.json").read_bytes()))
    return None


def become_dispatcher(home: Path) -> int:
    """Take the dispatcher's lock, for as long as this process lives; gives its descriptor. Raises AlreadyRunning."""
    path = lock_file(home)
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        other = dispatcher_of(home)
        which = f" (process {other.pid})" if other else ""
        raise AlreadyRunning(f"a dispatcher runs for {home} already{which}: one is enough") from None
    return fd
