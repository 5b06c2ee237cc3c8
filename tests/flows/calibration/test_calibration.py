"""Calibrations of reviewers: blind, kept as runs, and never at work on anybody's tasks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from flows.agents.inproc_agent import InprocessAgent
from flows.agents.play import Crash, Move
from flows.agents.protocol import Agent
from flows.calibration.cases import EXAMPLES, FOLDERS, NoCases, blind, load
from flows.calibration.run import Wish, calibrate
from flows.calibration.session import NotHere
from flows.workspace import Workspace
from ssot.runs import RunRecord, Runs
from tests.builders import types
from tests.flows.conftest import Made, add_task

SHARED = Path(__file__).parents[4] / "shared" / "data" / "07_diffs_and_worklogs"
ROOT = Path(__file__).parents[3]


def verdict(job: Mapping[str, Any], decision: str, summary: str) -> dict[str, Any]:
    issue = {"issue_id": "IS-1", "criterion_ref": "AC-1", "op_refs": ["OP-1"], "severity": "blocker", "text": "no"}
    issues = [issue] if decision == "reject" else []
    told = {"type": "verdict", "dispatch_id": job["dispatch"]["dispatch_id"], "decision": decision}
    return {**told, "summary": summary, "issues": issues}


def reviewer(answer: Any) -> Agent:
    """A reviewer that gives what `answer` makes of a job."""

    def play(job: Mapping[str, Any]) -> Iterator[Move]:
        yield answer(job)

    return InprocessAgent("own", "own-reviewer", play)


def run(workspace: Workspace, answer: Any, wish: Wish | None = None) -> RunRecord:
    agent = answer if isinstance(answer, Agent) else reviewer(answer)
    return calibrate(workspace.settings, workspace.store, agent, wish or Wish())


def told(record: RunRecord, measure: str) -> tuple[int, int]:
    assert record.calibration is not None
    return record.calibration[measure]["count"], record.calibration[measure]["of"]


def test_a_reviewer_that_looks_at_exit_codes_misses_the_green_ones(workspace: Workspace) -> None:
    record = run(workspace, workspace.agents().reviewer("replay"))
    assert (told(record, "miss"), told(record, "false_block")) == ((10, 12), (0, 6))
    assert record.calibration is not None
    missed = record.calibration["missed_by_defect"]
    assert (missed["a test fails"]["count"], missed["tests never ran"]["count"]) == (0, 1)


def test_a_rubber_stamp_is_told_from_a_reason(workspace: Workspace) -> None:
    stamp = run(workspace, lambda job: verdict(job, "approve", "LGTM, great work!"))
    reason = run(workspace, lambda job: verdict(job, "approve", "AC-1 is shown by the tests."))
    assert (told(stamp, "rubber_stamp"), told(reason, "rubber_stamp")) == ((18, 18), (0, 18))
    assert stamp.calibration is not None
    assert stamp.calibration["irrespective"]


def test_a_reviewer_sees_nothing_of_the_answer(workspace: Workspace) -> None:
    seen: list[str] = []

    def answer(job: Mapping[str, Any]) -> dict[str, Any]:
        seen.append(json.dumps(job))
        return verdict(job, "approve", "AC-1")

    run(workspace, answer)
    hints = [
        *FOLDERS,
        "calibration",
        "defect",
        "replay",
        "recorded",
        "Replayed",
        *(case.task.defect for case in load(EXAMPLES) if case.task.defect),
    ]
    names = [case.recording.recording_id for case in load(EXAMPLES)]
    assert [hint for text in seen for hint in (*hints, *names) if f'"{hint}' in text or f"{hint}/" in text] == []
    assert sorted(json.loads(text)["task_id"] for text in seen) == [f"case-{number:03}" for number in range(1, 19)]


def test_the_order_is_the_seeds(tmp_path: Path) -> None:
    cases = load(EXAMPLES)
    first, again, other = (blind(cases, seed) for seed in (1, 1, 2))
    assert [case.name for case in first] == [case.name for case in again]
    assert [case.name for case in first] != [case.name for case in other]
    assert [case.is_good for case in first] != sorted(case.is_good for case in first)


def test_some_of_the_cases_are_good_and_bad_alike() -> None:
    some = blind(load(EXAMPLES), 3, 8)
    assert sum(case.is_good for case in some) == 4
    assert len(some) == 8


def test_no_task_is_touched(open_workspace: Made, tmp_path: Path) -> None:
    workspace = open_workspace()
    add_task(workspace)
    before = {path: path.read_bytes() for path in (tmp_path / "ssot").rglob("*.json")}
    record = run(workspace, lambda job: verdict(job, "approve", "fine"), Wish(most=4))
    assert {path: path.read_bytes() for path in (tmp_path / "ssot").rglob("*.json")} == before
    assert types(tmp_path)[-2:] == ["run_started", "run_finished"]
    assert len(types(tmp_path)) == 3
    assert Runs(workspace.store).load(record.run_id) == record


@pytest.mark.parametrize(
    ("decision", "limits", "outcome"),
    [
        ("reject", {"miss": 0.0}, "pass"),
        ("reject", {"false_block": 0.5}, "fail"),
        ("reject", {"rubber_stamp": 1.0}, "fail"),  # nothing was approved: nothing shows that it holds
        ("approve", {"miss": 0.5}, "fail"),
    ],
)
def test_a_rate_above_what_may_be_fails_the_run(
    decision: str, limits: dict[str, float], outcome: str, workspace: Workspace
) -> None:
    record = run(workspace, lambda job: verdict(job, decision, "AC-1"), Wish(most=4, limits=limits))
    assert record.outcome == outcome


def test_a_reviewer_without_verdicts_makes_the_run_invalid(workspace: Workspace) -> None:
    record = run(workspace, lambda job: Crash(3, "no key\n"), Wish(most=4))
    assert (record.outcome, told(record, "unanswered"), told(record, "miss")) == ("invalid", (4, 4), (0, 0))


def test_a_verdict_that_the_rules_refuse_is_none(workspace: Workspace) -> None:
    record = run(workspace, lambda job: verdict(job, "approve", "AC-1") | {"dispatch_id": "d-other"}, Wish(most=4))
    assert told(record, "unanswered") == (4, 4)


def test_a_remote_reviewer_is_not_waited_for(workspace: Workspace) -> None:
    with pytest.raises(NotHere, match="comes by itself"):
        run(workspace, workspace.agents().reviewer("remote"))
    assert not (workspace.home / "reports" / "runs").exists()


@pytest.mark.parametrize("kinds", [(), ("good",), ("bad",)])
def test_a_folder_without_both_kinds_is_refused(kinds: tuple[str, ...], tmp_path: Path) -> None:
    for kind in kinds:
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "x.diff").write_text("")
        (tmp_path / kind / "x.log.txt").write_text("")
    with pytest.raises(NoCases, match="good work and of bad work"):
        load(tmp_path)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the recorded work of others is not here")
def test_recorded_work_of_others_is_told_apart_by_its_tests(workspace: Workspace) -> None:
    record = run(workspace, workspace.agents().reviewer("replay"), Wish(SHARED))
    assert (told(record, "miss"), told(record, "unanswered")) == ((0, 12), (0, 34))
    assert record.calibration is not None
    assert record.calibration["told_apart"]
