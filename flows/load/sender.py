"""The generator as its parent sees it: a process that gets orders and tells how far it is."""

from __future__ import annotations

import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

import orjson

from flows.load.generator import Brief

_LOG: Final = ".generator.log"
_CODE: Final = Path(__file__).parents[2]


class GeneratorDied(Exception):
    """The generator ended before its time."""


@dataclass(slots=True)
class Told:
    """What the generator told so far."""

    ready: bool = False
    sent: bool = False
    over: dict[str, Any] | None = None
    progress: dict[str, Any] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    acked: list[tuple[str, str, int]] = field(default_factory=list)
    lags: list[tuple[int, float]] = field(default_factory=list)
    silent: bool = False
    """Nothing more will come."""


class Sender:
    """Starts the generator, and hears it in a thread. Not in our process group: Ctrl-C is for us to pass on."""

    def __init__(self, brief: Brief) -> None:
        self._folder = Path(brief.folder)
        with (self._folder / _LOG).open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "flows.load.generator"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=_CODE,
                start_new_session=True,
            )
        self._told = Told()
        self._guard = threading.Lock()
        self._news = threading.Condition(self._guard)
        self._order_guard = threading.Lock()
        self._thread = threading.Thread(target=self._hear, name="load-sender", daemon=True)
        self._thread.start()
        self._write(brief.model_dump_json().encode())

    @property
    def pid(self) -> int:
        return self.process.pid

    def order(self, **what: Any) -> None:
        """Tell it something."""
        self._write(orjson.dumps(what))

    def _write(self, line: bytes) -> None:
        with self._order_guard, suppress(BrokenPipeError, ValueError):  # it died: that is noticed when it is waited for
            assert self.process.stdin is not None
            self.process.stdin.write(line + b"\n")
            self.process.stdin.flush()

    def wait(self, what: str, timeout_s: float) -> bool:
        """Wait until it told `ready`, `sent` or `over`. Raises GeneratorDied."""
        with self._news:
            self._news.wait_for(lambda: bool(getattr(self._told, what)) or self._told.silent, timeout_s)
            there, silent = bool(getattr(self._told, what)), self._told.silent
        if silent and not there:
            raise GeneratorDied(f"the load generator ended too early: {self._last_words()}")
        return there

    def progress(self) -> dict[str, Any]:
        """How far it was when it last said so."""
        with self._guard:
            return dict(self._told.progress)

    def take_failed(self) -> list[str]:
        """The tasks whose decision did not come through, since the last call."""
        with self._guard:
            found, self._told.failed = self._told.failed, []
        return found

    @property
    def told(self) -> Told:
        return self._told

    def close(self) -> None:
        """Let it go; it ends with its stdin."""
        with suppress(OSError):
            assert self.process.stdin is not None
            self.process.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._thread.join(5)
        if self.process.stdout is not None:
            self.process.stdout.close()
        if self.process.returncode == 0:
            (self._folder / _LOG).unlink(missing_ok=True)

    def _hear(self) -> None:
        stdout: IO[bytes] | None = self.process.stdout
        assert stdout is not None
        for line in stdout:
            with self._news:
                self._take(orjson.loads(line))
                self._news.notify_all()
        with self._news:
            self._told.silent = True
            self._news.notify_all()

    def _take(self, said: dict[str, Any]) -> None:
        told = self._told
        told.ready |= bool(said.get("ready"))
        told.failed += said.get("failed", ())
        told.acked += [tuple(one) for one in said.get("acked", ())]
        if "at_us" in said:
            told.progress = said
            told.lags.append((said["at_us"], said["lag_us"] / 1000))
        told.sent |= bool(said.get("sent"))
        if said.get("over"):
            told.over = said

    def _last_words(self) -> str:
        with suppress(OSError):
            lines = (self._folder / _LOG).read_text(errors="replace").strip().splitlines()
            return lines[-1][:300] if lines else "it said nothing"
        return "it said nothing"
