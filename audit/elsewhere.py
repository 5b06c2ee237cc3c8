"""Keeps checkpoints besides the workspace, out of reach of whoever may rewrite it. The only one that runs git."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Final

from audit import files
from audit.files import NotRegular
from audit.head import NUMBER, Head
from audit.note import MOST_NOTE_BYTES, Unproven

NAME: Final = "kircerta-checkpoint.txt"


class CannotCopy(Exception):
    """A checkpoint could not be kept elsewhere; the message says where and why."""


class Elsewhere:
    """Where checkpoints are kept besides: out of reach of whoever may rewrite the workspace.

    A git repository gets a commit for each, another folder a file for each; else it is one file, replaced each time.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def is_git(self) -> bool:
        return (self.path / ".git").exists()

    def latest(self) -> bytes | None:
        """The newest checkpoint that is kept there."""
        try:
            return files.read_regular(self._newest(), MOST_NOTE_BYTES)[0]
        except (FileNotFoundError, NotADirectoryError):
            return None
        except NotRegular as error:
            raise Unproven(f"{self.path}: {error}") from None

    def _newest(self) -> Path:
        if self.is_git:
            return self.path / NAME
        if self.path.is_dir():
            sizes = [int(path.stem) for path in self.path.glob("*.txt") if NUMBER.fullmatch(path.stem)]
            return self.path / f"{max(sizes, default=0)}.txt"
        return self.path

    def keep(self, head: Head, note: bytes) -> str:
        """Keep a checkpoint; gives where. Raises CannotCopy, OSError, StorageFailed."""
        if self.is_git:
            files.keep_durably(self.path, NAME, note)
            self._commit(head)
        elif self.path.is_dir():
            files.keep_durably(self.path, f"{head.size}.txt", note)
        else:
            files.keep_durably(self.path.parent, self.path.name, note)
        return str(self.path)

    def _commit(self, head: Head) -> None:
        self._git("add", NAME)
        if self._git("status", "--porcelain", "--", NAME):
            message = f"Checkpoint of {head.origin} at {head.size}"
            self._git("commit", "--quiet", "--no-verify", "-m", message, "--", NAME)

    def _git(self, *arguments: str) -> str:
        who = {f"GIT_{role}_{what}": "kircerta" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        command = ["git", "-c", "core.hooksPath=/dev/null", "-c", "commit.gpgsign=false", "-C", str(self.path)]
        try:
            done = subprocess.run(
                [*command, *arguments],
                env={**kept, **who, "GIT_TERMINAL_PROMPT": "0"},
                capture_output=True,
                text=True,
                timeout=30,
                check=True,
            )
        except subprocess.CalledProcessError as error:
            raise CannotCopy(f"git {arguments[0]} in {self.path} failed: {error.stderr.strip()[:300]}") from None
        except (subprocess.TimeoutExpired, OSError) as error:
            raise CannotCopy(f"git {arguments[0]} in {self.path} failed: {type(error).__name__}") from None
        return done.stdout.strip()
