"""The drill: four writers on one workspace, killed at random moments and started again, everything they tell kept."""

from __future__ import annotations

import os
import random
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.world import Promise

HERE = Path(__file__).resolve().parents[2]


@dataclass
class Drill:
    """What happened: kills carried out, promises heard, and writers that died by themselves."""

    kills: int = 0
    promises: list[Promise] = field(default_factory=list)
    died: list[str] = field(default_factory=list)
    writing: set[int] = field(default_factory=set)
    starting: int = 0

    def hear(self, line: str) -> None:
        pid, what, *more = line.split(" ")
        if what == "up":
            self.starting -= 1
            self.writing.add(int(pid))
        elif what == "died":
            self.died.append(" ".join(more))
            self.writing.discard(int(pid))
        else:
            kind, subject, digest = more
            self.promises.append(Promise(int(what), kind, subject, digest))


def kill_writers(
    home: Path,
    *,
    kills: int,
    seed: int,
    writers: int = 4,
    promises: int = 0,
    progress: Callable[[int], None] = lambda done: None,
) -> Drill:
    """Let writers work on a workspace and kill them, one or all of them, `kills` times; gives what was heard.

    Where the machine is busy and writers come to little before they are killed, it goes on until it heard `promises`.
    """
    dice, drill = random.Random(seed), Drill()
    command = [sys.executable, "-m", "tests.faults.writer", str(home), "24"]
    nursery = subprocess.Popen(command, cwd=HERE, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert nursery.stdin
    assert nursery.stdout
    ear = _Ear(nursery.stdout.fileno(), drill)
    try:
        while (drill.kills < kills or len(drill.promises) < promises) and not drill.died:
            while len(drill.writing) + drill.starting < writers:
                nursery.stdin.write(b"%d\n" % dice.randrange(10**9))
                nursery.stdin.flush()
                drill.starting += 1
            ear.listen(dice.random() * 0.03)
            if drill.starting == 0 or (drill.writing and dice.random() < 0.2):
                _kill(drill, dice)
                progress(drill.kills)
    finally:
        nursery.stdin.close()
        deadline = time.monotonic() + 10
        while drill.starting and time.monotonic() < deadline:  # they tell their pid once they are up
            ear.listen(0.1)
        _kill(drill, dice, everybody=True)
        nursery.wait(timeout=10)
        ear.listen_to_the_end()
        nursery.stdout.close()
    return drill


def _kill(drill: Drill, dice: random.Random, *, everybody: bool = False) -> None:
    alive = sorted(drill.writing)
    chosen = alive if everybody or dice.random() < 0.1 else [dice.choice(alive)]
    for pid in chosen:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        drill.writing.discard(pid)
        drill.kills += 1


class _Ear:
    """Collects whole lines from the writers' pipe."""

    def __init__(self, fd: int, drill: Drill) -> None:
        self._fd, self._drill, self._rest = fd, drill, b""
        self._selector = selectors.DefaultSelector()
        self._selector.register(fd, selectors.EVENT_READ)

    def listen(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if self._selector.select(left) and not self._take():
                return

    def listen_to_the_end(self) -> None:
        while self._take():
            pass
        self._selector.close()

    def _take(self) -> bool:
        data = os.read(self._fd, 1 << 16)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._drill.hear(line.decode())
        return bool(data)
