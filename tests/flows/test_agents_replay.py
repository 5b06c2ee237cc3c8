"""Recorded work played again: the log's tests are the criteria, and its failures the reviewer's issues."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from flows.agents import replay, testlog
from flows.agents.protocol import LIMITS, AgentFailed, job_line, read_message
from flows.agents.registry import Agents
from flows.agents.testlog import read_log, read_tests
from ssot.diff import paths
from ssot.task import ResultBody, VerdictBody, parse_part

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "recordings"
RECORDED = ROOT.parent / "shared" / "data" / "07_diffs_and_worklogs"


def dispatched(draft: dict[str, Any], *, attempt: int = 1, **options: str) -> dict[str, Any]:
    return {
        "task_id": draft["task_id"],
        "title": draft["title"],
        "request_text": draft["request_text"],
        "correlation_id": "c-1",
        "attempt": attempt,
        "dispatch": {
            "dispatch_id": "d-1",
            "acceptance_criteria": draft["acceptance_criteria"],
            "scope": draft["scope"],
            "issues": [],
        },
        "options": options,
    }


def played(job: dict[str, Any]) -> tuple[Any, Any]:
    """The result and the verdict on it."""
    result = list(replay.executor(job))[-1]
    return result, list(replay.reviewer({**job, "result": result}))[-1]


def test_a_task_is_made_of_the_tests_that_the_log_names() -> None:
    draft = replay.recording_task(EXAMPLES / "leap-year.diff")
    assert draft["task_id"] == "leap-year.recordings"
    assert [one["id"] for one in draft["acceptance_criteria"]] == ["AC-1", "AC-2", "AC-3", "AC-4"]
    assert draft["acceptance_criteria"][3]["text"] == ("tests/test_leap_year.py::test_other_centuries[1900] passes")
    assert "pytest -rA tests/test_leap_year.py" in draft["request_text"]


def test_the_recorded_diff_and_commands_become_the_result() -> None:
    result, _ = played(dispatched(replay.recording_task(EXAMPLES / "leap-year.diff")))
    text = (EXAMPLES / "leap-year.diff").read_text()
    assert result["diff_snapshot"]["text"] == text
    assert result["diff_snapshot"]["sha256"] == hashlib.sha256(text.encode()).hexdigest()
    edit, apply, test = result["work_log"]
    assert (edit["action"], edit["target"], edit["detail"]) == ("edit", "src/leap_year.py", "+3 -0")
    assert (apply["action"], apply["target"], apply["exit_code"]) == (
        "run",
        "git apply --verbose leap-year.diff",
        0,
    )
    assert (test["action"], test["exit_code"]) == ("test", 1)
    assert test["criterion_refs"] == ["AC-1", "AC-2", "AC-3", "AC-4"]
    assert "1 failed, 3 passed" in test["detail"]
    assert result["outcome"] == "completed"
    assert result["summary"] == "Replayed leap-year.recordings: 3 passed, 1 failed."


def test_the_reviewer_makes_an_issue_of_the_test_that_failed() -> None:
    result, verdict = played(dispatched(replay.recording_task(EXAMPLES / "leap-year.diff")))
    assert verdict["decision"] == "reject"
    assert verdict["issues"] == [
        {
            "issue_id": "IS-1",
            "criterion_ref": "AC-4",
            "op_refs": [result["work_log"][-1]["op_id"]],
            "severity": "blocker",
            "text": "tests/test_leap_year.py::test_other_centuries[1900]: failed: assert not True",
        }
    ]


def test_work_that_passes_is_approved() -> None:
    _, verdict = played(dispatched(replay.recording_task(EXAMPLES / "greeting.diff")))
    assert (verdict["decision"], verdict["issues"]) == ("approve", [])


def test_after_a_rejection_another_recording_can_be_played() -> None:
    draft = replay.recording_task(EXAMPLES / "leap-year.diff")
    decisions = [
        played(dispatched(draft, attempt=number, then=str(EXAMPLES / "second")))[1]["decision"] for number in (1, 2)
    ]
    assert decisions == ["reject", "approve"]


def test_a_forwarded_issue_is_answered_by_a_note() -> None:
    job = dispatched(replay.recording_task(EXAMPLES / "greeting.diff"))
    issue = {"issue_id": "IS-3", "criterion_ref": "AC-1", "op_refs": [], "severity": "minor", "text": "why"}
    job["dispatch"]["issues"] = [issue]
    result, _ = played(job)
    assert any(op["action"] == "note" and "IS-3" in op["detail"] for op in result["work_log"])


def test_the_reviewer_judges_the_log_that_was_handed_in() -> None:
    job = dispatched(replay.recording_task(EXAMPLES / "greeting.diff"))
    result, _ = played(job)
    test = result["work_log"][-1]
    test["detail"] = test["detail"].replace("PASSED tests/test_greeting.py::test_nobody", "FAILED x.py::test_nobody")
    (verdict,) = [line for line in replay.reviewer({**job, "result": result}) if line["type"] == "verdict"]  # type: ignore[index, call-overload]
    assert [(one["criterion_ref"], one["severity"]) for one in verdict["issues"]] == [
        ("AC-3", "blocker"),
        ("AC-1", "major"),
    ]
    assert "not shown" in verdict["issues"][0]["text"]


def test_a_dispatch_without_a_recording_is_refused_by_name(tmp_path: Path) -> None:
    job = dispatched(replay.recording_task(EXAMPLES / "greeting.diff"), dir=str(tmp_path))
    with pytest.raises(replay.NoRecording, match=r"has 0 recordings for 'greeting\.recordings'"):
        list(replay.executor(job))
    named = dispatched({**replay.recording_task(EXAMPLES / "greeting.diff"), "task_id": "T-1"}, name="greeting")
    assert played(named)[1]["decision"] == "approve"


def test_the_same_name_in_two_folders_needs_its_folder(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        for file in EXAMPLES.glob("greeting.*"):
            shutil.copy(file, tmp_path / folder)
    draft = replay.recording_task(EXAMPLES / "greeting.diff")
    with pytest.raises(replay.NoRecording, match="2 recordings"):
        replay.find(dispatched(draft, dir=str(tmp_path), name="greeting"))
    assert replay.find(dispatched(draft, dir=str(tmp_path), name="greeting.two")).recording_id == "greeting.two"


def test_replay_runs_as_a_program_in_both_roles() -> None:
    agents = Agents(ROOT)
    job = dispatched(replay.recording_task(EXAMPLES / "leap-year.diff"))

    async def both() -> tuple[list[str], Any]:
        executor = agents.executor("replay:dir=examples/recordings")
        reviewer = agents.reviewer("replay")
        heard = []
        async with executor.open(job_line("dispatch", **{**job, "options": executor.options})) as session:
            heard += [await session.next(20) for _ in range(3)]
        review = job_line("review", **{**job, "options": reviewer.options}, result=heard[-1].body)
        async with reviewer.open(review) as session:
            await session.next(20)
            return [one.type for one in heard], (await session.next(20)).body

    heard, verdict = asyncio.run(both())
    assert heard == ["ack", "heartbeat", "result"]
    assert verdict["decision"] == "reject"


def test_a_missing_recording_ends_the_program_with_the_reason() -> None:
    job = dispatched({**replay.recording_task(EXAMPLES / "greeting.diff"), "task_id": "elsewhere"})

    async def end() -> AgentFailed:
        async with Agents(ROOT).executor("replay").open(job_line("dispatch", **job)) as session:
            with pytest.raises(AgentFailed) as caught:
                await session.next(20)
            return caught.value

    assert "has 0 recordings for 'elsewhere'" in asyncio.run(end()).detail


# Reading logs


def test_a_pytest_name_ends_after_its_parameters() -> None:
    output = "\n".join(
        [
            "PASSED a/test_x.py::test_one[a - b]",
            "FAILED a/test_x.py::test_two[a - b] - ValueError: c - d",
            "FAILED a/test_x.py::test_three - assert 'x' - [1] - y",
            "\x1b[31mERROR\x1b[0m a/test_x.py::\x1b[1mtest_one[a - b]\x1b[0m - torn down",
            "XFAIL a/test_x.py::test_four - known",
            "XPASS a/test_x.py::test_five",
            "SKIPPED [2] a/test_x.py:7: not here",
            "ERROR conda.cli.main_run:execute(124): failed.",
        ]
    )
    tests = read_tests(output)
    assert tests.runner == "pytest"
    assert tests.found == (
        testlog.Test("a/test_x.py::test_one[a - b]", "error", "torn down"),
        testlog.Test("a/test_x.py::test_two[a - b]", "failed", "ValueError: c - d"),
        testlog.Test("a/test_x.py::test_three", "failed", "assert 'x' - [1] - y"),
        testlog.Test("a/test_x.py::test_four", "xfailed", "known"),
        testlog.Test("a/test_x.py::test_five", "passed"),
    )
    assert tests.unread == ("SKIPPED [2] a/test_x.py:7: not here",)


def test_a_django_run_is_read_with_docstrings_and_broken_lines() -> None:
    output = """\
