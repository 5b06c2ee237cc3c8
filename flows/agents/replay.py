"""Replays recorded agent work: a diff and its test log, handed in by an executor, judged by a reviewer.

A recording is `<name>.diff` with `<name>.log.txt` beside it, in the folder `dir` or one folder below (by
default examples/recordings). Its id, also the `task_id` of the task made from it, is `<name>.<folder>`: the
same work may be recorded twice, once right and once wrong. A dispatch plays the recording whose id is the
option `name`, or else the task's id; a name without its folder will do where there is only one of it. With
the option `then`, attempts after the first play the recording of the same name in that folder. The reviewer
reads the log that the executor handed in, not the recording: it judges evidence.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from flows.agents.play import Line, Move, now
from flows.agents.testlog import Command, Log, Test, Tests, read_log, read_tests
from ssot import diff as unified
from ssot.counted import counted

OPTIONS = frozenset({"dir", "name", "then"})
EXAMPLES = Path(__file__).parents[2] / "examples" / "recordings"

_PASSES = " passes"
_CHECKOUT = re.compile(r"git .*checkout ([0-9a-f]{40})")
_TIMED_OUT = re.compile(r".*[Tt]imed [Oo]ut.*")


class Recording(NamedTuple):
    """One piece of recorded work."""

    recording_id: str
    diff: str
    log: Log

    @property
    def tested(self) -> Command | None:
        """The last command whose output is a test output, else the last one of all that is not git's."""
        known = [one for one in self.log.commands if read_tests(one.output).runner]
        others = [one for one in self.log.commands if not one.command.startswith("git ")]
        return (known or others or [None])[-1]  # type: ignore[list-item]

    @property
    def tests(self) -> Tests:
        """What that command's tests came to."""
        return read_tests(self.tested.output) if self.tested is not None else Tests("", ())


class NoRecording(ValueError):
    """A dispatch has no recording to be played."""


def load(diff: Path) -> Recording:
    """The recording at `<name>.diff`.

    Raises:
        NoRecording: one of its two files cannot be read as UTF-8.
    """
    log = diff.with_name(f"{diff.stem}.log.txt")
    try:
        # bytes, not text: a carriage return is content
        return Recording(recording_id(diff), diff.read_bytes().decode(), read_log(log.read_bytes().decode()))
    except (OSError, UnicodeDecodeError) as error:
        raise NoRecording(f"{diff}: the recording cannot be read: {error}") from None


