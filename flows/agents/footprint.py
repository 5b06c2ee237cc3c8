"""How much of the disk an agent takes: what its folders show, and what its processes hold open without a name.

It reads while the agent is at work and does what it can to be missed: nothing is followed, and what cannot be looked at
is never taken for nothing.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Final

_BLOCK: Final = 4096
"""What a name costs at the least: its inode and its place in a folder, also where nothing is in it."""


class TooDeep(Exception):
    """A folder's path is longer than the system takes: what lies in it cannot be looked at."""


def entries(folder: Path, *, without: Path | None = None) -> Iterator[os.DirEntry[str]]:
    """Everything below a folder, links unfollowed, what vanishes meanwhile left out.

    Args:
        without: a folder that is not looked into.

    Raises:
        TooDeep: where the folders reach too deep.
    """
    waiting = [str(folder)]
    while waiting:
        for one in _listed(waiting.pop()):
            yield one
            if one.is_dir(follow_symlinks=False) and one.path != str(without):
                waiting.append(one.path)


def _listed(path: str) -> list[os.DirEntry[str]]:
    try:
        return list(os.scandir(path))
    except PermissionError:  # the folder is the agent's, and so is its mode: what is closed is opened
        with suppress(OSError):
            _open_up(path)
            return list(os.scandir(path))
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise TooDeep(f"folders in {path[:60]}… reach too deep to be looked at") from None
    return []


def _open_up(path: str) -> None:
    """Make a folder readable: this one, and not what a link in its place may lead to."""
    fd = os.open(path, os.O_DIRECTORY | os.O_NOFOLLOW | getattr(os, "O_PATH", os.O_RDONLY) | os.O_CLOEXEC)
    try:
        os.chmod(f"/proc/self/fd/{fd}", 0o700)
    finally:
        os.close(fd)


def bytes_in(folders: Iterable[Path]) -> int:
    """Bytes on the disk of everything in the folders. Raises TooDeep."""
    total = 0
    for folder in folders:
        for one in entries(folder):
            with suppress(OSError):
                total += max(one.stat(follow_symlinks=False).st_blocks * 512, _BLOCK)
    return total


def bytes_held(pid: int, device: int) -> int:
    """Bytes on a device of files that have no name any more, and that a process or its descendants hold open.

    0 where there is no /proc.
    """
    held: dict[int, int] = {}
    for one in _descendants(pid):
        with suppress(OSError):
            for fd in os.listdir(f"/proc/{one}/fd"):
                with suppress(OSError):
                    found = os.stat(f"/proc/{one}/fd/{fd}")
                    if found.st_nlink == 0 and found.st_dev == device and stat.S_ISREG(found.st_mode):
                        held[found.st_ino] = found.st_blocks * 512
    return sum(held.values())


def _descendants(pid: int) -> list[int]:
    children = _children_at(int(time.monotonic()))
    found = [pid]
    for one in found:  # grows on the way
        found += children.get(one, ())
    return found


@lru_cache(maxsize=1)
def _children_at(second: int) -> dict[int, list[int]]:
    """The children of every process: looked up once a second, for however many agents."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc") if os.path.isdir("/proc") else ():
        if name.isdecimal():
            with suppress(OSError, IndexError, ValueError):
                # the command's name may hold blanks and parentheses: what counts comes after the last one
                parent = int(Path(f"/proc/{name}/stat").read_bytes().rpartition(b")")[2].split()[1])
                children.setdefault(parent, []).append(int(name))
    return children
