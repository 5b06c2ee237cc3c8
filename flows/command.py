"""The command as flows run it, in a process of its own: what lives on its floor is not theirs to import."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass

from ssot.settings import Settings


@dataclass(frozen=True, slots=True)
class Said:
    """How a run of the command ended, and what it printed."""

    code: int
    out: bytes
    err: str

    @property
    def last_word(self) -> str:
        """The line that says why it did not end well."""
        return self.err.strip().rpartition("\n")[2] or f"exit code {self.code}"


async def carry_out(settings: Settings, *arguments: str, longest_s: float, ends_within_s: float = 5.0) -> Said:
    """Run the command on this workspace, without any secret. Nothing is left running, whatever ends this.

    Raises TimeoutError after `longest_s`; it then has `ends_within_s` to end what it started itself.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cli.main", *arguments),
        env=environment(settings),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, said = await asyncio.wait_for(process.communicate(), longest_s)
    finally:
        await asyncio.shield(_ended(process, ends_within_s))
    return Said(process.returncode or 0, out, said.decode(errors="replace"))


async def _ended(process: asyncio.subprocess.Process, patience_s: float) -> None:
    """Its own end, else one that it is asked for, so that it can end what it started; else it is killed."""
    for number, within_s in ((signal.SIGINT, patience_s), (signal.SIGKILL, None)):
        if process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            process.send_signal(number)
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), within_s)


def environment(settings: Settings) -> dict[str, str]:
    """What the command needs, and no secret: it reads files, and asks nobody."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("KIRCERTA_", "PREFECT_"))}
    return {**kept, "KIRCERTA_HOME": str(settings.home)}