def recording_id(diff: Path) -> str:
    """`<name>.<folder>` in the characters of a task id; a long one is cut to 111 and 16 hex of its sha256."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "-", f"{diff.stem}.{diff.resolve().parent.name}").lstrip("._-") or "recording"
    return plain if len(plain) <= 128 else f"{plain[:111]}-{hashlib.sha256(plain.encode()).hexdigest()[:16]}"


def recordings(folder: Path) -> tuple[Path, ...]:
    """The diffs of a folder of recordings, those with a log beside them, in order."""
    found = [*folder.glob("*.diff"), *folder.glob("*/*.diff")]
    return tuple(sorted(diff for diff in found if diff.with_name(f"{diff.stem}.log.txt").is_file()))


def recording_task(diff: Path) -> dict[str, Any]:
    """A task made from a recording, as an importer would draft it. The tests that ran are its criteria."""
    recording = load(diff)
    return {
        "task_id": recording.recording_id,
        "title": f"Replay {diff.stem}: {counted(len(recording.tests.ran), 'test')}",
        "source": "import",
        "request_text": _request(diff.stem, recording),
        "acceptance_criteria": [
            {"id": f"AC-{number}", "text": text} for number, text in enumerate(_criteria(recording), start=1)
        ],
        "scope": [],
        "metadata": {
            "recording": {
                "id": recording.recording_id,
                "instance_id": recording.log.instance_id or diff.stem,
                "runner": recording.tests.runner,
                **recording.log.about,
            }
        },
    }


def _request(name: str, recording: Recording) -> str:
    tested = recording.tested.command if recording.tested is not None else "no test command"
    touched = ", ".join(unified.paths(recording.diff))
    told = (
        f"Make these tests pass ({name}).\n",
        f"They are run with: {tested}",
        f"The work changes: {touched}\n",
    )
    return "\n".join(told)


def _criteria(recording: Recording) -> list[str]:
    named = [f"{test.name}{_PASSES}" for test in recording.tests.ran]
    tested = recording.tested.command if recording.tested is not None else "the tests"
    return named or [f"`{tested}` ends with exit code 0"]


# Finding


def find(job: Mapping[str, Any]) -> Recording:
    """The recording of a job.

    Raises:
        NoRecording: there is none, or more than one.
    """
    options = job["options"]
    wanted = str(options.get("name") or job["task_id"])
    first = _the_one(Path(str(options.get("dir") or EXAMPLES)), wanted)
    if int(job["attempt"]) > 1 and options.get("then"):
        return load(_the_one(Path(str(options["then"])), first.stem))
    return load(first)


def _the_one(folder: Path, wanted: str) -> Path:
    known = recordings(folder)
    found = [diff for diff in known if recording_id(diff) == wanted] or [
        diff for diff in known if wanted in (diff.stem, recording_id(diff).rpartition(".")[0])
    ]
    if len(found) != 1:
        raise NoRecording(f"{folder} has {counted(len(found), 'recording')} for {wanted!r}, of {len(known)} in all")
    return found[0]


# The executor


def executor(job: Mapping[str, Any]) -> Iterator[Move]:
    """Acknowledge, and hand in the recorded work. Raises NoRecording."""
    return play(find(job), job)


def play(recording: Recording, job: Mapping[str, Any]) -> Iterator[Move]:
    """A dispatch answered with one recording."""
    dispatch = job["dispatch"]
    yield {
        "type": "ack",
        "dispatch_id": dispatch["dispatch_id"],
        "echo": [_echo(one) for one in dispatch["acceptance_criteria"]],
        "scope": dispatch["scope"],
        "issues": dispatch["issues"],
        "issue_digests": dispatch.get("issue_digests", []),
    }
    yield {"type": "heartbeat", "dispatch_id": dispatch["dispatch_id"], "note": recording.recording_id}
    yield _result(recording, dispatch)


def _echo(criterion: Mapping[str, Any]) -> Line:
    told: Line = {key: criterion[key] for key in ("text", "blob") if key in criterion}
    return {"criterion_ref": criterion["id"], **told}


def _result(recording: Recording, dispatch: Mapping[str, Any]) -> Line:
    tested = recording.tested
    finished = tested is not None and tested.exit_code is not None and not _refused_patch(recording.log)
    return {
        "type": "result",
        "dispatch_id": dispatch["dispatch_id"],
        "outcome": "completed" if finished else "failed",
        "summary": _summary(recording),
        "work_log": _work_log(recording, dispatch),
        "diff_snapshot": {
            "format": "unified",
            "base": _base(recording.log),
            "sha256": hashlib.sha256(recording.diff.encode()).hexdigest(),
            "text": recording.diff,
        },
    }


def _refused_patch(log: Log) -> bool:
    return any(one.command.startswith("git apply") and one.exit_code not in (0, None) for one in log.commands)


def _base(log: Log) -> str:
    found = (_CHECKOUT.match(one.command) for one in log.commands)
    return next((match[1] for match in found if match is not None), "")


def _summary(recording: Recording) -> str:
    tests = recording.tests
    counts = {outcome: sum(one.outcome == outcome for one in tests.found) for outcome in _OUTCOMES}
    said = ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count)
    parts = [f"Replayed {recording.recording_id}: {said or 'no test could be read from the log'}."]
    parts += [f"{remark}." for remark in recording.log.remarks if _TIMED_OUT.fullmatch(remark)]
    if tests.unread:
        parts.append(f"Not read ({len(tests.unread)}): {'; '.join(tests.unread[:5])}")
    return " ".join(parts)


_OUTCOMES = ("passed", "failed", "error", "skipped", "xfailed")


def _work_log(recording: Recording, dispatch: Mapping[str, Any]) -> list[Line]:
    """An edit for each file, an answer to each issue, each command, the test run with its whole output."""
    log: list[Line] = []
    known = [one["id"] for one in dispatch["acceptance_criteria"]]
    for patch in unified.parse(recording.diff):
        for path in dict.fromkeys(path for path in (patch.old_path, patch.new_path) if path):
            _log(log, "edit", path, f"+{patch.added} -{patch.removed}", known)
    for issue in dispatch["issues"]:
        answer = f"{issue['issue_id']} is answered by the recorded change: {issue['text']}"
        _log(log, "note", issue["issue_id"], answer, [issue["criterion_ref"]])
    for command in recording.log.commands:
        if command is recording.tested or read_tests(command.output).runner:
            named = _named(command, dispatch)
            _log(log, "test", command.command, command.output, named, command.exit_code)
        else:
            _log(log, "run", command.command, command.output, [], command.exit_code)
    for remark in recording.log.remarks:
        if _TIMED_OUT.fullmatch(remark):
            _log(log, "note", "test run", remark, known)
    return log


def _named(command: Command, dispatch: Mapping[str, Any]) -> list[str]:
    """The criteria whose tests this output names; all of them where it names none, as they wait for it."""
    tests = {test.name for test in read_tests(command.output).found}
    criteria = dispatch["acceptance_criteria"]
    named = [one["id"] for one in criteria if _test_of(one) in tests]
    return named or [one["id"] for one in criteria]


def _test_of(criterion: Mapping[str, Any]) -> str:
    return str(criterion.get("text") or "").removesuffix(_PASSES)


def _log(log: list[Line], action: str, target: str, detail: str, refs: list[str], exit_code: int | None = None) -> None:
    log.append(
        {
            "op_id": f"OP-{len(log) + 1}",
            "at": now(),
            "action": action,
            "target": target[:4096],
            "detail": detail,
            "exit_code": exit_code,
            "criterion_refs": refs,
        }
    )


# The reviewer


def reviewer(job: Mapping[str, Any]) -> Iterator[Move]:
    """Approve what the handed-in test output shows, and make an issue of every criterion that it does not."""
    dispatch_id = job["dispatch"]["dispatch_id"]
    yield {"type": "heartbeat", "dispatch_id": dispatch_id, "note": "reading the log"}
    issues = [{**issue, "issue_id": f"IS-{number}"} for number, issue in enumerate(_issues(job), start=1)]
    shown = len(job["dispatch"]["acceptance_criteria"]) - len({issue["criterion_ref"] for issue in issues})
    yield {
        "type": "verdict",
        "dispatch_id": dispatch_id,
        "decision": "reject" if issues else "approve",
        "summary": f"{counted(shown, 'criterion', 'criteria')} shown, {counted(len(issues), 'issue')}.",
        "issues": issues,
    }


def _issues(job: Mapping[str, Any]) -> Iterator[Line]:
    criteria = job["dispatch"]["acceptance_criteria"]
    runs = [op for op in job["result"]["work_log"] if op["action"] == "test"]
    last = runs[-1] if runs else job["result"]["work_log"][-1]
    tests = {test.name: test for test in read_tests(_detail(last, job)).found}
    exit_code = last.get("exit_code")
    unnamed = [test for test in tests.values() if test.outcome in ("failed", "error")]
    for criterion in criteria:
        test = tests.get(_test_of(criterion))
        said = _complaint(criterion, test, exit_code)
        if said:
            yield _issue(criterion, last, "blocker", said)
        if test in unnamed:
            unnamed.remove(test)
    if unnamed and criteria:
        names = ", ".join(test.name for test in unnamed[:5])
        yield _issue(criteria[0], last, "major", f"tests that no criterion names failed: {names}")


def _complaint(criterion: Mapping[str, Any], test: Test | None, exit_code: int | None) -> str:
    if test is None:
        if _test_of(criterion) == criterion.get("text") and exit_code == 0:
            return ""  # a criterion about the command, not about a test
        ended = "did not end" if exit_code is None else f"ended with exit code {exit_code}"
        return f"not shown: the test run {ended} and does not name {_test_of(criterion)[:200]}"
    if test.outcome == "passed":
        return ""
    return f"{test.name}: {test.outcome}" + (f": {test.reason}" if test.reason else "")


def _issue(criterion: Mapping[str, Any], op: Mapping[str, Any], severity: str, text: str) -> Line:
    return {"criterion_ref": criterion["id"], "op_refs": [op["op_id"]], "severity": severity, "text": text}


def _detail(op: Mapping[str, Any], job: Mapping[str, Any]) -> str:
    """The operation's text; one that came as a digest alone is read from the recording."""
    if op.get("detail") is not None:
        return str(op["detail"])
    tested = find(job).tested
    return tested.output if tested is not None else ""
