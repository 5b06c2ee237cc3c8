"""Keeps a few processes running for `kircerta up`: starts, watches and restarts them, and stops all of them.

Each runs below a keeper (`flows/agents/keeper.py`), which ends it and everything that it started: when told so, and
also when this process is gone, kill -9 included.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

GRACE_S: Final = 5.0
"""Seconds between SIGTERM and SIGKILL."""
QUICK_DEATH_S: Final = 10.0
"""Who dies sooner than this after a start died quickly."""
MAX_QUICK_DEATHS: Final = 5
FIRST_PAUSE_S: Final = 0.5
MAX_LOG_BYTES: Final = 16 * 1024 * 1024
_KEEPER: Final = Path(__file__).parents[1] / "flows" / "agents" / "keeper.py"


@dataclass(frozen=True, slots=True)
class Service:
    """One process: its name, how it is started, where its output goes, and how to see that it is ready."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    is_ready: Callable[[], bool]


class GaveUp(Exception):
    """A service died too often; the message says which, and where its output is."""


@dataclass(slots=True)
class Kept:
    """A service under way."""

    service: Service
    process: subprocess.Popen[bytes] | None = None
    leash: int = -1
    started: float = 0.0
    quick_deaths: int = 0
    start_again: float = field(default=0.0)

    def start(self) -> None:
        """Start it, with its output appended to its log."""
        hear, self.leash = os.pipe()
        _make_room(self.service.log)
        with self.service.log.open("ab") as log:
            try:
                self.process = subprocess.Popen(
                    [sys.executable, "-I", "-S", str(_KEEPER), str(hear), str(GRACE_S), *self.service.command],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=dict(self.service.environment),
                    pass_fds=(hear,),
                    start_new_session=True,  # Ctrl-C is for us: we tell them in our own time
                )
            finally:
                os.close(hear)
        self.started = time.monotonic()

    def ended(self) -> int | None:
        """Its exit code where it has ended; None while it runs or waits for its next start."""
        return self.process.poll() if self.process is not None else None

    def note_death(self) -> float:
        """Plan its next start, later after each quick death. Gives the seconds until then."""
        now = time.monotonic()
        self.quick_deaths = self.quick_deaths + 1 if now - self.started < QUICK_DEATH_S else 1
        pause = FIRST_PAUSE_S * 2.0 ** (self.quick_deaths - 1)
        self.process, self.start_again = None, now + pause
        self._let_go()
        return pause

    def ask_to_end(self) -> None:
        """SIGTERM to all of it; its keeper sends SIGKILL to what is left after the grace."""
        if self.leash >= 0:
            with suppress(OSError):
                os.write(self.leash, b".")

    def wait_until(self, deadline: float) -> None:
        """Wait for its end. Whoever outlasts the deadline is killed: the end of the leash does that."""
        if self.process is None:
            return
        try:
            self.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._let_go()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(2.0)
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self._let_go()

    def _let_go(self) -> None:
        if self.leash >= 0:
            os.close(self.leash)
            self.leash = -1


class Supervisor:
    """All services of one `kircerta up`. `tell` gets a line about each death and restart."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._kept: list[Kept] = []

    def start(self, service: Service) -> None:
        kept = Kept(service)
        self._kept.append(kept)
        kept.start()

    def turn(self) -> None:
        """Look after everything once. Raises GaveUp."""
        for kept in self._kept:
            code = kept.ended()
            if code is not None:
                self._after_death(kept, code)
            elif kept.process is None and time.monotonic() >= kept.start_again:
                kept.start()

    def _after_death(self, kept: Kept, code: int) -> None:
        name, log = kept.service.name, kept.service.log
        pause = kept.note_death()
        if kept.quick_deaths >= MAX_QUICK_DEATHS:
            raise GaveUp(f"{name} died {MAX_QUICK_DEATHS} times in a row ({_told(code)}{last_words(log)}): see {log}")
        self._tell(f"{name} died ({_told(code)}{last_words(log)}); it starts again in {pause:g} s")

    def stop(self) -> None:
        """Stop everything, in at most the grace and a moment."""
        for kept in self._kept:
            kept.ask_to_end()
        deadline = time.monotonic() + GRACE_S + 1.0
        for kept in self._kept:
            kept.wait_until(deadline)
        self._kept.clear()


def _told(code: int) -> str:
    number = -code if code < 0 else code - 128
    with suppress(ValueError):
        return f"by {signal.Signals(number).name}"
    return f"exit code {code}"


def last_words(log: Path) -> str:
    """The last line of a log, to be put behind something else; empty where there is none."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 4096))
            lines = file.read().decode(errors="replace").split("\n")
    except OSError:
        return ""
    said = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f": {said[:200]}" if said else ""


def _make_room(log: Path) -> None:
    """A log that has grown large makes way; one older one is kept."""
    with suppress(FileNotFoundError):
        if log.stat().st_size > MAX_LOG_BYTES:
            log.replace(log.with_suffix(".old.log"))
