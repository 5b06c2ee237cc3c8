"""Unified diffs and path scopes, pure: which files a diff touches, and whether a path lies inside a scope.

The parser is strict because its answer guards the scope: a text that another tool would apply, and that this
one would read past, must be refused here. Shapes and quoting: git's diff-generate-patch(5) and git-apply(1).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NoReturn, TypeVar

MAX_PATH = 4096  # PATH_MAX on Linux; longer paths and patterns are refused, which also bounds the matching

_HUNK = re.compile(r"@@ -([0-9]{1,10})(?:,([0-9]{1,10}))? \+([0-9]{1,10})(?:,([0-9]{1,10}))? @@(.*)", re.DOTALL)
_MODE = re.compile(r"[0-7]{6}")
_ESCAPE = re.compile(rb'\\(?:([abfnrtv"\\])|([0-3][0-7]{2})|(.?))', re.DOTALL)
_ESCAPED = {b"a": b"\a", b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_MAIL = re.compile(r"(?:From|commit) [0-9a-f]{40,64}(?: |$)")
_LOOKS_LIKE_A_PATCH = re.compile(r"\s*(?:diff -|--- |\+\+\+ |@@ |\*\*\* |Index: |Binary files )")
_BASE85 = re.compile(r"([A-Za-z])([0-9A-Za-z!#$%&()*+;<=>?@^_`{|}~-]+)")
_PREFIXES = (("a/", "b/"), ("i/", "w/"), ("c/", "i/"), ("c/", "w/"), ("o/", "w/"))  # diff.mnemonicPrefix
_DEV_NULL = "/dev/null"


class DiffError(ValueError):
    """A text is not a unified diff that can be read in exactly one way."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(f"line {line}: {reason}")
        self.line = line
        self.reason = reason


class PathError(ValueError):
    """A path cannot be a file inside the work tree."""


@dataclass(frozen=True, slots=True)
class Hunk:
    """One `@@` block. `lines` keep their first character, and a carriage return where the file has one."""

    old_start: int
    old_count: int
    new_start: int
    new_count: int
    header: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FilePatch:
    """What a diff does to one file; `old_path` is None for a new file, `new_path` for a deleted one."""

    old_path: str | None
    new_path: str | None
    hunks: tuple[Hunk, ...] = ()
    binary: bool = False
    renamed: bool = False
    copied: bool = False
    old_mode: str | None = None
    new_mode: str | None = None

    @property
    def added(self) -> int:
        """Lines added."""
        return sum(line.startswith("+") for hunk in self.hunks for line in hunk.lines)

    @property
    def removed(self) -> int:
        """Lines removed."""
        return sum(line.startswith("-") for hunk in self.hunks for line in hunk.lines)


def parse(text: str) -> tuple[FilePatch, ...]:
    """Read a unified diff, as `git diff`, `git format-patch`, `git show` or `diff -u` write it.

    Raises:
        DiffError: with the 1-based line and the reason, where the text can be read in no way or in two.
    """
    return tuple(_Reader(text).patches())


def paths(text: str) -> tuple[str, ...]:
    """Every path a diff touches, old and new, without `a/` and `b/`, each once, in order; not normalised."""
    touched: dict[str, None] = {}
    for patch in parse(text):
        touched.update((path, None) for path in (patch.old_path, patch.new_path) if path is not None)
    return tuple(touched)


@dataclass(slots=True)
class _Header:
    """What the lines before the first hunk say about one file."""

    line: int
    git: bool = False
    same: str | None = None  # the one name of `diff --git a/x b/x`
    prefix: tuple[str, str] | None = None  # None: to be decided by the --- and +++ lines
    names: str = ""
    said: dict[str, str] = field(default_factory=dict)
    old: str | None = None
    new: str | None = None
    marked: bool = False  # --- and +++ were read
    binary: bool = False


