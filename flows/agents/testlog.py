"""Reads recorded logs: the commands that were run, and what the tests in their output came to. Pure.

Two shapes of command log: the evaluation logs of SWE-bench harnesses (`[…] [instance] Command: …`, `Return
Code: n`), and a plain one (`$ command`, output, `[exit n]`). Three shapes of test output: pytest's short
summary (`-rA`), Django's runner (unittest with verbosity 2), and SymPy's `bin/test --verbose`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

Outcome = Literal["passed", "failed", "error", "skipped", "xfailed"]

_RANK: tuple[Outcome, ...] = (
    "skipped",
    "xfailed",
    "passed",
    "failed",
    "error",
)  # the worst of several counts


class Test(NamedTuple):
    """One test as its runner names it, and the reason it gives where it failed."""

    name: str
    outcome: Outcome
    reason: str = ""


class Tests(NamedTuple):
    """What a test output says, and in `unread` what it says that could not be told apart."""

    runner: str
    found: tuple[Test, ...]
    unread: tuple[str, ...] = ()

    @property
    def ran(self) -> tuple[Test, ...]:
        """Those that show something: skipped tests and expected failures do not."""
        return tuple(test for test in self.found if test.outcome in ("passed", "failed", "error"))

    @property
    def broken(self) -> tuple[Test, ...]:
        """Those that failed."""
        return tuple(test for test in self.found if test.outcome in ("failed", "error"))


class Command(NamedTuple):
    """A command of a log, its output without the log's own marks, and its exit code where the log has one."""

    command: str
    output: str
    exit_code: int | None


class Log(NamedTuple):
    """A recorded log: what it says about itself, its commands, and its remarks (`>>>>> …`)."""

    instance_id: str
    about: dict[str, str]
    commands: tuple[Command, ...]
    remarks: tuple[str, ...]


# Commands

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_MARK = re.compile(r"\[[^\]\n]+\] \[([^\]\n]+)\] ?(.*)")
_ABOUT = re.compile(r"\t- ([A-Z][\w .-]*): (.*)")
_EXIT = re.compile(r"\[exit (-?[0-9]{1,3})\]")
_CODE = re.compile(r"Return Code: (-?[0-9]{1,3})")


def read_log(text: str) -> Log:
    """Take a log apart. What stands outside of commands and is no remark is left out."""
    reader = _LogReader()
    for line in text.split("\n"):
        reader.take(line.removesuffix("\r"))
    reader.end_command(None)
    return Log(reader.instance_id, reader.about, tuple(reader.commands), tuple(reader.remarks))


class _LogReader:
    def __init__(self) -> None:
        self.instance_id = ""
        self.about: dict[str, str] = {}
        self.commands: list[Command] = []
        self.remarks: list[str] = []
        self._command: str | None = None
        self._output: list[str] = []

    def take(self, line: str) -> None:
        mark = _MARK.fullmatch(line)
        if mark is not None:
            self._take_mark(mark[1], mark[2].strip())
        elif line.startswith("$ "):
            self._begin(line[2:])
        elif line.startswith(">>>>> "):
            self.remarks.append(line[6:])
        elif self._command is None:
            if about := _ABOUT.fullmatch(line):
                self.about[about[1]] = about[2].strip()
        elif exit_ := _EXIT.fullmatch(line):
            self.end_command(int(exit_[1]))
        else:
            self._output.append(line)

    def _take_mark(self, instance_id: str, said: str) -> None:
        self.instance_id = self.instance_id or instance_id
        if said.startswith("Command: "):
            self._begin(said.removeprefix("Command: "))
        elif code := _CODE.fullmatch(said):
            self.end_command(int(code[1]))

    def _begin(self, command: str) -> None:
        self.end_command(None)
        self._command = command

    def end_command(self, exit_code: int | None) -> None:
        if self._command is not None:
            output = "\n".join(self._output).strip("\n ")
            self.commands.append(Command(self._command, output, exit_code))
        self._command = None
        self._output = []


# Tests


def read_tests(output: str) -> Tests:
    """What a test output says, whichever of the known runners wrote it; runner "" where it was none."""
    lines = [_ANSI.sub("", line).rstrip("\r") for line in output.split("\n")]
    for runner, read in (("pytest", _pytest), ("sympy", _sympy), ("django", _django)):
        found, unread = read(lines)
        if found or unread:
            return Tests(runner, _worst(found), tuple(unread))
    return Tests("", ())


def _worst(found: list[Test]) -> tuple[Test, ...]:
    """Each test once, with the worst that is said of it, in the order of first mention."""
    kept: dict[str, Test] = {}
    for test in found:
        known = kept.get(test.name)
        if known is None or _weight(test) > _weight(known):
            kept[test.name] = test
    return tuple(kept.values())


def _weight(test: Test) -> tuple[int, bool]:
    return _RANK.index(test.outcome), bool(test.reason)


