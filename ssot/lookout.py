"""Looks at what the running system stands on: disk, log, dispatcher. Reads only; `ssot.alarms` says what follows."""

from __future__ import annotations

import shutil
import time
from collections import deque
from pathlib import Path
from typing import Final

from audit.segments import segments
from ssot.alarms import Reading
from ssot.claims import is_claimed
from ssot.counted import counted
from ssot.presence import is_dispatcher_alive
from ssot.store import Store

GROWTH_OVER_S: Final = 60.0
_MIB: Final = 1024 * 1024
_SPACE_TO_SPARE: Final = 1.1
"""An alarm of space is over when there is a tenth more than it asks for: it would come and go otherwise."""


def disk(home: Path, least_bytes: int, *, raised: bool) -> Reading:
    """Free space on the workspace's disk."""
    free = shutil.disk_usage(home).free
    least = int(least_bytes * _SPACE_TO_SPARE) if raised else least_bytes
    reason = f"{free / _MIB:,.0f} MiB are free, at least {least_bytes / _MIB:,.0f} MiB are wanted: free some space"
    return Reading("low_disk", free < least, reason, {"free_bytes": free, "least_bytes": least_bytes}, calm_s=0.0)


class Growth:
    """How much the log grew within the last minute."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self._folder = folder
        self._most = most_bytes
        self._seen: deque[tuple[float, int]] = deque()

    def read(self) -> Reading:
        now, size = time.monotonic(), _size_of(self._folder)
        while self._seen and now - self._seen[0][0] > GROWTH_OVER_S:
            self._seen.popleft()
        self._seen.append((now, size))
        grown = max(0, size - self._seen[0][1])
        reason = f"the log grew by {grown / _MIB:,.1f} MiB within a minute, at most {self._most / _MIB:,.0f} are usual"
        return Reading("log_growth", grown > self._most, reason, {"grown_bytes": grown, "most_bytes": self._most})


def _size_of(folder: Path) -> int:
    total = 0
    for _, path in segments(folder):
        try:
            total += path.stat().st_size
        except FileNotFoundError:  # renamed by a rotation: counted under its new name at the next look
            continue
    return total


def dispatcher(store: Store, patience_s: float) -> Reading:
    """Whether somebody is there for the work that waits for a process of ours."""
    home = store.home
    waiting = [] if is_dispatcher_alive(home) else [one for one in store.open_attempts() if _is_ours(one.executor)]
    left = [one.task_id for one in waiting if not is_claimed(home, one.dispatch_id)]
    reason = (
        f"{counted(len(left), 'dispatch waits', 'dispatches wait')} for a dispatcher and none runs: start `kircerta up`"
    )
    return Reading("dispatcher_gone", bool(left), reason, {"waiting": len(left)}, patience_s, calm_s=0.0)


def _is_ours(executor: str) -> bool:
    return executor.partition(":")[0] != "remote"


def prefect(is_gone: bool, url: str, patience_s: float) -> Reading:
    """Whether a Prefect server answers."""
    reason = f"the Prefect server at {url} does not answer: dispatches go on without it, its page stands still"
    return Reading("prefect_gone", is_gone, reason, {"url": url}, patience_s, calm_s=0.0)
