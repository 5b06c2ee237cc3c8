"""Looks at the system under load once a second: the server's memory and files, its loop, the log, everybody's CPU."""

from __future__ import annotations

import http.client
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from audit.segments import segments
from flows.load import machine
from flows.load.machine import TICKS_A_S, Glance
from flows.load.plan import US
from ssot.presence import dispatcher_of

EVERY_S: Final = 1.0
_TIMEOUT_S: Final = 5.0
_LAG: Final = re.compile(rb"^kircerta_loop_lag_seconds (\S+)$", re.MULTILINE)


class Watch:
    """Two threads of its own, so that a server that stalls hides nothing of the machine.

    `rows` are (µs since the run's start, name, value).
    """

    def __init__(self, home: Path, base_url: str, generator_pid: int, now_us: Callable[[], int], token: str) -> None:
        self.rows: list[tuple[int, str, float]] = []
        self._home = home
        self._parts = urlsplit(base_url)
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._generator = generator_pid
        self._now_us = now_us
        self._before: Glance | None = None
        self._used: Counter[str] = Counter()
        self._ticks = 0
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(look,), name="load-watch", daemon=True)
            for look in (self._look_at_machine, self._look_at_loop)
        ]
        self.server_pid = machine.listener(self._parts.port or 80)

    def start(self) -> None:
        self._before = machine.glance()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End."""
        self._over.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(_TIMEOUT_S + 1)

    def others(self, most: int = 5) -> list[dict[str, Any]]:
        """Whose processes used most of the machine meanwhile, by name."""
        shares = ((name, ticks / max(1, self._ticks)) for name, ticks in self._used.most_common(most))
        return [{"name": name, "cpu_share": round(share, 4)} for name, share in shares]

    def note(self, name: str, value: float | None) -> None:
        """One value, now."""
        if value is not None:
            self.rows.append((self._now_us(), name, float(value)))

    def mean(self, name: str, begin_us: int, end_us: int) -> float | None:
        """The mean of a series over a part of the run; None where it has no value there."""
        found = [value for at, which, value in list(self.rows) if which == name and begin_us < at <= end_us + US]
        return sum(found) / len(found) if found else None

    # ------------------------------------------------------------------------------------------------ looking

    def _run(self, look: Callable[[], None]) -> None:
        due = time.monotonic()
        while not self._over.wait(max(0.0, due - time.monotonic())):
            due = max(due + EVERY_S, time.monotonic())
            look()

    def _look_at_machine(self) -> None:
        self._look_at_processes()
        self.note("log_bytes", _log_bytes(self._home))

    def _look_at_loop(self) -> None:
        self.note("loop_lag_ms", self._loop_lag_ms())

    def _look_at_processes(self) -> None:
        now, before = machine.glance(), self._before
        if now is None:
            return
        if self.server_pid not in now.processes:  # it was restarted
            self.server_pid = machine.listener(self._parts.port or 80)
        if self.server_pid is not None:
            self.note("rss_bytes", machine.resident_bytes(self.server_pid))
            self.note("fds", machine.open_files(self.server_pid))
        if before is not None and now.total > before.total:
            ours = self._ours(now)
            self.note("foreign_cpu", machine.foreign_share(before, now, ours))
            self._used.update(machine.used_by_others(before, now, ours))
            self._ticks += now.total - before.total
            self.note("generator_cpu", _cores(before, now, self._generator))
            if self.server_pid is not None:
                self.note("server_cpu", _cores(before, now, self.server_pid))
        self._before = now

    def _ours(self, now: Glance) -> set[int]:
        """Whose CPU is part of what is measured: the server with whatever started it beside the dispatcher, and us."""
        roots = {os.getpid(), self._generator}
        dispatcher = dispatcher_of(self._home)
        server = now.processes.get(self.server_pid or -1)
        if self.server_pid is not None:
            roots.add(self.server_pid)
        if dispatcher is not None:
            roots.add(dispatcher.pid)
            beside = now.processes.get(dispatcher.pid)
            if server is not None and beside is not None and server.parent == beside.parent > 1:
                roots.add(server.parent)
        return machine.family(roots, now.processes)

    def _loop_lag_ms(self) -> float | None:
        """What the server tells of its loop; None when it does not answer."""
        with suppress(OSError, http.client.HTTPException, ValueError):
            connection = http.client.HTTPConnection(self._parts.hostname or "", self._parts.port, timeout=_TIMEOUT_S)
            try:
                connection.request("GET", "/metrics", headers=self._headers)
                found = _LAG.search(connection.getresponse().read())
            finally:
                connection.close()
            return float(found[1]) * 1000 if found else None
        return None


def _cores(before: Glance, now: Glance, pid: int) -> float | None:
    """A process's CPU as a share of one core."""
    then, since = before.processes.get(pid), now.processes.get(pid)
    if then is None or since is None:
        return None
    cores = max(1, machine.cores())
    seconds = (now.total - before.total) / TICKS_A_S / cores
    return (since.ticks - then.ticks) / TICKS_A_S / seconds if seconds > 0 else None


def _log_bytes(home: Path) -> int | None:
    with suppress(OSError):
        return sum(path.stat().st_size for _, path in segments(home / "audit"))
    return None
