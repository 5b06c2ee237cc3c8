"""An agent that plays inside this process: the generators of the scripts, without a process for each job."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from flows.agents.play import Crash, LeaveBehind, Move, Pause, Play, Raw, encode
from flows.agents.protocol import LIMITS, AgentFailed, Limits, Message, Session, Silent, read_message
from ssot import strict_json


@dataclass(frozen=True, slots=True)
class InprocessAgent:
    """Calls `play(job)` and hands on what it yields, through the same checks as a program's lines.

    For tests, benchmarks and demonstrations: nothing is contained, a play that blocks holds the event loop.
    """

    name: str
    principal: str
    play: Play
    limits: Limits = LIMITS
    options: Mapping[str, Any] = field(default_factory=dict)
    timeout_s: float = 3600.0
    local: bool = True

    @asynccontextmanager
    async def open(self, job: bytes) -> AsyncIterator[Session]:
        """Start the play on a job."""
        moves = self.play(strict_json.loads(job))
        yield _PlaySession(moves, self.limits)


class _PlaySession:
    """A play under way. A pause longer than the listener's patience goes on at the next call."""

    def __init__(self, moves: Iterator[Move], limits: Limits) -> None:
        self._moves = moves
        self._limits = limits
        self._quiet_until = 0.0
        self._bytes = 0

    async def next(self, timeout: float) -> Message:
        deadline = time.monotonic() + timeout
        while True:
            wait = min(self._quiet_until, deadline) - time.monotonic()
            if wait > 0:
                await asyncio.sleep(wait)
            if self._quiet_until > deadline:
                raise Silent(f"nothing within {timeout:g} s")
            message = self._perform(self._move())
            if message is not None:
                return message

    def _move(self) -> Move:
        try:
            return next(self._moves)
        except StopIteration:
            raise AgentFailed("exited", "exit code 0", exit_code=0) from None
        except ValueError as error:  # as the scripts: a wrong option is exit code 2 and a line on stderr
            raise AgentFailed("exited", f"exit code 2; stderr: {error}", exit_code=2) from None

    def _perform(self, move: Move) -> Message | None:
        if isinstance(move, Crash):
            said = f"; stderr: {move.stderr.strip()}" if move.stderr else ""
            raise AgentFailed("exited", f"exit code {move.exit_code}{said}", exit_code=move.exit_code)
        if isinstance(move, Pause):
            self._quiet_until = time.monotonic() + move.seconds
            return None
        if isinstance(move, LeaveBehind):
            return None  # there is no process that could leave one behind
        line = move.written if isinstance(move, Raw) else encode(move)
        self._bytes += len(line)
        if self._bytes > self._limits.output_bytes:
            raise AgentFailed("too_much_output", f"more than {self._limits.output_bytes} bytes of output")
        return read_message(line, self._limits)
