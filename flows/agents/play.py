"""How an agent of our own is written: a generator of moves, played on stdin and stdout or in this process.

Standard library only: the scripts that use it start in some 30 ms.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

Line = dict[str, Any]


class Pause(NamedTuple):
    """Say nothing for a while."""

    seconds: float


class Raw(NamedTuple):
    """Write these bytes as they are: what is no message."""

    written: bytes


class Crash(NamedTuple):
    """End at once with this exit code."""

    exit_code: int
    stderr: str = ""


class LeaveBehind(NamedTuple):
    """Start a process that outlives the agent, in a session of its own where `detached`; `name` marks it."""

    seconds: float
    name: str
    detached: bool = True


Move = Line | Pause | Raw | Crash | LeaveBehind
Play = Callable[[Mapping[str, Any]], Iterator[Move]]


def now() -> str:
    """The time of an operation, RFC 3339 UTC with microseconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def main(play: Play) -> int:
    """Play on stdin and stdout: read one job, write one line a message, exit 0."""
    job = json.loads(sys.stdin.buffer.read())
    try:
        for move in play(job):
            if isinstance(move, Crash):
                sys.stderr.write(move.stderr)
                return move.exit_code
            _make(move)
    except BrokenPipeError:  # nobody listens any more; nothing is left to flush at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


def _make(move: Line | Pause | Raw | LeaveBehind) -> None:
    if isinstance(move, Pause):
        time.sleep(move.seconds)
    elif isinstance(move, LeaveBehind):
        _leave_behind(move)
    else:
        written = move.written if isinstance(move, Raw) else encode(move)
        sys.stdout.buffer.write(written)
        sys.stdout.buffer.flush()


def encode(line: Line) -> bytes:
    """A message as the line that goes out."""
    return json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _leave_behind(move: LeaveBehind) -> None:
    if os.fork() == 0:
        if move.detached:
            os.setsid()
        wait = f"import time; time.sleep({move.seconds})"
        os.execv(sys.executable, [sys.executable, "-I", "-S", "-c", wait, move.name])
