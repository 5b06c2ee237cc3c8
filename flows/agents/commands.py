"""Commands that are run for an agent, and checks: each in a cage of its own, and told as it was seen to end."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shlex
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import orjson

from flows.agents import errand
from flows.agents.enclosure import Enclosure, until_too_large
from flows.agents.subprocess_agent import environment
from ssot import strict_json
from ssot.observed import CommandRun

_KEEPER: Final = str(Path(__file__).with_name("keeper.py"))
_GRACE_S: Final = 1.0
TAIL_BYTES: Final = 2000
ANSWER_BYTES: Final = 64 * 1024
"""How much of a command's output goes back to the agent: its end."""
MOST_COMMANDS: Final = 200
MOST_ASKED_BYTES: Final = 64 * 1024

Stopped = Literal["time", "output", "disk", "closed"]


@dataclass(slots=True)
class _Output:
    """What a command prints: counted and hashed whole, its end kept."""

    digest: Any = field(default_factory=hashlib.sha256)
    count: int = 0
    end: bytearray = field(default_factory=bytearray)

    def take(self, more: bytes) -> None:
        self.digest.update(more)
        self.count += len(more)
        self.end += more
        del self.end[:-ANSWER_BYTES]

    def tail(self, size: int) -> str:
        return bytes(self.end[-size:]).decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class Ran:
    """A command that ended: what is recorded of it, what goes back, and what the cage said."""

    seen: CommandRun
    output: str
    report: bytes


async def run(enclosure: Enclosure, command: Sequence[str]) -> Ran:
    """Run a command in the place until it ends, or is stopped for taking too long, saying or writing too much.

    Nothing that it started is left when this returns, cancelled or not. Raises OSError where nothing can be started.
    """
    begun = time.monotonic()
    output = _Output()
    told, tell = os.pipe()
    report, reports = os.pipe()
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", _KEEPER, str(told), str(_GRACE_S)),
            *enclosure.around(words_of(command), reports),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            pass_fds=(told, reports),
            start_new_session=True,
            cwd=enclosure.cwd,
            env=environment(enclosure.environment()),
        )
    except BaseException:
        os.close(tell)
        os.close(report)
        raise
    finally:
        os.close(told)
        os.close(reports)
    stopped: Stopped | None = "closed"
    try:
        stopped = await _until_end(process, output, enclosure)
    finally:
        os.close(tell)  # kills what is left, at once
        code = await _reaped(process)
        with os.fdopen(report, "rb") as file:
            said = file.readline(64 * 1024)
    seen = CommandRun(
        command=tuple(command),
        exit_code=code if stopped is None else None,
        duration_ms=round((time.monotonic() - begun) * 1000),
        output_bytes=output.count,
        output_sha256=output.digest.hexdigest(),
        tail=output.tail(TAIL_BYTES),
        stopped=stopped,
    )
    return Ran(seen, output.tail(ANSWER_BYTES), said)


def words_of(command: Sequence[str]) -> tuple[str, ...]:
    """What is started: one word with blanks in it is a line for the shell."""
    if len(command) == 1 and len(command[0].split()) > 1:
        return ("/bin/sh", "-c", command[0])
    return tuple(command)


async def _until_end(process: asyncio.subprocess.Process, output: _Output, enclosure: Enclosure) -> Stopped | None:
    """Listen until the end; why it has to be stopped, None when it ended by itself."""
    listening = asyncio.create_task(_listen(process, output, enclosure.confinement.output_bytes))
    growing = asyncio.create_task(until_too_large(enclosure, process.pid))
    try:
        done, _ = await asyncio.wait(
            (listening, growing),
            timeout=enclosure.confinement.command_timeout_s,
            return_when=asyncio.FIRST_COMPLETED,
        )
        if not done:
            return "time"
        return "disk" if growing in done else listening.result()
    finally:
        for one in (listening, growing):
            one.cancel()
        await asyncio.wait((listening, growing))


async def _listen(process: asyncio.subprocess.Process, output: _Output, most: int) -> Stopped | None:
    assert process.stdout is not None
    while more := await process.stdout.read(64 * 1024):
        output.take(more)
        if most and output.count > most:
            return "output"
    await process.wait()
    return None


