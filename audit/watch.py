"""The doorbell: wakes a waiting process when a watched folder changes. A lost ring costs latency, never an event."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

if sys.platform.startswith("linux"):
    from inotify_simple import INotify, flags

POLL_S: Final = 0.25
"""The safety net: how often a follower looks without having been rung for."""


class Doorbell:
    """Waits for changes in folders: inotify on Linux (0.2 ms), polling where there is none.

    `wait` gives the changed names per folder; None as a name means that anything may have changed (an overflow of
    the kernel's queue, a folder that went or came back, or no inotify): look at everything again. One instance a
    process: Linux grants 128.

    Args:
        appends_only: ring for what is written and renamed, not for what is closed: each commit closes several files.
    """

    def __init__(self, folders: Sequence[Path], *, appends_only: bool = False) -> None:
        self._folders = list(folders)
        self._appends_only = appends_only
        self._inotify: INotify | None = None
        self._watched: dict[int, Path] = {}
        self._hung: dict[Path, tuple[int, int]] = {}  # which folder it was that stood there
        if sys.platform.startswith("linux"):
            try:
                self._inotify = INotify()
                for folder in self._folders:
                    self._hang(folder)
            except OSError:  # no instance or watch left: poll all of them
                self.close()

    @property
    def is_polling(self) -> bool:
        return self._inotify is None

    def wait(self, timeout_s: float) -> dict[Path, set[str | None]]:
        """What changed, at the latest after `timeout_s` seconds; empty when nothing did (that is known of)."""
        if self._inotify is None:
            time.sleep(min(timeout_s, 0.05))
            return {folder: {None} for folder in self._folders}
        changed: dict[Path, set[str | None]] = {
            folder: {None} for folder in self._folders if self._went_or_came(folder)
        }
        if changed:
            return changed
        for event in self._inotify.read(timeout=max(0, int(timeout_s * 1000))):
            if event.mask & flags.Q_OVERFLOW:
                return {folder: {None} for folder in self._folders}
            folder = self._watched.get(event.wd)
            if folder is not None:
                changed.setdefault(folder, set()).add(os.fsdecode(event.name))
            if folder is not None and event.mask & flags.IGNORED:
                self._forget(folder)
                changed[folder].add(None)
        return changed

    def _hang(self, folder: Path) -> None:
        mask = flags.MODIFY | flags.CREATE | flags.DELETE | flags.MOVED_TO | flags.MOVED_FROM
        mask |= 0 if self._appends_only else flags.CLOSE_WRITE
        assert self._inotify is not None
        status = os.stat(folder)  # first: one that is exchanged in between is noticed the next time
        self._watched[self._inotify.add_watch(folder, mask | flags.MOVE_SELF)] = folder
        self._hung[folder] = status.st_dev, status.st_ino

    def _went_or_came(self, folder: Path) -> bool:
        """Whether another folder stands under the name than is watched, or none; from now on that one is watched.

        The watch goes with the folder: under another name it would ring for what nobody looks at.
        """
        try:
            status = os.stat(folder)
            if self._hung.get(folder) == (status.st_dev, status.st_ino):
                return False
            self._forget(folder)
            self._hang(folder)
        except OSError:
            return self._forget(folder)
        return True

    def _forget(self, folder: Path) -> bool:
        """Watch a folder no more. Whether it was watched."""
        for watch in [watch for watch, watched in list(self._watched.items()) if watched == folder]:
            del self._watched[watch]
            with suppress(OSError):  # it went with its folder
                if self._inotify is not None:
                    self._inotify.rm_watch(watch)
        return self._hung.pop(folder, None) is not None

    def ring_out(self) -> None:
        """Wake whoever waits, for the last time: removing a watch is an event, too. From another thread."""
        bell = self._inotify
        for watch in list(self._watched):
            with suppress(OSError, ValueError):  # it closed meanwhile
                if bell is not None:
                    bell.rm_watch(watch)

    def close(self) -> None:
        if self._inotify is not None:
            self._inotify.close()
            self._inotify = None
            self._watched = {}
