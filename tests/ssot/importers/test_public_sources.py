"""The importers over real projects' files, where they lie beside the checkout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ssot.importers import read, recognise
from ssot.task import TASK_ID

TASKS = Path(__file__).parents[4] / "shared" / "data" / "06_tasks"
pytestmark = pytest.mark.skipif(not TASKS.is_dir(), reason="the public task data is not beside this checkout")


def test_the_criteria_of_every_backlog_file_equal_the_index() -> None:
    rows = (TASKS / "backlog_md" / "INDEX.jsonl").read_text().splitlines()
    index = {row["file"]: row for row in map(json.loads, rows)}
    reading = read(TASKS / "backlog_md")
    assert (reading.format, reading.problems, len(reading.drafts)) == ("backlog", (), len(index))
    for draft in reading.drafts:
        row = index[draft.metadata["import"]["path"]]
        wanted = [criterion["text"] for criterion in row["acceptance_criteria"]]
        assert [criterion.text for criterion in draft.acceptance_criteria] == wanted
        if row["front_matter_ok"]:
            found = (draft.task_id, draft.title, draft.metadata["import"]["status"], draft.metadata["labels"])
            assert found == (row["id"], row["title"], row["status"], row["labels"])


@pytest.mark.parametrize("folder", ["tasks", "completed", "drafts"])
def test_a_single_backlog_folder_or_file_gives_the_same_ids(folder: str) -> None:
    whole = {
        d.task_id for d in read(TASKS / "backlog_md").drafts if d.metadata["import"]["path"].startswith(f"{folder}/")
    }
    assert {draft.task_id for draft in read(TASKS / "backlog_md" / folder).drafts} == whole
    some = sorted((TASKS / "backlog_md" / folder).iterdir())[0]
    assert recognise(some) == "backlog"
    assert read(some).drafts[0].task_id in whole


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("issues.2026-01-26.jsonl", 485),
        ("issues_with_acceptance_criteria.jsonl", 196),
        ("tombstones_and_odd_statuses.jsonl", 60),
    ],
)
def test_every_issue_of_a_sound_beads_store_goes_in(name: str, count: int) -> None:
    reading = read(TASKS / "beads" / name)
    assert (reading.format, len(reading.drafts), reading.problems) == ("beads", count, ())


def test_the_corrupted_beads_store_names_its_conflict_lines_and_gives_the_rest() -> None:
    reading = read(TASKS / "beads" / "CORRUPT_merge_conflict.5bfecf85f.jsonl.txt")
    markers = [problem.line for problem in reading.problems if "merge conflict marker" in problem.reason]
    assert (reading.format, markers, len(reading.drafts)) == ("beads", [224, 235, 246], 371)
    assert [problem.line for problem in reading.problems if "already read" in problem.reason] == list(range(236, 246))


def test_openspec_changes_go_in_with_archived_ones_finished() -> None:
    reading = read(TASKS / "openspec")
    assert (reading.format, len(reading.drafts), reading.problems) == ("openspec", 52, ())
    archived = [draft for draft in reading.drafts if draft.metadata["import"]["status"] == "archived"]
    assert len(archived) == 42
    assert all(draft.metadata["import"]["finished"] for draft in archived)


def test_benchmark_instances_go_in_with_their_failing_tests() -> None:
    path = TASKS / "swe_bench_instances.jsonl"
    rows = [json.loads(row) for row in path.read_text().splitlines()]
    reading = read(path)
    assert reading.problems == ()
    for draft, row in zip(reading.drafts, rows, strict=True):
        assert (draft.task_id, draft.request_text) == (row["instance_id"], row["problem_statement"])
        assert [criterion.text for criterion in draft.acceptance_criteria] == row["FAIL_TO_PASS"]


def test_exercises_go_in_but_for_one_number_that_is_not_safe() -> None:
    reading = read(TASKS / "exercism")
    assert len(reading.drafts) == 133
    assert [(problem.file, problem.line) for problem in reading.problems] == [
        ("armstrong-numbers.canonical-data.json", 94)
    ]


def test_everything_together_is_read_as_what_it_is() -> None:
    reading = read(TASKS)
    assert reading.format == "folder"
    assert len(reading.drafts) == 1504
    assert all(TASK_ID.fullmatch(draft.task_id) for draft in reading.drafts)
    folded = {draft.task_id.casefold() for draft in reading.drafts}
    assert len(folded) == len(reading.drafts)
    assert {problem.file.split("/")[0] for problem in reading.problems} == {"beads", "exercism"}