class _Reader:
    """Walks the lines once. A line that belongs to no file must be blank, or a known frame around a diff."""

    def __init__(self, text: str) -> None:
        self.lines = text.split("\n")  # not splitlines: U+2028 and \f are content
        if self.lines[-1] == "":
            self.lines.pop()
        self.at = 0

    def patches(self) -> Iterator[FilePatch]:
        while self.at < len(self.lines):
            line = self.peek()
            if line.startswith("diff --git "):
                yield self.git_patch()
            elif line.startswith("--- "):
                header = _Header(self.at + 1)
                self.read_marks(header)
                yield self.finish(header, self.read_hunks(header))
            elif not self.skip_frame(line):
                self.fail(f"neither a file header nor part of a hunk: {line[:60]!r}")

    def peek(self) -> str:
        return self.lines[self.at].removesuffix("\r") if self.at < len(self.lines) else ""

    def fail(self, reason: str, line: int | None = None) -> NoReturn:
        raise DiffError(self.at + 1 if line is None else line, reason)

    # frames: what may stand around the patches

    def skip_frame(self, line: str) -> bool:
        if line == "" or set(line) == {"="} or line.startswith("Only in "):
            self.at += 1
            return True
        if line.startswith(("diff -", "Index: ")) and not line.startswith(("diff --cc ", "diff --combined ")):
            self.at += 1
            self.expect_plain_marks(line)
            return True
        if _MAIL.match(line):
            self.skip_mail()
            return True
        return line == "-- " and self.skip_signature()

    def expect_plain_marks(self, frame: str) -> None:
        if self.peek() and set(self.peek()) == {"="}:
            self.at += 1
        if not self.peek().startswith(("--- ", "diff -")):
            self.fail(f"expected '--- path' after {frame[:40]!r}")
        # patch(1) may take the Index line's name where the other two do not exist
        if frame.startswith("Index: ") and self.peek()[4:].split("\t")[0] != frame[7:]:
            self.fail("'--- ' names another path than 'Index: '")

    def skip_mail(self) -> None:
        self.at += 1
        while self.at < len(self.lines) and not self.peek().startswith("diff --git "):
            if _LOOKS_LIKE_A_PATCH.match(self.peek()):
                self.fail("a patch inside a message")
            self.at += 1

    def skip_signature(self) -> bool:
        """`-- ` and one line of version, then the end or the next message (git format-patch)."""
        after = self.at + 2
        while after < len(self.lines) and self.lines[after].strip() == "":
            after += 1
        ends = after >= len(self.lines) or bool(_MAIL.match(self.lines[after]))
        if ends:
            self.at = after
        return ends

    # one file

    def git_patch(self) -> FilePatch:
        header = self.read_git_header()
        self.read_extended(header)
        if self.peek().startswith("--- "):
            self.read_marks(header)
            return self.finish(header, self.read_hunks(header))
        if self.peek().startswith("Binary files ") and self.peek().endswith(" differ"):
            self.at += 1
            header.binary = True
        elif self.peek() == "GIT binary patch":
            self.at += 1
            self.read_binary()
            header.binary = True
        return self.finish(header, ())

    def read_git_header(self) -> _Header:
        header = _Header(self.at + 1, git=True, names=self.peek().removeprefix("diff --git "))
        pair = self.split_names(header.names)
        if pair is not None:
            header.prefix, header.same = _same_name(*pair)
        self.at += 1
        return header

    def split_names(self, names: str) -> tuple[str, str] | None:
        """The two names, or None where only the lines that follow can tell (a rename with blanks)."""
        if names.startswith('"'):
            first = _QUOTED.match(names)
            if first is None or names[first.end() : first.end() + 1] != " ":
                self.fail("a quoted path without an end")
            return self.path(first.group()), self.path(names[first.end() + 1 :])
        if names.endswith('"') and ' "' in names:
            left, _, right = names.partition(' "')
            return left, self.path('"' + right)
        half = len(names) // 2
        if len(names) % 2 and names[half] == " " and _same_name(names[:half], names[half + 1 :])[1] is not None:
            return names[:half], names[half + 1 :]
        return (names.split(" ")[0], names.split(" ")[1]) if names.count(" ") == 1 else None

    def read_extended(self, header: _Header) -> None:
        while self.at < len(self.lines):
            key = next((key for key in _EXTENDED if self.peek().startswith(key + " ")), None)
            if key is None:
                return
            if key in header.said:
                self.fail(f"'{key}' stands twice")
            value = self.peek().removeprefix(key + " ")
            if key.endswith("mode") and not _MODE.fullmatch(value):
                self.fail(f"not a file mode: {value[:20]!r}")
            header.said[key] = self.path(value) if key in _NAMES else value
            self.at += 1

    def read_marks(self, header: _Header) -> None:
        old = self.mark("--- ")
        new = self.mark("+++ ")
        if header.prefix is None:
            header.prefix = _prefix_of(old, new)
        header.old = None if old == _DEV_NULL else old.removeprefix(header.prefix[0])
        header.new = None if new == _DEV_NULL else new.removeprefix(header.prefix[1])
        header.marked = True

    def mark(self, sign: str) -> str:
        line = self.peek()
        if not line.startswith(sign):
            self.fail(f"expected '{sign}path'")
        name = self.path(line[len(sign) :].split("\t")[0])
        self.at += 1
        return name

    def path(self, written: str) -> str:
        """A path as git writes it: as it is, or in double quotes with C escapes over its UTF-8 bytes."""
        if not written.startswith('"'):
            if not written:
                self.fail("an empty path")
            return written
        if not _QUOTED.fullmatch(written):
            self.fail("a quoted path without an end")
        try:
            return _ESCAPE.sub(_unescape, written[1:-1].encode()).decode()
        except ValueError:
            self.fail("a quoted path that is not UTF-8 or has an unknown escape")

    # hunks

    def read_hunks(self, header: _Header) -> tuple[Hunk, ...]:
        hunks = []
        while self.peek().startswith("@@"):
            hunks.append(self.read_hunk())
        if not hunks:
            self.fail("no hunk after '--- ' and '+++ '")
        if header.old is None and any(hunk.old_count for hunk in hunks):
            self.fail("a new file with old lines", header.line)
        if header.new is None and any(hunk.new_count for hunk in hunks):
            self.fail("a deleted file with new lines", header.line)
        return tuple(hunks)

    def read_hunk(self) -> Hunk:
        found = _HUNK.fullmatch(self.peek())
        if found is None:
            self.fail("a hunk header that cannot be read")
        old_start, new_start = int(found[1]), int(found[3])
        old_count = 1 if found[2] is None else int(found[2])
        new_count = 1 if found[4] is None else int(found[4])
        if old_count == new_count == 0:
            self.fail("a hunk without lines")
        self.at += 1
        body = self.read_body(old_count, new_count)
        return Hunk(old_start, old_count, new_start, new_count, found[5].strip(), body)

    def read_body(self, old: int, new: int) -> tuple[str, ...]:
        """Exactly the lines that the header counts: a removed `-- x`, shown as `--- x`, is never a header."""
        start = self.at
        while old > 0 or new > 0:
            if self.at >= len(self.lines):
                self.fail(f"the text ends inside a hunk: {old} old and {new} new lines are missing")
            sign = self.lines[self.at][:1]
            if sign == "-":
                old -= 1
            elif sign == "+":
                new -= 1
            elif sign in (" ", ""):  # some tools strip the blank of an empty context line
                old, new = old - 1, new - 1
            elif sign != "\\" or self.at == start:
                self.fail("the hunk ends before its counted lines")
            if old < 0 or new < 0:
                self.fail("the hunk has more lines than its header counts")
            self.at += 1
        if self.at < len(self.lines) and self.lines[self.at].startswith("\\ "):
            self.at += 1
        self.refuse_surplus()
        return tuple(self.lines[start : self.at])

    def refuse_surplus(self) -> None:
        line = self.lines[self.at] if self.at < len(self.lines) else ""
        header = (
            line.startswith("--- ")
            and self.lines[self.at + 1 : self.at + 2] != []
            and (self.lines[self.at + 1].startswith("+++ "))
        )
        if line[:1] in ("+", " ", "\\") or (line[:1] == "-" and not header and line != "-- "):
            self.fail("the hunk has more lines than its header counts")

    def read_binary(self) -> None:
        blocks = 0
        while self.peek().startswith(("literal ", "delta ")):
            if not self.peek().split(" ", 1)[1].isdecimal():
                self.fail("a binary patch without its size")
            self.at += 1
            while self.at < len(self.lines) and self.peek() != "":
                self.check_base85(self.peek())
                self.at += 1
            self.at += 1
            blocks += 1
        if blocks not in (1, 2):
            self.fail("a binary patch has one or two blocks")

    def check_base85(self, line: str) -> None:
        found = _BASE85.fullmatch(line)
        if found is None:
            self.fail("a line of a binary patch that is not base85")
        size = ord(found[1]) - (ord("A") - 1 if found[1] <= "Z" else ord("a") - 27)
        if len(found[2]) != (size + 3) // 4 * 5:
            self.fail("a line of a binary patch with a wrong length")

    # what the header lines say together

    def finish(self, header: _Header, hunks: tuple[Hunk, ...]) -> FilePatch:
        old, new = self.names_of(header)
        if old is None and new is None:
            self.fail("a patch without a file", header.line)
        said = header.said
        return FilePatch(
            old_path=old,
            new_path=new,
            hunks=hunks,
            binary=header.binary,
            renamed="rename from" in said,
            copied="copy from" in said,
            old_mode=said.get("old mode") or said.get("deleted file mode"),
            new_mode=said.get("new mode") or said.get("new file mode"),
        )

    def names_of(self, header: _Header) -> tuple[str | None, str | None]:
        if not header.git:
            return header.old, header.new
        moved = self.moved(header)
        old, new = moved or (header.same, header.same)
        if (old is None or new is None) and not header.marked:
            self.fail("the header's two paths differ without a rename or a copy", header.line)
        if moved is not None:
            self.check_moved(header, *moved)
        if header.marked:
            self.check_marks(header, old, new)
        return self.check_modes(header, old, new)

    def moved(self, header: _Header) -> tuple[str, str] | None:
        for way in ("rename", "copy"):
            source, target = header.said.get(f"{way} from"), header.said.get(f"{way} to")
            if (source is None) != (target is None):
                self.fail(f"'{way} from' and '{way} to' belong together", header.line)
            if source is not None and target is not None:
                return source, target
        return None

    def check_moved(self, header: _Header, source: str, target: str) -> None:
        pair = self.split_names(header.names)
        known = {(old + source, new + target) for old, new in (*_PREFIXES, ("", ""))}
        if (pair is not None and pair not in known) or (
            pair is None and header.names not in {f"{left} {right}" for left, right in known}
        ):
            self.fail("the rename or copy names other paths than its header", header.line)

    def check_marks(self, header: _Header, old: str | None, new: str | None) -> None:
        if old is None or new is None:
            self.fail("the header's two paths differ without a rename or a copy", header.line)
        if header.old not in (None, old) or header.new not in (None, new):
            self.fail("'--- ' or '+++ ' names another path than the header", header.line)
        # without these lines git takes /dev/null for the path dev/null
        if (header.old is None) != ("new file mode" in header.said):
            self.fail("'--- /dev/null' and 'new file mode' belong together", header.line)
        if (header.new is None) != ("deleted file mode" in header.said):
            self.fail("'+++ /dev/null' and 'deleted file mode' belong together", header.line)

    def check_modes(self, header: _Header, old: str | None, new: str | None) -> tuple[str | None, str | None]:
        said = header.said
        if "new file mode" in said:
            if "deleted file mode" in said:
                self.fail("a new file that is also a deleted one", header.line)
            return None, new
        return (old, None) if "deleted file mode" in said else (old, new)


