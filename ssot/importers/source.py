"""Opens what is to be imported, and nothing else: regular files up to 8 MiB, never a link, a pipe or a
device.

Content that cannot be read becomes `Unreadable`, which its caller turns into a problem of that file.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from ssot.importers.draft import Gathering

MAX_FILE_BYTES = 8 * 1024 * 1024
MAX_FILES = 20_000
MAX_FOLDER_DEPTH = 16
_PASSED_BY = frozenset({"node_modules", "__pycache__", "venv"})
_BOM = b"\xef\xbb\xbf"


class Unreadable(ValueError):
    """A file that cannot be taken as it is; `line` is where, if that is known."""

    def __init__(self, reason: str, line: int | None = None) -> None:
        super().__init__(reason)
        self.line = line


def content(path: Path) -> bytes:
    """The bytes of a regular file up to 8 MiB, without a byte order mark.

    O_NOFOLLOW and O_NONBLOCK because a link may lead out of the folder and a FIFO would block for ever.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        reason = "it is a symbolic link, which is not followed" if path.is_symlink() else error.strerror or str(error)
        raise Unreadable(f"not opened: {reason}") from None
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise Unreadable("not opened: it is not a regular file")
        raw = _at_most(handle, MAX_FILE_BYTES + 1)
    except OSError as error:
        raise Unreadable(f"not read: {error.strerror or error}") from None
    finally:
        os.close(handle)
    if len(raw) > MAX_FILE_BYTES:
        raise Unreadable(f"larger than {MAX_FILE_BYTES // 1024 // 1024} MiB ({max(status.st_size, len(raw))} bytes)")
    return raw.removeprefix(_BOM)


def _at_most(handle: int, limit: int) -> bytes:
    parts: list[bytes] = []
    while limit > 0 and (part := os.read(handle, min(limit, 1 << 20))):
        parts.append(part)
        limit -= len(part)
    return b"".join(parts)


def text(path: Path) -> str:
    """The file as UTF-8 text with `\\n` line ends."""
    return decoded(content(path))


def decoded(raw: bytes) -> str:
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise Unreadable("not UTF-8 (it looks like UTF-16); save it as UTF-8", 1)
    if (at := raw.find(b"\0")) >= 0:
        raise Unreadable("holds a NUL byte: not a text", raw.count(b"\n", 0, at) + 1)
    try:
        found = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise Unreadable(f"not UTF-8: byte 0x{raw[error.start]:02x}", line) from None
    return found.replace("\r\n", "\n").replace("\r", "\n")


def name_of(path: Path, root: Path) -> str:
    """How a file is called in drafts and problems: relative to what was imported, printable."""
    relative = path.name if path == root else path.relative_to(root).as_posix()
    return os.fsencode(relative).decode("utf-8", "replace")


def entries(folder: Path, root: Path, gathering: Gathering | None = None) -> list[Path]:
    """A folder's visible entries, by name; an unreadable folder is a problem, and empty."""
    try:
        found = sorted(folder.iterdir(), key=lambda path: os.fsencode(path.name))
    except OSError as error:
        if gathering is not None:
            gathering.problem(name_of(folder, root), None, f"folder not read: {error.strerror or error}")
        return []
    return [path for path in found if not path.name.startswith(".") and path.name not in _PASSED_BY]


def is_folder(path: Path) -> bool:
    """A folder of its own, not a link to one."""
    try:
        return path.is_dir() and not path.is_symlink()
    except OSError:
        return False


def is_folder_or_root(path: Path) -> bool:
    """The path a person named may be a link to a folder; inside it links are not followed."""
    try:
        return path.is_dir()
    except OSError:
        return False


def files_under(folder: Path, root: Path, gathering: Gathering, suffixes: tuple[str, ...]) -> Iterator[Path]:
    """Every file below a folder with one of these suffixes, folder by folder, in the order of names."""
    waiting, found = [(folder, 0)], 0
    while waiting:
        here, depth = waiting.pop()
        inner: list[tuple[Path, int]] = []
        for path in entries(here, root, gathering):
            if is_folder(path):
                inner.append((path, depth + 1))
            elif path.name.lower().endswith(suffixes):
                found += 1
                if found > MAX_FILES:
                    gathering.problem(name_of(here, root), None, f"more than {MAX_FILES} files; the rest was not read")
                    return
                yield path
        if inner and depth >= MAX_FOLDER_DEPTH:
            gathering.problem(name_of(here, root), None, f"folders nested deeper than {MAX_FOLDER_DEPTH} were not read")
        else:
            waiting.extend(reversed(inner))


def read_text(path: Path, root: Path, gathering: Gathering) -> str | None:
    """The file's text, or None with the problem noted."""
    try:
        return text(path)
    except Unreadable as error:
        gathering.problem(name_of(path, root), error.line, str(error))
        return None
