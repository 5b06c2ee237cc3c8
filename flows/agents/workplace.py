"""Where an attempt is worked on: a private clone at a pinned commit, and what really changed in it.

The agent may do what it likes to its tree, the `.git` in it included: what changed is read with a repository of our
own, which it never sees. The project's checkout is only ever read. Nothing here trusts a configuration or a hook.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from audit.files import storage_error
from audit.stamp import random_id
from flows.agents.footprint import TooDeep, bytes_held, bytes_in, entries
from flows.agents.git import Git, NoWorkplace
from ssot.claims import claim_file, is_locked

FOLDER: Final = Path(".kircerta") / "work"
MOST_NAMED: Final = 5
MOST_CHANGED: Final = 10_000


@dataclass(frozen=True, slots=True)
class Facts:
    """What really changed in a tree since its base: the diff, its files, and git's id of the whole tree."""

    base: str
    tree: str
    diff: str
    changed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Workplace:
    """The folders of one attempt. The agent sees `tree`, `private` (its HOME); not `facts`."""

    folder: Path
    base: str

    @property
    def tree(self) -> Path:
        return self.folder / "tree"

    @property
    def private(self) -> Path:
        return self.folder / "home"

    @property
    def objects(self) -> str:
        """The folder of the checkout's objects, which the tree's repository reads through to."""
        return (self._facts / "objects" / "info" / "alternates").read_text().strip()

    @property
    def _facts(self) -> Path:
        return self.folder / "facts.git"

    # ------------------------------------------------------------------------------------------ what changed

    def facts(self) -> Facts:
        """Read what changed since the base. Raises NoWorkplace: also where something is hidden in the tree."""
        self._refuse_repositories_inside()
        index = self._index("now")
        index("read-tree", self.base)
        index("add", "--all", "--", ".")
        tree = index("write-tree").strip()
        listed = index("diff", "--cached", "--name-only", "--no-renames", "-z", self.base)
        changed = tuple(name for name in listed.split("\0") if name)
        _refuse_names(changed)
        return Facts(self.base, tree, self._diff(index, changed), changed)

    def _diff(self, index: Git, changed: Sequence[str]) -> str:
        """The diff as text. A file in another encoding than UTF-8 is told as a binary patch, which is plain ASCII."""
        given = ("--cached", "--no-ext-diff", "--no-textconv", "--no-color", "--no-renames", "--full-index", "--binary")
        raw = index.raw("diff", *given, self.base)
        if not _is_text(raw):
            others = [
                one for one in changed if not _is_text(index.raw("diff", *given, self.base, "--", f":(literal){one}"))
            ]
            (self._facts / "info").mkdir(exist_ok=True)
            (self._facts / "info" / "attributes").write_text(
                "".join(f"{_attribute_pattern(one)} -diff\n" for one in others)
            )
            raw = index.raw("diff", *given, self.base)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise NoWorkplace(f"what changed in {first_of(changed)} cannot be told in UTF-8") from None

    def tree_of(self, diff: str) -> str:
        """Git's id of the tree that a diff makes of the base. Raises NoWorkplace when it does not apply."""
        index = self._index("claimed")
        index("read-tree", self.base)
        if diff.strip():
            index.raw("apply", "--cached", "--whitespace=nowarn", "-", given=diff.encode())
        return index("write-tree").strip()

    def apply(self, diff: str) -> None:
        """Make a diff stand in the tree: for a review, and for checks. Raises NoWorkplace when it does not apply."""
        if diff.strip():
            self._index("now").raw("apply", "--whitespace=nowarn", "-", given=diff.encode())

    def difference(self, claimed: str, actual: str) -> tuple[str, ...]:
        """The files in which two trees differ, as `A path`, `M path`, `D path` from the first to the second."""
        found = self._index("now")("diff-tree", "-r", "--no-renames", "--name-status", claimed, actual)
        return tuple(line.replace("\t", " ") for line in found.splitlines())

    def _refuse_repositories_inside(self) -> None:
        """Git takes a folder with a `.git` of its own for another project, and would not look into it."""
        own = self.tree / ".git"
        try:
            for one in entries(self.tree, without=own):
                if one.name == ".git" and one.path != str(own):
                    where = Path(one.path).parent.relative_to(self.tree)
                    raise NoWorkplace(f"{where} has a .git of its own: what is in it would not show")
        except TooDeep as error:
            raise NoWorkplace(str(error)) from None

    def _index(self, name: str) -> Git:
        return Git(
            ("--git-dir", str(self._facts), "--work-tree", str(self.tree)),
            self.tree,
            {"GIT_INDEX_FILE": str(self._facts / f"index-{name}")},
        )

    def size(self, pid: int) -> int:
        """Bytes on the disk of all that the agent wrote; `pid` is the process it descends from. Raises TooDeep."""
        return bytes_in((self.tree, self.private)) + bytes_held(pid, self.folder.stat().st_dev)

    def discard(self) -> None:
        """Remove it, whatever the agent left there."""
        _remove(self.folder)