_NAMES = ("rename from", "rename to", "copy from", "copy to")
_EXTENDED = (
    "old mode",
    "new mode",
    "deleted file mode",
    "new file mode",
    *_NAMES,
    "similarity index",
    "dissimilarity index",
    "index",
)


def _same_name(left: str, right: str) -> tuple[tuple[str, str] | None, str | None]:
    """Prefixes and the one name of `a/x b/x` or, without prefixes, `x x`; (None, None) where names differ."""
    if left == right:
        return ("", ""), left
    for prefix in _PREFIXES:
        if left.startswith(prefix[0]) and right.startswith(prefix[1]) and left[2:] == right[2:] != "":
            return prefix, left[2:]
    return None, None


def _prefix_of(old: str, new: str) -> tuple[str, str]:
    if (old == _DEV_NULL or old.startswith("a/")) and (new == _DEV_NULL or new.startswith("b/")):
        return "a/", "b/"
    return next((pair for pair in _PREFIXES if old.startswith(pair[0]) and new.startswith(pair[1])), ("", ""))


def _unescape(found: re.Match[bytes]) -> bytes:
    letter, octal, unknown = found.groups()
    if unknown is not None:
        raise ValueError("unknown escape")
    return bytes([int(octal, 8)]) if octal else _ESCAPED.get(letter, letter)


