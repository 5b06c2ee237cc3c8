"""An agent that is a program: one process for one job, in a group of its own, gone when the session is."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from flows.agents.enclosure import Confinement, Enclosure, until_too_large
from flows.agents.protocol import LIMITS, AgentFailed, Limits, Message, Silent, read_message
from ssot.observed import Isolation

_KEEPER = str(Path(__file__).with_name("keeper.py"))
_INHERITED = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "SHELL", "SSL_CERT_FILE")
FORBIDDEN_ENV = ("KIRCERTA_", "PREFECT_")
_CAGE_S = 60.0
_OFF_THE_LOOP = 64 * 1024  # lines longer than this are parsed in a thread


@dataclass(frozen=True, slots=True)
class SubprocessAgent:
    """Runs `command` for each job: the job on stdin, messages on stdout, whatever it likes on stderr.

    The environment is a short list (`PATH`, `HOME`, locale, time zone) plus `env`; nothing that is named
    `KIRCERTA_…` or `PREFECT_…` is passed on. Closing the session asks the process group to end, kills it and
    all that descends from it after `limits.grace_s`, and reaps it; so does this process's death (keeper.py).

    `confinement` says how it wants to be shut in, where it is given a place to work; with an `enclosure` it is.
    """

    name: str
    principal: str
    command: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None
    limits: Limits = LIMITS
    options: Mapping[str, Any] = field(default_factory=dict)
    timeout_s: float = 3600.0
    local: bool = True
    confinement: Confinement | None = None
    enclosure: Enclosure | None = None

    @asynccontextmanager
    async def open(self, job: bytes) -> AsyncIterator[ProcessSession]:
        """Start the program on a job.

        Raises:
            AgentFailed: `not_started`, with the operating system's reason, or what of its cage is missing here.
        """
        session = await self._start(job)
        try:
            if self.enclosure is not None:
                await session.hear_of_the_cage(self.enclosure)
            yield session
        finally:
            await session.close()

    async def _start(self, job: bytes) -> ProcessSession:
        loop = asyncio.get_running_loop()
        told, tell = os.pipe()
        report, reports = os.pipe()
        # the job is a file in memory, not a pipe: an agent that never reads it cannot block anybody
        stdin = _file_of(job)
        try:
            transport, protocol = await loop.subprocess_exec(
                lambda: asyncio.subprocess.SubprocessStreamProtocol(limit=self.limits.line_bytes, loop=loop),
                *(sys.executable, "-I", "-S", _KEEPER, str(told), str(self.limits.grace_s)),
                *(self.command if self.enclosure is None else self.enclosure.around(self.command, reports)),
                stdin=stdin,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                pass_fds=(told,) if self.enclosure is None else (told, reports),
                start_new_session=True,
                cwd=self.cwd if self.enclosure is None else self.enclosure.cwd,
                env=environment(self.env if self.enclosure is None else self.enclosure.environment()),
            )
        except OSError as error:
            _close(tell, report)
            raise AgentFailed("not_started", f"{self.name}: {error}") from None
        except BaseException:
            _close(tell, report)
            raise
        finally:
            _close(told, reports)
            stdin.close()
        return ProcessSession(transport, protocol, tell, report, self.limits)


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """What a program gets to see of our environment, and what its configuration adds."""
    kept = {name: value for name, value in os.environ.items() if name in _INHERITED or name.startswith("LC_")}
    return {name: value for name, value in {**kept, **extra}.items() if not name.startswith(FORBIDDEN_ENV)}


def _close(*descriptors: int) -> None:
    for one in descriptors:
        os.close(one)


def _file_of(job: bytes) -> BinaryIO:
    in_memory = hasattr(os, "memfd_create")
    file: BinaryIO = os.fdopen(os.memfd_create("job"), "w+b") if in_memory else tempfile.TemporaryFile()  # noqa: SIM115
    file.write(job)
    file.seek(0)  # flushes, too
    return file


class ProcessSession:
    """A running program, from its start to the moment when nothing of it is left.

    `isolation` is what the cage told, where there is one.
    """

    def __init__(
        self,
        transport: asyncio.SubprocessTransport,
        protocol: asyncio.subprocess.SubprocessStreamProtocol,
        tell: int,
        report: int,
        limits: Limits,
    ) -> None:
        assert protocol.stdout is not None
        assert protocol.stderr is not None
        self._transport = transport
        self._process = asyncio.subprocess.Process(transport, protocol, asyncio.get_running_loop())
        self._stdout = protocol.stdout
        self._tell = tell
        self._report = os.fdopen(report, "rb")
        self._limits = limits
        self._fault: AgentFailed | None = None
        self._growing: asyncio.Task[None] | None = None
        self.isolation: Isolation | None = None
        self._bytes = 0
        self._stderr_tail = bytearray()
        self._stderr_drained = asyncio.create_task(self._drain(protocol.stderr))

    @property
    def pid(self) -> int:
        """The keeper's process id, which is also that of the group."""
        return self._process.pid

    async def hear_of_the_cage(self, enclosure: Enclosure) -> None:
        """Wait until the cage is closed, and watch from then on how much is written in it. Raises AgentFailed."""
        lines = asyncio.StreamReader()
        pipe, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(lines), self._report
        )
        try:
            async with asyncio.timeout(_CAGE_S):
                line = await lines.readline()
        except TimeoutError:
            raise AgentFailed("not_started", f"its cage did not close within {_CAGE_S:g} s") from None
        finally:
            pipe.close()
        if not line:
            raise await self._ended()
        self.isolation = enclosure.isolation(line)
        if self.isolation.missing and enclosure.confinement.isolation == "required":
            missing = "; ".join(self.isolation.missing)
            raise AgentFailed("not_started", f'isolation = "required", and this system lacks: {missing}')
        self._growing = asyncio.create_task(self._watch(enclosure))

    async def _watch(self, enclosure: Enclosure) -> None:
        await until_too_large(enclosure, self.pid)
        most = enclosure.confinement.disk_bytes
        self._fault = AgentFailed(
            "too_much_disk", f"more than {most} bytes stand in its work tree and HOME, or are held open"
        )
        self._order_to_stop()

    async def next(self, timeout: float) -> Message:
        try:
            async with asyncio.timeout(timeout):
                line = await self._read_line()
        except TimeoutError:
            raise Silent(f"nothing within {timeout:g} s") from None
        if not line:
            raise await self._ended()
        if len(line) > _OFF_THE_LOOP:
            return await asyncio.to_thread(read_message, line, self._limits)
        return read_message(line, self._limits)

    async def _read_line(self) -> bytes:
        """The next line that is not blank, without its newline; nothing at the end of the output."""
        while True:
            try:
                line = await self._stdout.readuntil(b"\n")
            except asyncio.IncompleteReadError as end:
                line = end.partial
                if not line:
                    return b""
            except asyncio.LimitOverrunError:
                raise AgentFailed("too_much_output", f"a line is longer than {self._limits.line_bytes} bytes") from None
            self._bytes += len(line)
            if self._bytes > self._limits.output_bytes:
                raise AgentFailed("too_much_output", f"more than {self._limits.output_bytes} bytes of output")
            if line.strip():
                return line.rstrip(b"\r\n")

    async def _ended(self) -> AgentFailed:
        if self._fault is not None:
            return self._fault
        try:
            async with asyncio.timeout(self._limits.grace_s):
                code = await self._process.wait()
        except TimeoutError:
            return AgentFailed("closed", f"stdout was closed while the program runs{self._said()}")
        await asyncio.wait([self._stderr_drained], timeout=self._limits.grace_s)
        return AgentFailed("exited", f"{_manner(code)}{self._said()}", exit_code=code)

    async def _drain(self, stderr: asyncio.StreamReader) -> None:
        while said := await stderr.read(65536):
            self._stderr_tail += said
            del self._stderr_tail[: -self._limits.stderr_bytes]

    def _said(self) -> str:
        said = self._stderr_tail.decode("utf-8", "replace").strip()
        return f"; stderr: {said}" if said else ""

    async def close(self) -> None:
        """Stop the program and all that descends from it; returns when it is reaped, cancelled or not."""
        if self._growing is not None:
            self._growing.cancel()
        self._order_to_stop()
        self._report.close()
        reaped = asyncio.create_task(self._reap())
        cancelled: asyncio.CancelledError | None = None
        while not reaped.done():
            try:
                await asyncio.shield(reaped)
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            raise cancelled

    def _order_to_stop(self) -> None:
        if self._tell < 0:
            return
        with contextlib.suppress(BrokenPipeError):
            os.write(self._tell, b"x")
        os.close(self._tell)
        self._tell = -1
        for number in (1, 2):
            pipe = self._transport.get_pipe_transport(number)
            if pipe is not None:
                pipe.close()

    async def _reap(self) -> None:
        try:
            async with asyncio.timeout(self._limits.grace_s + 2):
                code = await self._process.wait()
        except TimeoutError:
            code = -signal.SIGKILL
        if code < 0:  # somebody killed the keeper, or it hangs: the group is what can still be found
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            await self._process.wait()
        self._transport.close()
        self._stderr_drained.cancel()
        await asyncio.wait([self._stderr_drained])


def _manner(code: int) -> str:
    if code == 127:
        return "the program could not be started (exit code 127)"
    return f"exit code {code}" + (f" (killed by signal {code - 128})" if code > 128 else "")