def _refuse_names(changed: Sequence[str]) -> None:
    """Names that could not be told to people, or too many of them, are not let through."""
    if len(changed) > MOST_CHANGED:
        raise NoWorkplace(f"{len(changed)} files were changed, more than {MOST_CHANGED}")
    odd = next((name for name in changed if not name.isprintable() or len(name) > 4096), None)
    if odd is not None:
        raise NoWorkplace(f"the file name {ascii(odd)[:200]} holds what cannot be printed")


def _is_text(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def _attribute_pattern(path: str) -> str:
    """A path as gitattributes(5) takes it: each character that means something there is escaped, and it is quoted."""
    literal = "".join(f"\\{char}" if char in "\\*?[" else char for char in path)
    return '"/' + literal.replace("\\", "\\\\").replace('"', '\\"') + '"'


# ------------------------------------------------------------------------------------------------- made, removed


def prepare(home: Path, checkout: Path, commit: str, dispatch_id: str, purpose: str = "work") -> Workplace:
    """Make a place for one purpose of a dispatch (its work, its review) from a commit of a local checkout.

    What stands there from an earlier process is thrown away. Raises NoWorkplace.
    """
    if not (checkout / ".git").exists() and not (checkout / "HEAD").exists():
        raise NoWorkplace(f"{checkout} is no git repository: `checkout` in config/projects.toml names a local clone")
    base = pinned(checkout, commit)
    folder = home / FOLDER / f"{claim_file(home, dispatch_id).name}~{purpose}"
    _remove(folder)
    try:
        for inside in (folder, folder / "home"):
            inside.mkdir(parents=True, mode=0o700)
    except OSError as error:
        raise storage_error(error, f"the place to work {folder}") from None
    place = Workplace(folder, base)
    try:
        _clone(checkout, place)
    except NoWorkplace:
        place.discard()
        raise
    return place


def prepare_with(home: Path, checkout: Path, commit: str, dispatch_id: str, purpose: str, diff: str) -> Workplace:
    """A place in which a diff stands already. Raises NoWorkplace, also when the diff does not apply."""
    place = prepare(home, checkout, commit, dispatch_id, purpose)
    try:
        place.apply(diff)
    except NoWorkplace:
        place.discard()
        raise
    return place


def pinned(checkout: Path, commit: str) -> str:
    """The full id of a commit. Raises NoWorkplace."""
    git = Git((), checkout, {})
    return git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{commit}^{{commit}}").strip()


def _clone(checkout: Path, place: Workplace) -> None:
    objects = Git((), checkout, {})("rev-parse", "--path-format=absolute", "--git-path", "objects").strip()
    for folder, bare in ((place.tree, False), (place.folder / "facts.git", True)):
        Git((), place.folder, {})("init", "--quiet", "--template=", *(["--bare"] if bare else []), str(folder))
        inside = folder if bare else folder / ".git"
        (inside / "objects" / "info").mkdir(exist_ok=True)
        (inside / "objects" / "info" / "alternates").write_text(objects + "\n")
    Git((), place.tree, {})("checkout", "--quiet", "--detach", place.base)


def remove_stale(home: Path) -> int:
    """Remove the places of attempts that no living process runs; gives their number."""
    removed = 0
    for folder in (home / FOLDER).glob("*"):
        if not is_locked(claim_file(home, "").with_name(folder.name.rpartition("~")[0])):
            _remove(folder)
            removed += 1
    return removed


def _remove(folder: Path) -> None:
    """Remove a tree, also one in which folders were made unreadable, or in which they reach deeper than a path can.

    Each folder that is found is brought to the top before it is looked into: so no path becomes long, and nothing here
    calls itself. What is left behind by a kill is found by the next call.
    """
    if not folder.is_dir() or folder.is_symlink():
        return
    mark = random_id("gone")
    waiting = [folder]
    for number, one in enumerate(waiting):  # grows on the way
        for inside in _opened(one):
            with suppress(OSError):
                if inside.is_dir(follow_symlinks=False):
                    waiting.append(_brought_up(inside.path, folder / f"{mark}-{number}-{len(waiting)}"))
                else:
                    os.unlink(inside.path)
    for one in reversed(waiting):
        with suppress(OSError):
            one.rmdir()


def _opened(folder: Path) -> list[os.DirEntry[str]]:
    try:
        os.chmod(folder, 0o700)
        return list(os.scandir(folder))
    except OSError:
        return []


def _brought_up(path: str, place: Path) -> Path:
    os.chmod(path, 0o700)  # a folder that cannot be written in cannot be moved elsewhere
    os.rename(path, place)
    return place


def first_of(names: Sequence[str]) -> str:
    """Some names, for a sentence."""
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more
