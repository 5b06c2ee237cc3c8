"""What the importers make of the sources that people bring, and what they say about those they cannot read."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssot.importers import FORMATS, Draft, ImportRefused, Reading, read, recognise
from ssot.importers.draft import fitted_id, instant, made_id
from ssot.task import TASK_ID

TASK_MD = """---
id: {id}
title: {title}
status: {status}
created_date: '2026-01-02 03:04'
labels: [a, b]
---

## Description

<!-- SECTION:DESCRIPTION:BEGIN -->
Do it.
<!-- SECTION:DESCRIPTION:END -->

## Acceptance Criteria
<!-- AC:BEGIN -->
- [ ] #1 It works
- [x] #2 It is tested
  more of this
<!-- AC:END -->

## Definition of Done
- [ ] #1 Reviewed

## Implementation Notes

<!-- SECTION:NOTES:BEGIN -->
Was done.

## Aside
- [ ] never
<!-- SECTION:NOTES:END -->
"""


def write(folder: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def one(reading: Reading) -> Draft:
    assert reading.problems == ()
    (draft,) = reading.drafts
    return draft


def texts(draft: Draft) -> list[str | None]:
    return [criterion.text for criterion in draft.acceptance_criteria]


def task_md(task_id: str = "T-1", title: str = "A task", status: str = "To Do") -> str:
    return TASK_MD.format(id=task_id, title=title, status=status)


# ------------------------------------------------------------------------------------------ Backlog.md


def test_a_backlog_task_keeps_its_id_criteria_and_request(tmp_path: Path) -> None:
    draft = one(read(write(tmp_path, {"t.md": task_md()}) / "t.md"))
    assert (draft.task_id, draft.title, draft.created_at) == ("T-1", "A task", "2026-01-02T03:04:00.000000Z")
    assert [(criterion.id, criterion.text) for criterion in draft.acceptance_criteria] == [
        ("AC-1", "It works"),
        ("AC-2", "It is tested"),
    ]
    assert draft.request_text == "Do it.\n\n## Definition of Done\n- [ ] #1 Reviewed"
    assert draft.metadata["labels"] == ["a", "b"]
    assert draft.metadata["import"] == {
        "format": "backlog",
        "path": "t.md",
        "status": "To Do",
        "finished": False,
        "draft": False,
    }


@pytest.mark.parametrize("base", ["", "backlog/", ".backlog/"])
def test_a_backlog_project_is_read_from_its_root_or_its_folder(tmp_path: Path, base: str) -> None:
    write(
        tmp_path,
        {
            f"{base}tasks/t-1.md": task_md("T-1"),
            f"{base}completed/t-2.md": task_md("T-2", status="Done"),
            f"{base}drafts/t-3.md": task_md("DRAFT-3"),
            f"{base}archive/tasks/t-4.md": task_md("T-4"),
            f"{base}docs/x.md": task_md("X-1"),
            "README.md": "# hello",
        },
    )
    reading = read(tmp_path)
    assert reading.format == "backlog"
    flags = {d.task_id: (d.metadata["import"]["finished"], d.metadata["import"]["draft"]) for d in reading.drafts}
    assert flags == {"T-1": (False, False), "T-2": (True, False), "DRAFT-3": (False, True), "T-4": (True, False)}


@pytest.mark.parametrize("title", ["@someone", "`code` first", "CLI: a colon: unquoted", "it's"])
def test_front_matter_as_people_write_it_is_read(tmp_path: Path, title: str) -> None:
    assert one(read(write(tmp_path, {"t.md": task_md(title=title)}) / "t.md")).title == title


@pytest.mark.parametrize(
    ("front", "reason"),
    [
        ("a: &a [x]\nb: [*a, *a]\n", "aliases are not read"),
        ("a: " + "[" * 5000 + "\n", "nested deeper"),
        ("a: 'never closed\n", "not plain YAML"),
        ("a: \x07\n", "not plain YAML"),
    ],
)
def test_broken_front_matter_is_a_problem_and_its_simple_fields_are_read(
    tmp_path: Path, front: str, reason: str
) -> None:
    text = task_md().replace("labels: [a, b]\n", front)
    reading = read(write(tmp_path, {"t.md": text}) / "t.md", "backlog")
    assert [draft.task_id for draft in reading.drafts] == ["T-1"]
    assert reason in reading.problems[0].reason


def test_front_matter_values_stay_as_they_were_written(tmp_path: Path) -> None:
    text = task_md("T-4.10").replace("labels: [a, b]", "since: 2026-01-01\nflag: yes\nbig: .inf")
    draft = one(read(write(tmp_path, {"t.md": text}) / "t.md"))
    assert draft.task_id == "T-4.10"
    assert (draft.metadata["since"], draft.metadata["flag"], draft.metadata["big"]) == ("2026-01-01", "yes", ".inf")


# ------------------------------------------------------------------------------------------------ Beads


def issue(task_id: str, **fields: object) -> str:
    return json.dumps({"id": task_id, "title": f"Issue {task_id}", "status": "open", "issue_type": "task", **fields})


def test_beads_are_read_from_a_project_a_folder_or_a_file(tmp_path: Path) -> None:
    write(tmp_path, {".beads/issues.jsonl": issue("bd-a1b2", acceptance_criteria="- a\n- b\n\n---") + "\n"})
    for path in (tmp_path, tmp_path / ".beads", tmp_path / ".beads" / "issues.jsonl"):
        draft = one(read(path))
        assert (draft.task_id, texts(draft)) == ("bd-a1b2", ["a", "b"])


@pytest.mark.parametrize(
    ("status", "finished", "draft"),
    [
        ("open", False, False),
        ("closed", True, False),
        ("tombstone", True, False),
        ("deferred", False, True),
        ("blocked", False, True),
        ("hooked", False, False),
    ],
)
def test_the_status_of_an_issue_says_whether_it_waits(tmp_path: Path, status: str, finished: bool, draft: bool) -> None:
    found = one(read(write(tmp_path, {"issues.jsonl": issue("bd-1", status=status)}) / "issues.jsonl"))
    about = found.metadata["import"]
    assert (about["status"], about["finished"], about["draft"]) == (status, finished, draft)


def test_conflict_markers_and_second_versions_are_named_and_the_rest_goes_in(tmp_path: Path) -> None:
    lines = ["<<<<<<< HEAD", issue("bd-1"), "=======", issue("BD-1"), ">>>>>>> other", issue("bd-2")]
    reading = read(write(tmp_path, {"issues.jsonl": "\n".join(lines)}) / "issues.jsonl")
    assert [draft.task_id for draft in reading.drafts] == ["bd-1", "bd-2"]
    assert [problem.line for problem in reading.problems] == [1, 3, 4, 5]
    assert "merge conflict marker" in reading.problems[0].reason
    assert reading.problems[2].reason == "task id 'BD-1' was already read from issues.jsonl line 2"


def test_a_store_that_begins_with_a_conflict_is_still_recognised(tmp_path: Path) -> None:
    write(tmp_path, {"odd.jsonl.txt": "<<<<<<< HEAD\n" + issue("bd-1")})
    assert recognise(tmp_path / "odd.jsonl.txt") == "beads"


# -------------------------------------------------------------------------------------------- checklists


def test_each_top_level_box_is_a_task_and_the_boxes_in_it_its_criteria(tmp_path: Path) -> None:
    item = "- [ ] Fix login\n  - [x] on the phone\n  - [ ] on the desk"
    text = f"# TODO\n\n{item}\n* [x] Ship it\n\n## Later\n\n1. [ ] Sleep\n"
    reading = read(write(tmp_path, {"TODO.md": text}) / "TODO.md")
    assert reading.format == "checklist"
    found = [(d.task_id, d.title, texts(d), d.metadata["import"]["finished"]) for d in reading.drafts]
    assert found == [
        ("todo-fix-login", "Fix login", ["on the phone", "on the desk"], False),
        ("todo-ship-it", "Ship it", ["Ship it"], True),
        ("todo-sleep", "Sleep", ["Sleep"], False),
    ]
    assert reading.drafts[0].request_text == item
    assert reading.drafts[2].metadata["section"] == "Later"


def test_an_item_keeps_its_id_when_it_moves_or_is_ticked(tmp_path: Path) -> None:
    before = read(write(tmp_path, {"a/TODO.md": "## Open\n- [ ] x\n- [ ] y\n## Done\n"}) / "a" / "TODO.md")
    after = read(write(tmp_path, {"b/TODO.md": "## Open\n- [ ] y\n## Done\n- [x] x\n"}) / "b" / "TODO.md")
    assert {draft.task_id for draft in before.drafts} == {draft.task_id for draft in after.drafts}


def test_the_same_item_in_two_sections_is_two_tasks_and_twice_in_one_is_a_problem(tmp_path: Path) -> None:
    text = "# A\n- [ ] test\n# B\n- [ ] test\n- [ ] test\n- [ ] C++\n- [ ] C#\n"
    reading = read(write(tmp_path, {"x.md": text}) / "x.md")
    ids = [draft.task_id for draft in reading.drafts]
    assert ids[:3] == ["x-test", "x-b-test", "x-c"]
    assert ids[3].startswith("x-c-")
    assert [(problem.line, "already read" in problem.reason) for problem in reading.problems] == [(5, True)]


def test_a_section_with_acceptance_criteria_is_one_task(tmp_path: Path) -> None:
    text = (
        "# Plan\n\n## Login\n\nPeople log in.\n\n- [ ] a step\n\n"
        "### Acceptance criteria\n\n- [ ] a\n- [ ] b\n\n## Other\n\n- [ ] c\n"
    )
    reading = read(write(tmp_path, {"plan.md": text}) / "plan.md")
    assert [(d.task_id, d.title, texts(d)) for d in reading.drafts] == [
        ("plan-login", "Login", ["a", "b"]),
        ("plan-c", "c", ["c"]),
    ]
    assert reading.drafts[0].request_text.startswith("People log in.")


def test_a_document_without_boxes_is_one_task(tmp_path: Path) -> None:
    write(
        tmp_path,
        {"two-fer.instructions.md": "# Instructions\n\nShare.\n", "b.md": "---\n\n# Make tea\n\n- not a box\n"},
    )
    reading = read(tmp_path)
    assert [(d.task_id, d.title, texts(d)) for d in reading.drafts] == [
        ("b", "Make tea", ["Make tea"]),
        ("two-fer.instructions", "Two fer", ["Two fer"]),
    ]


def test_ids_hold_for_any_script_and_length(tmp_path: Path) -> None:
    items = ["猫を撫でる", "犬を撫でる", "x" * 500, "x" * 501, "---"]
    reading = read(write(tmp_path, {"T.md": "".join(f"- [ ] {item}\n" for item in items)}) / "T.md")
    assert reading.problems == ()
    assert len({draft.task_id for draft in reading.drafts}) == len(items)
    assert all(TASK_ID.fullmatch(draft.task_id) for draft in reading.drafts)
    assert len(reading.drafts[2].title) == 200
    assert reading.drafts[2].metadata["full_title"] == "x" * 500


# ---------------------------------------------------------------------------------------------- OpenSpec

SPEC = """## ADDED Requirements
### Requirement: Speed
It SHALL be fast.

