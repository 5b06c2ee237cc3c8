"""Git with nobody's configuration: no hooks, no filters, no prompts; bounded in time and output."""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

GIT_TIMEOUT_S: Final = 120.0
MOST_OUTPUT: Final = 32 * 1024 * 1024
"""Bytes that git may say: a larger change is refused, not cut."""
_SAFE: Final = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.attributesFile=/dev/null",
    "core.excludesFile=/dev/null",
    "core.autocrlf=false",
    "core.quotePath=true",
    "core.symlinks=true",
    "diff.noprefix=false",
    "safe.directory=*",
    "gc.auto=0",
    "apply.ignoreWhitespace=no",
)


class NoWorkplace(Exception):
    """No place to work could be made, or git cannot do there what was asked. The message says why."""


@dataclass(frozen=True, slots=True)
class Git:
    """Git in one place: `where` is what stands before each command, `more` is added to its bare environment."""

    where: tuple[str, ...]
    cwd: Path
    more: Mapping[str, str]

    def __call__(self, *arguments: str) -> str:
        return self.raw(*arguments).decode(errors="surrogateescape")

    def raw(self, *arguments: str, given: bytes = b"") -> bytes:
        settings = [word for setting in _SAFE for word in ("-c", setting)]
        command = ["git", *settings, *self.where, *arguments]
        try:
            code, out, said = _run(command, self.cwd, _environment(self.more), given)
        except OSError as error:
            raise NoWorkplace(f"git {arguments[0]}: {error}") from None
        if len(out) > MOST_OUTPUT:
            raise NoWorkplace(f"the change is larger than {MOST_OUTPUT} bytes")
        if code != 0:
            raise NoWorkplace(f"git {arguments[0]}: {said[:500] or f'exit code {code}'}")
        return out


def _run(command: Sequence[str], cwd: Path, env: Mapping[str, str], given: bytes) -> tuple[int, bytes, str]:
    """Exit code, at most one byte more of output than is taken, and what was said beside it."""
    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as stderr:
        stdin.write(given)
        stdin.seek(0)
        with subprocess.Popen(command, cwd=cwd, env=env, stdin=stdin, stdout=subprocess.PIPE, stderr=stderr) as process:
            assert process.stdout is not None
            patience = threading.Timer(GIT_TIMEOUT_S, process.kill)
            patience.start()
            try:
                out = process.stdout.read(MOST_OUTPUT + 1)
                if len(out) > MOST_OUTPUT:
                    process.kill()
                process.stdout.close()
                code = process.wait()
            finally:
                patience.cancel()
        stderr.seek(0)
        return code, out, stderr.read(4096).decode(errors="replace").strip()


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    nobody = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "GIT_TERMINAL_PROMPT": "0"}
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    return {**kept, **nobody, "LC_ALL": "C.UTF-8", "HOME": os.devnull, **more}