test_a (x.tests.T) ... ok
test_b (x.tests.T)
What b is about. ... FAIL
test_c (x.tests.T) ... test_d (x.tests.T) ... ok
test_e (x.tests.T) ... skipped 'no database'
test_f (x.tests.T) ... expected failure
test_g (x.tests.T) ... Destroying test database

======================================================================
ERROR: test_c (x.tests.T) (value='1')
----------------------------------------------------------------------
Traceback (most recent call last):
  File "x.py", line 1, in f
ValueError: no

======================================================================
FAIL: test_b (x.tests.T)
----------------------------------------------------------------------
Traceback (most recent call last):
AssertionError: 1 != 2

----------------------------------------------------------------------
Ran 7 tests in 0.1s
"""
    tests = read_tests(output)
    assert tests.runner == "django"
    assert {(test.name[:6], test.outcome, test.reason) for test in tests.found} == {
        ("test_a", "passed", ""),
        ("test_b", "failed", "AssertionError: 1 != 2"),
        ("test_c", "error", "ValueError: no"),
        ("test_d", "passed", ""),
        ("test_e", "skipped", ""),
        ("test_f", "xfailed", ""),
    }
    assert tests.unread == ("test_g (x.tests.T) has no outcome",)


def test_a_sympy_run_is_read_with_its_reasons() -> None:
    output = """\
