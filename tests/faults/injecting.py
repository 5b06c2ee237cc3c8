"""One faulty run: a process commits while strace fails or kills it at one system call; then everything is checked."""

from __future__ import annotations

import os
import re
import select
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from audit.event import KINDS
from audit.reader import read_events
from ssot import intents
from ssot.store import Store
from tests.faults import world
from tests.faults.committer import SETTINGS
from tests.faults.world import Promise

HERE = Path(__file__).resolve().parents[2]
STRACE = shutil.which("strace")


@dataclass
class Told:
    """What a committer told before it ended (`status`: its exit code, or the negative signal)."""

    promises: list[Promise] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    view: dict[str, str] = field(default_factory=dict)
    at: int | None = None
    status: int | None = None

    def hear(self, line: str) -> None:
        what, *words = line.split(" ")
        if what == "promise":
            self.promises.append(Promise(int(words[0]), *words[1:]))
        elif what == "failed":
            self.failures.append(" ".join(words))
        elif what == "view":
            self.view[words[0]] = words[1]
        elif what == "at":
            self.at = int(words[0])
        elif what == "end":
            self.status = int(words[0])


class Committer:
    """The process that forks committers, so that each of them starts at once."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.faults.committer"]
        self._process = subprocess.Popen(command, cwd=HERE, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout
        self._out = self._process.stdout

    def run(self, home: Path, inject: str | None = None, *, limit: int = 0, trace: Path | None = None) -> Told:
        """Let one process commit in `home`. `inject` as strace takes it, e.g. ``fsync:error=EIO:when=2``."""
        self._say(f"{home} {limit}\n")
        pid = int(self._line().split(" ")[1])
        tracer = _attach(pid, inject, trace) if inject or trace else None
        self._say("go\n")
        told = Told()
        while told.status is None:
            told.hear(self._line())
        if tracer is not None:
            tracer.communicate(timeout=10)
        return told

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(timeout=10)
        self._out.close()

    def _say(self, text: str) -> None:
        assert self._process.stdin
        self._process.stdin.write(text.encode())
        self._process.stdin.flush()

    def _line(self) -> str:
        line = self._out.readline().decode()
        assert line, "the committer is gone"
        return line.strip()


@contextmanager
def committer() -> Iterator[Committer]:
    process = Committer()
    try:
        yield process
    finally:
        process.close()


class NoTracing(Exception):
    """strace may not look into processes here."""


def _attach(pid: int, inject: str | None, trace: Path | None) -> subprocess.Popen[bytes]:
    assert STRACE
    what = ["-e", f"trace={inject.split(':')[0]}", "-e", f"inject={inject}"] if inject else []
    command = [STRACE, "-f", "-p", str(pid), "-o", str(trace or os.devnull), *what]
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE)
    assert tracer.stderr
    ready, _, _ = select.select([tracer.stderr], [], [], 10)
    said = tracer.stderr.readline().decode() if ready else ""
    if "attached" not in said:
        tracer.kill()
        tracer.communicate()
        raise NoTracing(said.strip())
    return tracer


def calls(trace: Path) -> Counter[str]:
    """How often each system call was made."""
    return Counter(re.findall(r"^\d+ +(\w+)\(", trace.read_text(errors="replace"), re.MULTILINE))


def check(home: Path, told: Told, before: list[Promise]) -> list[str]:
    """What is wrong after a faulty run, once another process has gone on with the workspace; empty when nothing is."""
    found = [f"unnamed error: {text}" for text in told.failures if text.split(" ")[0] not in NAMED]
    store = Store.open(home, source="kircerta/after", settings=SETTINGS)
    store.scan()
    store.commit("after", intents.Create(request_text="Go on"), actor="importer")
    store.scan()
    rejected = store.task("B")
    if rejected.status == "rejected" and not rejected.locked:
        found.append("owed: B was rejected, but never locked")
    store.close()
    found += world.problems(home, [*before, *told.promises])
    return found + _unlike_the_log(home, told)


NAMED = frozenset({"StorageFailed", "SyncFailed", "Corrupt", "Busy", "Refused"})


def _unlike_the_log(home: Path, told: Told) -> list[str]:
    """Where the faulty process, still alive, saw something else than the log said then."""
    if told.at is None:
        return []
    expected: dict[str, str] = {}
    for event in read_events(home / "audit"):
        if event.seq <= told.at and (kind := KINDS.get(event.type)) and kind.changes_task and event.subject:
            expected[event.subject] = event.data["document_sha256"]
    return [] if expected == told.view else [f"at seq {told.at} the process saw {told.view}, not {expected}"]