# Paths and scopes


def normalise(path: str) -> str:
    """The path as a plain relative POSIX path: `./a//b/` gives `a/b`, `a/x/../b` gives `a/b`.

    Raises:
        PathError: the path is empty, absolute, has a drive, a backslash or a NUL, is no UTF-8, is longer than
            4096 characters, or leaves the tree with `..`.
    """
    if not path or len(path) > MAX_PATH:
        raise PathError(f"a path has 1 to {MAX_PATH} characters, this one {len(path)}")
    if path.startswith("/") or re.match(r"[A-Za-z]:", path):
        raise PathError(f"{path[:80]!r} is absolute: paths are relative to the work tree")
    if "\\" in path or "\0" in path:
        raise PathError(f"{path[:80]!r} has a backslash or a NUL: write it with '/'")
    if any("\ud800" <= character <= "\udfff" for character in path):
        raise PathError(f"{path[:80]!r} is not UTF-8")
    kept: list[str] = []
    for part in path.split("/"):
        if part == "..":
            if not kept:
                raise PathError(f"{path[:80]!r} leaves the work tree")
            kept.pop()
        elif part not in ("", "."):
            kept.append(part)
    if not kept:
        raise PathError(f"{path[:80]!r} names no file")
    return "/".join(kept)


def in_scope(path: str, scope: Sequence[str]) -> bool:
    """Whether a path lies inside a scope; an empty scope limits nothing.

    A path that cannot be normalised lies in no scope. A pattern matches the whole path: `*` and `?` stay
    inside one name, `[a-z]` and `[!a-z]` are one character, `**` is any depth (`a/**/b` matches `a/b`,
    `src/**` all that lies below `src`), and a final `/` means everything below. Case counts; a leading dot
    is nothing special. Time is bounded by pattern times path.
    """
    try:
        parts = normalise(path).split("/")
    except PathError:
        return False
    return not scope or any(_matches(pattern, parts) for pattern in scope)