sympy/a/tests/test_x.py[4]
test_one ok
test_two F
test_three f
test_four E                                                               [FAIL]

________________________________________________________________________________
______________________ sympy/a/tests/test_x.py:test_two ________________________
Traceback (most recent call last):
  File "x.py", line 1
AssertionError
________________________________________________________________________________
______________________ sympy/a/tests/test_x.py:test_four _______________________
ValueError: no

===== tests finished: 1 passed =====
"""
    assert read_tests(output).found == (
        testlog.Test("sympy/a/tests/test_x.py:test_one", "passed"),
        testlog.Test("sympy/a/tests/test_x.py:test_two", "failed", "AssertionError"),
        testlog.Test("sympy/a/tests/test_x.py:test_three", "xfailed"),
        testlog.Test("sympy/a/tests/test_x.py:test_four", "error", "ValueError: no"),
    )


def test_what_no_runner_wrote_names_no_test() -> None:
    assert read_tests("hello\nok\n").runner == ""
    assert read_log("just text\n").commands == ()


# The recorded work of others


def test_every_recording_is_played_and_agrees_with_its_own_totals() -> None:
    if not RECORDED.is_dir():
        pytest.skip("no recorded work beside the checkout")
    known = replay.recordings(RECORDED)
    assert len(known) > 30
    ids = [replay.recording_id(diff) for diff in known]
    assert len({one.lower() for one in ids}) == len(ids)
    decisions: dict[str, list[str]] = {"gold": [], "agent_failed": []}
    for diff in known:
        job = dispatched(replay.recording_task(diff), dir=str(RECORDED))
        result, verdict = played(job)
        log = diff.with_name(f"{diff.stem}.log.txt").read_text()
        decisions[diff.parent.name].append(verdict["decision"])
        assert (verdict["decision"] == "approve") == (">>>>> All Tests Passed" in log), diff.stem
        assert _totals(log) == _counted(replay.load(diff)), diff.stem
        _check(job, result, verdict)
        assert [op["target"] for op in result["work_log"] if op["action"] == "edit"] == list(paths(diff.read_text()))
    assert set(decisions["agent_failed"]) == {"reject"}
    assert decisions["gold"].count("approve") == 16


def _check(job: dict[str, Any], result: Any, verdict: Any) -> None:
    """What the document and the rules will look at, too."""
    for model, said in ((ResultBody, result), (VerdictBody, verdict)):
        parse_part(model, read_message(json.dumps(said).encode(), LIMITS).part())
    criteria = {one["id"] for one in job["dispatch"]["acceptance_criteria"]}
    ops = {op["op_id"] for op in result["work_log"]}
    assert criteria
    assert {ref for op in result["work_log"] for ref in op["criterion_refs"]} == criteria
    assert all(issue["criterion_ref"] in criteria and set(issue["op_refs"]) <= ops for issue in verdict["issues"])
    assert all(issue["op_refs"] for issue in verdict["issues"])
    assert (verdict["decision"] == "reject") == bool(verdict["issues"])
    assert len(json.dumps(verdict)) < 64 * 1024


def _totals(log: str) -> dict[str, int]:
    """What the runner itself says at the end."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", log)
    if ran := re.search(r"\nRan ([0-9]+) tests", plain):
        broken = re.search(r"\nFAILED \((.*)\)", plain)
        return {"all": int(ran[1]), "broken?": int(broken is not None)}
    last = re.findall(r"\n=* ?(?:tests finished: )?((?:[0-9]+ [a-z ]+,? ?\n?)+,? ?in [0-9.]+ ?s)", plain)
    counted = (
        {word: int(n) for n, word in re.findall(r"([0-9]+) (passed|failed|errors?|exceptions)", last[-1])}
        if last
        else {}
    )
    broken_ones = sum(count for word, count in counted.items() if word != "passed")
    return {"passed": counted.get("passed", 0), "broken": broken_ones}


def _counted(recording: replay.Recording) -> dict[str, int]:
    tests = recording.tests
    if tests.runner == "django":
        return {"all": len(tests.found), "broken?": int(bool(tests.broken))}
    output = recording.tested.output if recording.tested else ""
    lines = re.sub(r"\x1b\[[0-9;]*m", "", output).split("\n")
    if tests.runner == "pytest":  # a test may both fail and have an error: the runner counts lines
        return {
            "passed": sum(line.startswith("PASSED ") for line in lines),
            "broken": sum(bool(re.match(r"(FAILED|ERROR) \S+\.py", line)) for line in lines),
        }
    unexpected = sum(bool(re.match(r"test_\w+ X", line)) for line in lines)
    return {"passed": len(tests.ran) - len(tests.broken) - unexpected, "broken": len(tests.broken)}