async def _reaped(process: asyncio.subprocess.Process) -> int:
    """The exit code, once nothing is left. The keeper has lost us: it kills everything and ends."""
    waiting = asyncio.create_task(_ended(process))
    cancelled: asyncio.CancelledError | None = None
    asked = time.monotonic()
    while not waiting.done():
        try:
            await asyncio.wait({waiting}, timeout=_GRACE_S + 2)
        except asyncio.CancelledError as error:
            cancelled = error
        if not waiting.done() and time.monotonic() - asked > _GRACE_S + 2:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    if cancelled is not None:
        raise cancelled
    return waiting.result()


async def _ended(process: asyncio.subprocess.Process) -> int:
    """What it still says is thrown away: with a full pipe its end would never be told."""
    assert process.stdout is not None
    while await process.stdout.read(64 * 1024):
        pass
    return await process.wait()


# ------------------------------------------------------------------------------------------- for the agent


class Errands:
    """Answers `run-for-me` in one agent's place: one command at a time, each recorded in the order of its end."""

    def __init__(
        self, enclosure: Enclosure, while_running: Callable[[], AbstractAsyncContextManager[None]] = nullcontext
    ) -> None:
        self.seen: list[CommandRun] = []
        self._enclosure = enclosure
        self._while_running = while_running
        self._one = asyncio.Lock()
        self._busy: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Put the script on the agent's PATH, and listen. Raises OSError."""
        folder = self._enclosure.place.private
        await asyncio.to_thread(_put_script, folder)
        self._server = await asyncio.start_unix_server(self._accept, sock=_socket_in(folder), limit=MOST_ASKED_BYTES)

    async def close(self) -> None:
        """Stop listening, and what is being run."""
        if self._server is not None:
            self._server.close()
        for one in list(self._busy):
            one.cancel()
        if self._busy:
            await asyncio.wait(self._busy)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._busy.add(task)
        try:
            answer = await self._answer(reader)
            writer.write(orjson.dumps(answer))
            await writer.drain()
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._busy.discard(task)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader) -> dict[str, Any]:
        try:
            command = _command_in(await reader.readuntil(b"\n"))
        except (ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            return {"problem": f"not asked as it should be: {error}"}
        async with self._one:
            if len(self.seen) >= MOST_COMMANDS:
                return {"problem": f"{MOST_COMMANDS} commands were run already: no more in this attempt"}
            try:
                async with self._while_running():
                    ran = await run(self._enclosure, command)
            except OSError as error:
                return {"problem": f"{shlex.join(command)[:200]} could not be started: {error.strerror}"}
            self.seen.append(ran.seen)
        stopped = {} if ran.seen.stopped is None else {"problem": f"it was stopped: {ran.seen.stopped}"}
        return {**ran.seen.model_dump(mode="json", exclude={"tail"}), "output": ran.output, **stopped}


def _command_in(line: bytes) -> tuple[str, ...]:
    """The words that were asked for. Raises ValueError."""
    found = strict_json.loads(line)
    words = found.get("command") if isinstance(found, dict) else None
    if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
        raise ValueError('one line {"command": [words]} is expected')
    if not words[0].strip() or any("\x00" in word or len(word) > 16384 for word in words):
        raise ValueError("a command begins with a word; words are at most 16384 characters long and hold no NUL")
    return tuple(words)


def _put_script(folder: Path) -> None:
    script = folder / "bin" / "errand.py"
    script.write_bytes(Path(errand.__file__).read_bytes())
    command = folder / "bin" / "run-for-me"
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -I -S {shlex.quote(str(script))} "$@"\n')
    command.chmod(0o700)


def _socket_in(folder: Path) -> socket.socket:
    """A listening socket, however long the folder's name is (Linux)."""
    if not sys.platform.startswith("linux"):
        made = socket.socket(socket.AF_UNIX)
        made.bind(str(folder / errand.SOCKET))
        return made
    inside = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    made = socket.socket(socket.AF_UNIX)
    try:
        made.bind(f"/proc/self/fd/{inside}/{errand.SOCKET}")
    except BaseException:
        made.close()
        raise
    finally:
        os.close(inside)
    return made
