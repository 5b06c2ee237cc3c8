"""A git work tree before and after a run: which files differ, as one diff. Standard library and git.

Neither the repository's index nor its objects are touched: both have a place of their own for as long as it takes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

MAX_DIFF_BYTES: Final = 6 * 1024 * 1024
_TIMEOUT_S: Final = 120
# Nothing that the repository's own configuration names is started, and the diff has one form everywhere.
_PLAIN: Final = ("-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-c", "core.quotePath=true")
_DIFF: Final = ("diff", "--no-ext-diff", "--no-textconv", "--no-color", "--no-renames", "--binary")
# Where an agent works in the workspace itself: what kircerta writes there is nobody's change.
_OURS: Final = (
    ".kircerta/**",
    "ssot/tasks/**",
    "ssot/blobs/**",
    "audit/.lock",
    "audit/.turn",
    "audit/*.jsonl",
    "reports/runs/**",
)
_PREFIXES: Final = ("--src-prefix=a/", "--dst-prefix=b/")


class TreeFailed(Exception):
    """git could not say what changed; the message is git's."""


def top_of(folder: Path) -> Path | None:
    """The top of the work tree around a folder; None where there is none. Raises TreeFailed where git cannot say."""
    try:
        return Path(_git(folder, dict(os.environ), "rev-parse", "--show-toplevel").strip())
    except TreeFailed as failed:
        if "not a git repository" in str(failed):
            return None
        raise


class Tree:
    """A work tree as it stood when this was made. Raises TreeFailed.

    Args:
        top: the work tree's own folder.
        scratch: a folder for an index and for objects.
        own_files: patterns of files that the agent's program keeps for itself; they are no part of the work.
    """

    def __init__(self, top: Path, scratch: Path, own_files: Sequence[str] = ()) -> None:
        self.top = top
        self._environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
        objects = (top / self._git("rev-parse", "--git-path", "objects").strip()).absolute()
        (scratch / "objects").mkdir(parents=True)
        self._environment |= {
            "GIT_INDEX_FILE": str(scratch / "index"),
            "GIT_OBJECT_DIRECTORY": str(scratch / "objects"),
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": str(objects),
        }
        ours = _OURS if (top / ".kircerta").is_dir() else ()
        self._own = [f":(top,exclude,glob){one}" for one in (*ours, *(f"**/{pattern}" for pattern in own_files))]
        self._theirs = {pattern: set(top.glob(pattern)) for pattern in own_files if "/" not in pattern}
        self.base = self._head()
        self._before = self._now()

    def diff(self) -> str:
        """Everything that changed since. Raises TreeFailed, also where that is more than 6 MiB."""
        text = self._git(*_DIFF, *_PREFIXES, self._before, self._now())
        if len(text.encode()) > MAX_DIFF_BYTES:
            raise TreeFailed(f"the change is larger than {MAX_DIFF_BYTES} bytes")
        return text

    def changed(self) -> list[str]:
        """The paths that changed since, from the top of the work tree."""
        listed = self._git("diff", "--no-renames", "--name-only", "-z", self._before, self._now())
        return [path for path in listed.split("\0") if path]

    def clear_own_files(self) -> None:
        """Remove what the program put down for itself since: it is no part of the work, and nobody else's business."""
        for pattern, before in self._theirs.items():
            for path in set(self.top.glob(pattern)) - before:
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)

    def _now(self) -> str:
        self._git("add", "--all", "--", ":/", *self._own)
        return self._git("write-tree").strip()

    def _head(self) -> str:
        try:
            return self._git("rev-parse", "--verify", "--quiet", "HEAD").strip()
        except TreeFailed:
            return ""  # no commit yet

    def _git(self, *arguments: str) -> str:
        return _git(self.top, self._environment, *arguments)


def _git(folder: Path, environment: Mapping[str, str], *arguments: str) -> str:
    try:
        done = subprocess.run(
            ("git", *_PLAIN, *arguments),
            cwd=folder,
            env={**environment, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise TreeFailed(f"git: {error}") from None
    if done.returncode:
        raise TreeFailed(f"git {arguments[0]}: {done.stderr.decode('utf-8', 'replace').strip()[:500]}")
    try:
        return done.stdout.decode()
    except UnicodeDecodeError:
        raise TreeFailed("the change holds text or names that are not UTF-8: it cannot be handed in as it is") from None
