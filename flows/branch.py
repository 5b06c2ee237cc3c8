"""One branch of a checkout, and commits on it. The only code that moves a branch; no work tree is ever touched.

Commits are made in a repository of our own that writes into the checkout's objects: of the checkout's configuration
nothing counts, and none of its hooks runs. The branch moves last, and only from the commit that was looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from flows.agents.git import Git, NoWorkplace

_DURABLE: Final = ("-c", "core.fsync=committed,reference")
_NOBODY: Final = "0" * 40


class Conflict(Exception):
    """The change does not apply to where the branch stands. Nothing is merged."""


class BranchMoved(Exception):
    """The branch is no longer where it was looked at."""


@dataclass(frozen=True, slots=True)
class Change:
    """What is to be one commit. The same change on the same parent is the same commit, whenever it is made.

    Args:
        trailers: the message's last paragraph; by it the commit is found again.
        at: Unix seconds, for author and committer alike.
    """

    diff: str
    title: str
    trailers: tuple[tuple[str, str], ...]
    name: str
    address: str
    at: int

    @property
    def signature(self) -> str:
        return "\n".join(f"{key}: {_printable(value)}" for key, value in self.trailers)

    @property
    def message(self) -> str:
        return f"{_printable(self.title)}\n\n{self.signature}\n"


@dataclass(frozen=True, slots=True)
class Branch:
    """A branch of a local checkout. Every method raises NoWorkplace where git cannot do it."""

    checkout: Path
    name: str

    @property
    def ref(self) -> str:
        return f"refs/heads/{self.name}"

    def head(self) -> str | None:
        """The commit it stands at; None where there is no such branch."""
        found = self._git("for-each-ref", "--format=%(objectname) %(refname)", self.ref).split("\n")
        return next((line.split(" ")[0] for line in found if line.endswith(" " + self.ref)), None)

    def is_checked_out(self) -> bool:
        """Whether a work tree shows it: that would look changed if the branch moved."""
        listed = self._git("worktree", "list", "--porcelain", "-z").split("\0")
        return f"branch {self.ref}" in listed

    def move(self, new: str, old: str | None, why: str) -> None:
        """Let it stand at `new`, if it still stands at `old` (None: if there still is none). Raises BranchMoved."""
        try:
            self._git("update-ref", "--create-reflog", "-m", why, self.ref, new, old or _NOBODY)
        except NoWorkplace:
            if self.head() != old:
                raise BranchMoved(f"{self.name} was moved by somebody else meanwhile") from None
            raise

    def _git(self, *arguments: str) -> str:
        nobody = {"GIT_COMMITTER_NAME": "kircerta", "GIT_COMMITTER_EMAIL": "kircerta@localhost"}
        return Git(_DURABLE, self.checkout, nobody)(*arguments)


class Bench:
    """A repository of our own whose objects are the checkout's: where trees and commits are made and looked for."""

    def __init__(self, folder: Path, objects: Path) -> None:
        self._folder = folder
        self._objects = objects

    def tree_on(self, commit: str, diff: str) -> str:
        """Git's id of the tree that a diff makes of a commit. Raises Conflict."""
        git = self._git(GIT_INDEX_FILE=str(self._folder / "index"))
        git("read-tree", commit)
        try:
            git.raw("apply", "--cached", "--whitespace=nowarn", "-", given=diff.encode())
        except NoWorkplace as error:
            raise Conflict(str(error).removeprefix("git apply: ")) from None
        return git("write-tree").strip()

    def commit(self, parent: str, change: Change) -> str:
        """A commit of the change on a parent, which no branch knows yet. Raises Conflict."""
        tree = self.tree_on(parent, change.diff)
        who = {
            f"GIT_{role}_{what}": value
            for role in ("AUTHOR", "COMMITTER")
            for what, value in (("NAME", change.name), ("EMAIL", change.address), ("DATE", f"{change.at} +0000"))
        }
        made = self._git(**who).raw("commit-tree", tree, "-p", parent, "-F", "-", given=change.message.encode())
        return made.decode().strip()

    def find(self, head: str, base: str | None, change: Change) -> str | None:
        """The commit of this change that a branch holds already: same trailers, and it does the same to its parent.

        Args:
            base: a commit that is older than the change; what it holds is not searched.
        """
        last = change.signature.rpartition("\n")[2]
        without = ["^" + base] if base is not None and self._has(base) else []
        listed = self._git()("rev-list", "--fixed-strings", f"--grep={last}", head, *without).split()
        return next((one for one in listed if self._is(one, change)), None)

    def _is(self, commit: str, change: Change) -> bool:
        told = self._git()("show", "-s", "--no-show-signature", "--format=%T%n%P%n%B", commit)
        tree, parents, message = told.split("\n", 2)
        if message.strip().rpartition("\n\n")[2] != change.signature or " " in parents or not parents:
            return False
        try:
            return self.tree_on(parents, change.diff) == tree
        except Conflict:
            return False

    def _has(self, commit: str) -> bool:
        try:
            return bool(self._git()("rev-parse", "--verify", "--quiet", "--end-of-options", f"{commit}^{{commit}}"))
        except NoWorkplace:
            return False

    def _git(self, **more: str) -> Git:
        ours = {"GIT_OBJECT_DIRECTORY": str(self._objects), **more}
        return Git((*_DURABLE, "--git-dir", str(self._folder / "git")), self._folder, ours)


@contextmanager
def bench_at(checkout: Path, folder: Path, name: str) -> Iterator[Bench]:
    """A bench for a checkout in a folder, gone afterwards. What a kill leaves of it begins with `name`.

    Raises NoWorkplace.
    """
    if not (checkout / ".git").exists() and not (checkout / "HEAD").exists():
        raise NoWorkplace(f"{checkout} is no git repository: `checkout` in config/projects.toml names a local clone")
    objects = Git((), checkout, {})("rev-parse", "--path-format=absolute", "--git-path", "objects").strip()
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=name, dir=folder) as made:
        Git((), Path(made), {})("init", "--quiet", "--bare", "--template=", str(Path(made) / "git"))
        yield Bench(Path(made), Path(objects))


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text).strip()
