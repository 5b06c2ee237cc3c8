"""Installs the locked packages and the project itself into .venv; writes nowhere else but its own egg-info.

Run by venv.sh, in the checkout, with a Python that can make virtual environments; so: standard library only.
`.venv/.ready` is written last and removed first: a .venv without it was cut short, and is made from nothing.
"""

from __future__ import annotations

import fcntl
import os
import platform
import re
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

HOME = Path(".venv")
READY = HOME / ".ready"
LOG = HOME / "install.log"
PYTHON = HOME / "bin" / "python"
LOCK = Path("requirements.lock")
PIP_INSTALL = (
    "-m",
    "pip",
    "install",
    "--disable-pip-version-check",
    "--no-input",
    "--no-deps",
    "--no-compile",
)
# Wheels only: building from source would fetch build tools that no lock names.
LOCKED = ("--require-hashes", "--only-binary", ":all:", "--requirement", str(LOCK))
ITSELF = ("--no-build-isolation", "--editable", ".")


class InstallFailed(Exception):
    """What stopped the install, in one line."""


def main() -> int:
    """0 when .venv fits $STAMP; 1 with one line on stderr when it could not be made; 130 when interrupted."""
    stamp, chosen = os.environ["STAMP"], bool(os.environ.get("PYTHON"))
    try:
        with one_at_a_time():
            if not is_ready(stamp, chosen=chosen):
                install(stamp, chosen=chosen)
    except InstallFailed as failure:
        print(f"error: {failure}", file=sys.stderr)
        return 1
    except OSError as failure:
        print(f"error: cannot make .venv: {failure.strerror}: {failure.filename or HOME}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: the next make starts the install again", file=sys.stderr)
        return 130
    return 0


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """A second make waits here for the first, then finds its work done."""
    folder = os.open("scripts/dev", os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Waiting for another make that is installing here…")
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def is_ready(stamp: str, *, chosen: bool) -> bool:
    stands = READY.exists() and READY.read_text() == stamp
    return stands and (HOME / "bin" / "kircerta").exists() and works(chosen=chosen)


def works(*, chosen: bool) -> bool:
    """Whether .venv's Python still runs; where the caller chose one, whether it is of that version."""
    try:
        shown = subprocess.run([PYTHON, "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return False
    return not chosen or shown.split()[-1] == platform.python_version()


def install(stamp: str, *, chosen: bool) -> None:
    started = time.monotonic()
    updating = can_be_updated(stamp, chosen=chosen)
    READY.unlink(missing_ok=True)
    if updating:
        say("Updating .venv to the lock…")
    else:
        say(f"Installing {count_locked()} locked packages (about a minute, once)…")
        make_empty()
    with LOG.open("wb") as log:
        pip(LOCKED, log, "the locked packages")
        pip(ITSELF, log, "the project")
        compile_all(log)
    write_ready(stamp)
    say(f"Installed in {time.monotonic() - started:.0f} s.")


def can_be_updated(stamp: str, *, chosen: bool) -> bool:
    """In place only where the last install finished, in this folder: its scripts name the folder."""
    return READY.exists() and folder_of(READY.read_text()) == folder_of(stamp) and works(chosen=chosen)


def folder_of(stamp: str) -> str:
    return stamp.partition("\n")[0]


def count_locked() -> int:
    return len(re.findall(r"^[A-Za-z0-9._-]+==", LOCK.read_text(), re.MULTILINE))


def make_empty() -> None:
    shutil.rmtree(HOME, ignore_errors=True)
    try:
        venv.create(HOME, with_pip=True, symlinks=True)
    except subprocess.CalledProcessError as failure:
        why = last_words(failure.output)
        raise InstallFailed(f"{sys.executable} could not put pip into .venv: {why}") from None


def pip(arguments: tuple[str, ...], log: BinaryIO, what: str) -> None:
    done = subprocess.run(
        [str(PYTHON), *PIP_INSTALL, *arguments],
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    if done.returncode:
        said = LOG.read_bytes()
        why = "no connection to the package index" if b"connection broken" in said else last_words(said)
        raise InstallFailed(f"pip could not install {what}: {why} (all of it: {LOG})")


def compile_all(log: BinaryIO) -> None:
    """On all cores, where pip would use one. A file that does not compile is its package's affair."""
    command = [str(PYTHON), "-m", "compileall", "-q", "-j", "0", str(HOME / "lib")]
    subprocess.run(command, check=False, stdout=log, stderr=subprocess.STDOUT)


def last_words(output: bytes | str | None) -> str:
    """pip's last line of error, else its last line."""
    text = output.decode(errors="replace") if isinstance(output, bytes) else output or ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    return (errors or lines or ["it said nothing"])[-1]


def write_ready(stamp: str) -> None:
    draft = READY.with_suffix(".new")
    draft.write_text(stamp)
    draft.replace(READY)


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