def _matches(pattern: str, parts: list[str]) -> bool:
    wanted = _compiled(pattern)
    return wanted is not None and _walk(wanted, parts, _name_matches)


_Name = tuple["_One | None", ...]
_One = Callable[[str], bool]
_Token = TypeVar("_Token")
_Item = TypeVar("_Item")


def _walk(wanted: Sequence[_Token | None], items: Sequence[_Item], fits: Callable[[_Token, _Item], bool]) -> bool:
    """Glob matching where None is any run: going back to the last run alone is enough, so no blow-up."""
    at = here = 0
    run = run_here = -1
    while here < len(items):
        token = wanted[at] if at < len(wanted) else None
        if at < len(wanted) and token is None:
            run, run_here, at = at, here, at + 1
        elif token is not None and fits(token, items[here]):
            at, here = at + 1, here + 1
        elif run >= 0:
            run_here += 1
            at, here = run + 1, run_here
        else:
            return False
    return all(token is None for token in wanted[at:])


def _name_matches(name: _Name, part: str) -> bool:
    return _walk(name, part, lambda one, character: one(character))


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> tuple[_Name | None, ...] | None:
    """Names to match in order, None for `**`; None for a pattern that can match nothing."""
    if not pattern or len(pattern) > MAX_PATH:
        return None
    names = [name for name in pattern.split("/") if name not in ("", ".")]
    if pattern.endswith("/") or not names:
        names.append("**")
    if names[-1] == "**":
        names[-1:] = ["*", "**"]  # below means at least one name deeper
    wanted: list[_Name | None] = []
    for name in names:
        if name != "**":
            wanted.append(_compiled_name(name))
        elif not wanted or wanted[-1] is not None:
            wanted.append(None)
    return tuple(wanted)


def _compiled_name(name: str) -> _Name:
    tokens: list[_One | None] = []
    at = 0
    while at < len(name):
        end = _class_end(name, at) if name[at] == "[" else -1
        if end > 0:
            tokens.append(_character_class(name[at + 1 : end]))
            at = end
        elif name[at] == "*":
            if not tokens or tokens[-1] is not None:
                tokens.append(None)
        else:
            tokens.append(_any if name[at] == "?" else name[at].__eq__)
        at += 1
    return tuple(tokens)


def _any(_: str) -> bool:
    return True


def _class_end(name: str, at: int) -> int:
    first = at + 2 if name[at + 1 : at + 2] in ("!", "^") else at + 1
    return name.find("]", first + 1)  # a `]` in the first place is a character like others


def _character_class(body: str) -> _One:
    negated = body[0] in "!^"
    body = body[1:] if negated else body
    ranges = []
    at = 0
    while at < len(body):
        if body[at + 1 : at + 2] == "-" and at + 2 < len(body):
            ranges.append((body[at], body[at + 2]))
            at += 3
        else:
            ranges.append((body[at], body[at]))
            at += 1
    return lambda character: any(low <= character <= high for low, high in ranges) != negated