#### Scenario: Many
- **WHEN** many come
- **THEN** do:
  - this

### Requirement: Alone
It SHALL stand alone.

## REMOVED Requirements
### Requirement: Old
**Reason**: gone
"""


def test_an_openspec_change_is_one_task_with_its_scenarios(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "openspec/changes/add-speed/proposal.md": "# Change: Add speed\n\nWhy not.",
            "openspec/changes/add-speed/tasks.md": "- [x] 1.1 Do\n- [ ] 1.2 Test\n",
            "openspec/changes/add-speed/specs/core/spec.md": SPEC,
            "openspec/changes/archive/2026-01-02-old-one/proposal.md": "## Why\n\nBecause.",
            "openspec/changes/archive/2026-01-02-old-one/tasks.md": "- [x] 1.1 Did\n",
            "openspec/specs/core/spec.md": "# not a change",
            "README.md": "# x",
        },
    )
    reading = read(tmp_path)
    assert (reading.format, reading.problems) == ("openspec", ())
    new, old = reading.drafts
    assert (new.task_id, new.title) == ("add-speed", "Add speed")
    assert texts(new) == [
        "Speed – Many: WHEN many come; THEN do: this",
        "Alone: It SHALL stand alone.",
        "Removed: Old: **Reason**: gone",
    ]
    assert new.request_text.startswith("# Change: Add speed\n\nWhy not.\n\n<!-- tasks.md -->\n\n- [x] 1.1 Do")
    assert new.metadata["import"]["status"] == "in-progress"
    assert (old.task_id, old.title, texts(old)) == ("old-one", "Old one", ["1.1 Did"])
    assert old.metadata["import"]["finished"] is True
    change = tmp_path / "openspec" / "changes" / "archive" / "2026-01-02-old-one"
    assert (one(read(change)).task_id, one(read(change)).metadata["import"]["status"]) == ("old-one", "archived")


def test_two_archived_changes_of_one_name_keep_their_dates(tmp_path: Path) -> None:
    write(tmp_path, {f"changes/archive/2026-01-0{day}-again/proposal.md": "# x" for day in (1, 2)})
    assert [draft.task_id for draft in read(tmp_path).drafts] == ["2026-01-01-again", "2026-01-02-again"]


# ------------------------------------------------------------------------------------------- JSON and CSV


def test_checks_come_with_their_criteria_or_the_row_is_a_problem(tmp_path: Path) -> None:
    given = '{"id": "AC-1", "text": "x", "check": ["make", "test"]}, {"id": "AC-2", "text": "y", "check": "make lint"}'
    rows = [
        f'{{"task_id": "T-1", "title": "A", "acceptance_criteria": [{given}]}}',
        '{"title": "no id", "acceptance_criteria": [{"text": "x", "check": "make"}]}',
        '{"title": "no command", "acceptance_criteria": [{"id": "AC-1", "text": "x", "check": []}]}',
        '{"title": "one id twice", "acceptance_criteria": [{"id": "A", "text": "x", "check": "a"}, '
        '{"id": "A", "text": "y"}]}',
    ]
    reading = read(write(tmp_path, {"t.jsonl": "\n".join(rows)}) / "t.jsonl")
    assert [one.check for one in reading.drafts[0].acceptance_criteria] == [("make", "test"), "make lint"]
    assert len(reading.drafts) == 1
    assert len(reading.problems) == 3


def test_jsonl_rows_become_tasks_and_bad_ones_problems(tmp_path: Path) -> None:
    rows = [
        '{"task_id": "T-1", "title": "A", "request_text": "Do A", "acceptance_criteria": ["a", "b"], '
        '"scope": ["src/**"], "pri": 1}',
        '{"id": 12, "Title": "B", "acceptance_criteria": [{"id": "X-1", "text": "x"}], '
        '"created_at": "2026-01-02T03:04:05+02:00"}',
        '{"title": "Only a title", "acceptance_criteria": "- [ ] c\\n- [x] d", "status": "Done"}',
        '{"id": "PROJ/7", "body": "First line\\nsecond"}',
        "not json",
        "[1]",
        '{"title": NaN}',
        '{"title": "a", "title": "b"}',
        '{"title": "\\ud800"}',
        '{"nothing": 1}',
        '{"task_id": "../../x", "title": "x"}',
        '{"title": "x", "scope": {"a": 1}}',
        '{"title": "x", "scope": ["../up/**"]}',
        '{"title": "x", "acceptance_criteria": [3]}',
        '{"title": 3.5}',
        '{"task_id": "t-1", "title": "again"}',
        "[" * 100_000,
        '{"title": "big", "n": 9007199254740993}',
    ]
    reading = read(write(tmp_path, {"t.jsonl": "\ufeff" + "\r\n".join(rows)}) / "t.jsonl")
    first, second, third, fourth = reading.drafts
    assert (first.task_id, texts(first), first.scope, first.metadata["pri"]) == ("T-1", ["a", "b"], ("src/**",), 1)
    assert (second.task_id, second.title, second.created_at) == ("12", "B", "2026-01-02T01:04:05.000000Z")
    assert [criterion.id for criterion in second.acceptance_criteria] == ["X-1"]
    assert (third.task_id, texts(third), third.metadata["import"]["finished"]) == ("only-a-title", ["c", "d"], True)
    assert (fourth.task_id, fourth.title, fourth.origin["id"]) == ("PROJ-7", "First line", "PROJ/7")
    assert [problem.line for problem in reading.problems] == list(range(5, 19))


def test_a_benchmark_instance_has_its_failing_tests_as_criteria(tmp_path: Path) -> None:
    row = {
        "instance_id": "a__b-1",
        "problem_statement": "It breaks\nbadly",
        "FAIL_TO_PASS": '["t_1", "t_2"]',
        "repo": "a/b",
    }
    draft = one(read(write(tmp_path, {"t.jsonl": json.dumps(row)}) / "t.jsonl"))
    assert (draft.task_id, draft.title, texts(draft)) == ("a__b-1", "It breaks", ["t_1", "t_2"])
    assert (draft.request_text, draft.metadata["repo"]) == ("It breaks\nbadly", "a/b")


@pytest.mark.parametrize(
    "document", ['[\n{"title": "A"}\n]', '{\n"tasks": [{"title": "A"}]\n}', '{\n"title": "A"\n}', '{"title": "A"}']
)
def test_a_json_document_is_read_too(tmp_path: Path, document: str) -> None:
    assert one(read(write(tmp_path, {"t.json": document}) / "t.json")).task_id == "a"


def test_the_cases_of_an_exercise_are_its_criteria(tmp_path: Path) -> None:
    document = {
        "exercise": "two-fer",
        "cases": [
            {"description": "none", "property": "f", "input": {"name": None}, "expected": "One for you"},
            {"description": "group", "cases": [{"description": "inner", "property": "f", "input": 1, "expected": 2}]},
        ],
    }
    draft = one(read(write(tmp_path, {"t.json": json.dumps(document, indent=1)}) / "t.json"))
    assert (draft.task_id, draft.title) == ("two-fer", "Two fer")
    assert texts(draft) == ['none: f({"name":null}) = "One for you"', "group – inner: f(1) = 2"]


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_csv_rows_become_tasks(tmp_path: Path, mark: str) -> None:
    rows = [
        ["ID", "Title", "Acceptance Criteria", "Scope", "Owner"],
        ["T-1", "A", '"a;b\nc"', '"src/**, docs/**"', "alice"],
        ["", "", "", "", ""],
        ["T-2", "B", "", "", ""],
        ["T-3", "C", "", "", "", "too many"],
        ["T-4", "D", "", "/etc/**", ""],
    ]
    text = "\r\n".join(mark.join(row) for row in rows)
    reading = read(write(tmp_path, {"t.csv": "\ufeff" + text}) / "t.csv")
    first, second = reading.drafts
    assert (first.task_id, texts(first), first.scope) == ("T-1", ["a", "b", "c"], ("src/**", "docs/**"))
    assert (first.metadata["owner"], texts(second)) == ("alice", ["B"])
    assert [problem.line for problem in reading.problems] == [6, 7]


def test_a_csv_without_a_title_is_a_problem_that_says_so(tmp_path: Path) -> None:
    reading = read(write(tmp_path, {"t.csv": "a,b\n1,2\n"}) / "t.csv")
    assert reading.drafts == ()
    assert "no header row with one of the columns" in reading.problems[0].reason


def test_a_quote_that_never_closes_is_a_problem_with_its_line(tmp_path: Path) -> None:
    reading = read(write(tmp_path, {"t.csv": 'title\ngood\n"bad\nrest\n'}) / "t.csv")
    assert [draft.task_id for draft in reading.drafts] == ["good"]
    assert [problem.line for problem in reading.problems] == [3]


def test_metadata_that_is_too_large_or_too_deep_is_left_out_and_named(tmp_path: Path) -> None:
    deep: object = 1
    for _ in range(50):
        deep = [deep]
    row = {"title": "a", "small": 1, "large": "x" * 50_000, "deep": deep, "import": "mine"}
    draft = one(read(write(tmp_path, {"t.jsonl": json.dumps(row)}) / "t.jsonl"))
    assert (draft.metadata["small"], draft.metadata["import_"]) == (1, "mine")
    assert draft.metadata["import"]["omitted"] == ["deep", "large"]


# --------------------------------------------------------------------------------- recognising, refusing


def test_a_folder_of_several_sources_is_read_as_what_each_is(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "a/issues.jsonl": issue("bd-1"),
            "b/tasks/t-1.md": task_md("T-1"),
            "c/add-x/proposal.md": "# X",
            "d.csv": "title\nfrom csv\n",
            "e.md": "- [ ] from md\n",
            "f.jsonl": '{"title": "from jsonl"}',
            "package.json": '{\n"name": "x",\n"description": "y"\n}',
            "picture.png": b"\x89PNG\0",
            ".hidden/TODO.md": "- [ ] no",
        },
    )
    reading = read(tmp_path)
    assert (reading.format, reading.problems) == ("folder", ())
    assert [draft.task_id for draft in reading.drafts] == [
        "bd-1",
        "T-1",
        "add-x",
        "from-csv",
        "e-from-md",
        "from-jsonl",
    ]
    assert {draft.metadata["import"]["format"] for draft in reading.drafts} == set(FORMATS) - {"folder"}


def test_a_project_with_two_trackers_asks_which(tmp_path: Path) -> None:
    write(tmp_path, {".beads/issues.jsonl": issue("bd-1"), "backlog/tasks/t.md": task_md()})
    with pytest.raises(ImportRefused, match="backlog, beads"):
        read(tmp_path)
    assert len(read(tmp_path, "beads").drafts) == len(read(tmp_path, "backlog").drafts) == 1


def test_what_is_no_source_is_refused_with_what_was_looked_for(tmp_path: Path) -> None:
    write(tmp_path, {"x.png": b"\x89", "empty/.keep": b""})
    for path in (tmp_path / "x.png", tmp_path / "empty"):
        with pytest.raises(ImportRefused, match=r"Looked for: .*Beads"):
            recognise(path)
    with pytest.raises(ImportRefused, match="does not exist"):
        recognise(tmp_path / "nothing")
    with pytest.raises(ImportRefused, match="no format is called 'xml'"):
        read(tmp_path, "xml")
    with pytest.raises(ImportRefused, match="is a folder"):
        read(tmp_path, "csv")
    with pytest.raises(ImportRefused, match="is a file"):
        read(tmp_path / "x.png", "openspec")


def test_files_that_cannot_be_taken_are_problems_and_the_rest_goes_in(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "a.md": "- [ ] good\n",
            "binary.md": b"ok\nbad \xff\n",
            "empty.md": b"",
            "huge.md": b"x" * (8 * 1024 * 1024 + 1),
            "long.md": b"a\n" * 1_000_000,
            "nul.md": b"a\nb\0",
            "utf16.md": "- [ ] x".encode("utf-16"),
        },
    )
    os.mkfifo(tmp_path / "pipe.md")
    (tmp_path / "link.md").symlink_to(tmp_path / "a.md")
    (tmp_path / "linked").symlink_to(tmp_path)
    reading = read(tmp_path)
    assert [draft.task_id for draft in reading.drafts] == ["a-good"]
    reasons = {problem.file: (problem.line, problem.reason) for problem in reading.problems}
    assert reasons.keys() == {"binary.md", "empty.md", "huge.md", "long.md", "nul.md", "utf16.md", "pipe.md", "link.md"}
    assert reasons["binary.md"] == (2, "not UTF-8: byte 0xff")
    assert reasons["nul.md"][0] == 2
    assert "8 MiB" in reasons["huge.md"][1]
    assert "symbolic link" in reasons["link.md"][1]
    assert "regular file" in reasons["pipe.md"][1]
    assert "UTF-16" in reasons["utf16.md"][1]


@pytest.mark.parametrize("form", sorted(set(FORMATS) - {"openspec", "folder"}))
def test_a_pipe_a_link_and_a_device_never_hang(tmp_path: Path, form: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    for path in (tmp_path / "pipe", tmp_path / "link"):
        reading = read(path, form)
        assert reading.drafts == ()
        assert reading.problems[0].reason.startswith("not opened")


def test_many_problems_are_counted_not_listed(tmp_path: Path) -> None:
    reading = read(write(tmp_path, {"t.jsonl": "x\n" * 5_000}) / "t.jsonl")
    assert len(reading.problems) == 1_001
    assert reading.problems[-1].reason == "4000 more problems are not listed"


def test_reading_twice_gives_the_same(tmp_path: Path) -> None:
    write(tmp_path, {"a.md": "- [ ] a\n- [ ] a\n", "b.jsonl": issue("x"), "c.csv": "title\nc\n"})
    assert read(tmp_path) == read(tmp_path)


# -------------------------------------------------------------------------------------- ids, times, any text


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("2026-01-02", "2026-01-02T00:00:00.000000Z"),
        ("2026-01-02 03:04", "2026-01-02T03:04:00.000000Z"),
        ("2026-01-02T03:04:05.123456789-07:00", "2026-01-02T10:04:05.123456Z"),
        ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05.000000Z"),
        ("0001-01-01T00:00:00+14:00", None),
        ("2026-13-01", None),
        ("yesterday", None),
        (None, None),
    ],
)
def test_times_become_utc(given: str | None, expected: str | None) -> None:
    assert instant(given) == expected


def test_a_time_that_cannot_be_read_is_kept_as_it_stands(tmp_path: Path) -> None:
    draft = one(read(write(tmp_path, {"t.jsonl": '{"title": "a", "created_at": "last week"}'}) / "t.jsonl"))
    assert (draft.created_at, draft.metadata["created"]) == (None, "last week")


@given(st.text())
def test_any_text_makes_a_valid_id(text: str) -> None:
    assert TASK_ID.fullmatch(fitted_id(text))
    assert TASK_ID.fullmatch(made_id(text))
    assert fitted_id(text) == fitted_id(text)


_NAMES = {"backlog": "t.md", "beads": "t.jsonl", "checklist": "t.md", "jsonl": "t.jsonl", "csv": "t.csv"}
_SOURCE_LIKE = st.text(alphabet='-*[] x#:"{},;\n\t`~<>!&@aé\ud7ff\u2028') | st.text()


@settings(max_examples=60, deadline=None)
@given(
    form=st.sampled_from(sorted(_NAMES)),
    head=st.sampled_from(
        ["", "---\n", "---\nid: T-1\ntitle: ", "- [ ] ", "title,scope\n", '{"title": "', "# A\n## Criteria\n"]
    ),
    body=_SOURCE_LIKE | st.binary(),
)
def test_any_content_is_read_or_reported(form: str, head: str, body: str | bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        raw = head.encode() + (body if isinstance(body, bytes) else body.encode("utf-8", "surrogatepass"))
        path = write(Path(folder), {_NAMES[form]: raw}) / _NAMES[form]
        try:
            reading = read(path, form)
        except ImportRefused:  # nothing in it, and nothing wrong with it
            return
    for draft in reading.drafts:
        assert TASK_ID.fullmatch(draft.task_id)
        assert draft.title
        assert draft.title == " ".join(draft.title.split())
        assert draft.request_text.strip()
        assert draft.acceptance_criteria
        assert all(criterion.text for criterion in draft.acceptance_criteria)
        json.dumps(draft.metadata).encode("utf-8")
    folded = [draft.task_id.casefold() for draft in reading.drafts]
    assert len(set(folded)) == len(folded)


_ROW = st.dictionaries(
    st.sampled_from(
        [
            "task_id",
            "id",
            "title",
            "body",
            "acceptance_criteria",
            "scope",
            "status",
            "created_at",
            "exercise",
            "cases",
            "x",
        ]
    ),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
        max_leaves=6,
    ),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(_ROW, max_size=4), st.sampled_from(["jsonl", "beads"]))
def test_any_row_is_read_or_reported(values: list[dict[str, object]], form: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), {"t.jsonl": "\n".join(map(json.dumps, values))}) / "t.jsonl"
        try:
            reading = read(path, form)
        except ImportRefused:
            assert not values
            return
    assert len(reading.drafts) + len(reading.problems) == len(values)