_PYTEST: dict[str, Outcome] = {
    "PASSED": "passed",
    "FAILED": "failed",
    "ERROR": "error",
    "XPASS": "passed",
    "XFAIL": "xfailed",
}
_PYTEST_LINE = re.compile(r"(PASSED|FAILED|ERROR|XPASS|XFAIL) (\S.*)")
_PYTEST_SKIP = re.compile(r"SKIPPED \[[0-9]+\] \S.*")
_PYTEST_FILE = re.compile(r"[\w./-]+\.py(?:::.*)?", re.DOTALL)


def _pytest(lines: list[str]) -> tuple[list[Test], list[str]]:
    """Lines of `short test summary info`. A skip there names a line of a file and no test."""
    found, unread = [], []
    for line in lines:
        if _PYTEST_SKIP.fullmatch(line):
            unread.append(line)
        elif match := _PYTEST_LINE.fullmatch(line):
            name, reason = _name_and_reason(match[2], has_reason=match[1] != "PASSED")
            if _PYTEST_FILE.fullmatch(name):
                found.append(Test(name, _PYTEST[match[1]], reason))
    return found, unread


def _name_and_reason(said: str, *, has_reason: bool) -> tuple[str, str]:
    """`path::test[a - b] - reason`: a parameter may hold ` - `, so the name ends after its bracket."""
    if not has_reason:
        return said, ""
    bracket, dash = said.find("["), said.find(" - ")
    if 0 <= bracket < dash:
        end = said.find("] - ", bracket)
        return (said, "") if end < 0 else (said[: end + 1], said[end + 4 :])
    return (said, "") if dash < 0 else (said[:dash], said[dash + 3 :])


_SYMPY: dict[str, Outcome] = {
    "ok": "passed",
    "X": "passed",
    "F": "failed",
    "E": "error",
    "f": "xfailed",
    "s": "skipped",
    "w": "skipped",
    "T": "skipped",
}
_SYMPY_FILE = re.compile(r"(\S+\.py)\[[0-9?]+\] *")
_SYMPY_LINE = re.compile(r"(test_\w+) (ok|[XFEfswT])(?: \(.*\))?(?: +\[(?:OK|FAIL)\])? *")
_SYMPY_HEAD = re.compile(r"_{3,} (\S+\.py:\w+) _{3,}")


def _sympy(lines: list[str]) -> tuple[list[Test], list[str]]:
    found: list[Test] = []
    file, failing, last = "", "", ""
    for line in lines:
        if head := _SYMPY_FILE.fullmatch(line):
            file = head[1]
        elif (match := _SYMPY_LINE.fullmatch(line)) and file:
            found.append(Test(f"{file}:{match[1]}", _SYMPY[match[2]]))
        elif section := _SYMPY_HEAD.fullmatch(line):
            failing, last = section[1], ""
        elif failing and (line == "" or set(line) == {"_"}):
            found.append(Test(failing, "failed", last))
            failing = ""
        elif failing:
            last = line.strip()
    return _with_reasons(found), []


def _with_reasons(found: list[Test]) -> list[Test]:
    """The sections below the list tell why: the reason goes to the test's line, which says how it ended."""
    ended = {test.name: test.outcome for test in reversed(found)}
    return [test._replace(outcome=ended[test.name]) for test in found]


_DJANGO_TEST = re.compile(r"(\w+) \(([\w.]+)\)")
_DJANGO_END = re.compile(r"(?:.*\.\.\. )?(ok|FAIL|ERROR|skipped .*|expected failure|unexpected success)")
_DJANGO_HEAD = re.compile(r"(FAIL|ERROR): (\w+ \([\w.]+\)).*")


def _django(lines: list[str]) -> tuple[list[Test], list[str]]:
    """`name (class)`, maybe a line of docstring, ` ... ok`. Output in between may break a test's line off."""
    found: list[Test] = []
    waiting: dict[str, None] = {}
    for line in lines:
        if _DJANGO_HEAD.fullmatch(line):
            break
        named = _DJANGO_TEST.findall(line) if _DJANGO_TEST.match(line) else []
        waiting.update((f"{name} ({where})", None) for name, where in named)
        ended = _DJANGO_END.fullmatch(line)
        if ended and waiting:
            name = list(waiting)[-1]
            del waiting[name]
            found.append(Test(name, _django_outcome(ended[1])))
    found += _django_sections(lines)
    explained = {test.name for test in found}
    return found, [f"{name} has no outcome" for name in waiting if name not in explained]


def _django_outcome(said: str) -> Outcome:
    known: dict[str, Outcome] = {
        "ok": "passed",
        "FAIL": "failed",
        "ERROR": "error",
        "expected failure": "xfailed",
        "unexpected success": "failed",
    }
    return known.get(said, "skipped")


def _django_sections(lines: list[str]) -> Iterator[Test]:
    """`FAIL: name (class)` and its traceback; the reason is the traceback's first line at the margin."""
    name, outcome, rules = "", "", 0
    for line in lines:
        if head := _DJANGO_HEAD.fullmatch(line):
            name, outcome, rules = head[2], head[1], 0
        elif name and line and set(line) == {"-"}:
            rules += 1
        elif name and rules == 1 and line and not line.startswith((" ", "Traceback ")):
            yield Test(name, _django_outcome(outcome), line.strip())
            name = ""
        elif name and rules > 1:
            yield Test(name, _django_outcome(outcome))
            name = ""
