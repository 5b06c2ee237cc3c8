"""`kircerta task`."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Run

ROWS = [
    {"task_id": "R-1", "title": "One", "request_text": "Do one.", "acceptance_criteria": ["a", "b"]},
    {"task_id": "R-2", "title": "Two", "request_text": "Do two.", "acceptance_criteria": ["c"], "status": "done"},
]


def write_rows(path: Path, *more: str) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS) + "".join(more))
    return path


def test_a_created_task_is_listed_and_shown(run: Run) -> None:
    created = run(
        "task", "create", "--title", "Greet", "--text", "Greet by name.", "-c", "says Hello", "-s", "src/**", "--json"
    )
    task = created.json
    assert (task["task_id"], task["source"], task["status"]) == ("greet", "manual", "pending")
    assert task["acceptance_criteria"] == [{"id": "AC-1", "text": "says Hello"}]
    assert task["scope"] == ["src/**"]
    assert [row["task_id"] for row in run("task", "list", "--json").json["tasks"]] == ["greet"]
    assert run("task", "show", "greet", "--json").json == task
    shown = run("task", "show", "greet").out
    assert "says Hello" in shown
    assert "task_created" in shown
    assert "kircerta dispatch greet" in shown


def test_raw_is_the_file_byte_for_byte(run: Run, home: Path) -> None:
    run("task", "create", "text", "--id", "T-1")
    assert run("task", "show", "T-1", "--raw").out == (home / "ssot/tasks/T-1.json").read_text()


def test_an_id_that_was_made_up_gives_way_and_one_that_was_asked_for_does_not(run: Run) -> None:
    made = [run("task", "create", "Größe & Maß", "--json").json["task_id"] for _ in range(2)]
    assert made == ["gro-e-ma", "gro-e-ma-2"] or made == ["groe-ma", "groe-ma-2"]
    again = run("task", "create", "text", "--id", made[0])
    assert again.code == 1
    assert "exists already" in again.err


def test_the_text_may_come_from_stdin_or_a_file(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("Grüße\n".encode())))
    assert run("task", "create", "-", "--json").json["request_text"] == "Grüße\n"
    (tmp_path / "request.md").write_text("# From a file\n")
    assert run("task", "create", "--file", str(tmp_path / "request.md"), "--json").json["title"] == "# From a file"
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    assert run("task", "create", "--file", str(tmp_path / "binary")).code == 2


def test_what_others_wrote_cannot_steer_the_terminal(run: Run) -> None:
    run("task", "create", "[red]x[/red] \x1b[31m \u202e evil", "--id", "T-1")
    for shown in (run("task", "show", "T-1").out, run("task", "list").out):
        assert "\x1b" not in shown
        assert "\u202e" not in shown
        assert "[red]" in shown


def test_lists_are_filtered_and_paged(run: Run) -> None:
    for number in range(5):
        run("task", "create", f"number {number}", "--id", f"T-{number}")
    first = run("task", "list", "--limit", "3", "--json").json
    assert (len(first["tasks"]), first["total"]) == (3, 5)
    second = run("task", "list", "--limit", "3", "--cursor", first["next_cursor"], "--json").json
    assert [row["task_id"] for row in second["tasks"]] == ["T-3", "T-4"]
    assert run("task", "list", "-q", "NUMBER 3", "--json").json["total"] == 1
    assert run("task", "list", "--status", "approved", "--json").json["total"] == 0
    assert "5 of 5 tasks" in run("task", "list").out


def test_a_file_dropped_by_hand_is_listed_without_anything_running(run: Run, home: Path) -> None:
    run("task", "create", "text", "--id", "T-1")
    file = {"task_id": "T-2", "source": "manual", "request_text": "By hand.", "created_at": "2026-01-31T09:00:00Z"}
    (home / "ssot/tasks/T-2.json").write_text(json.dumps(file))
    assert run("task", "list", "--json").json["total"] == 2


def test_an_import_may_run_again(run: Run, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "tasks.jsonl")
    first = run("task", "import", str(path), "--json").json
    assert (first["created"], first["existing"], first["format"]) == (2, 0, "jsonl")
    second = run("task", "import", str(path), "--json")
    assert second.code == 0
    assert (second.json["created"], second.json["existing"]) == (0, 2)
    task = run("task", "show", "R-2", "--json").json
    assert (task["source"], task["status"]) == ("import", "pending")
    assert task["metadata"]["import"]["status"] == "done"


def test_a_dry_run_writes_nothing(run: Run, home: Path, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "tasks.jsonl")
    ran = run("task", "import", str(path), "--dry-run")
    assert ran.code == 0
    assert "R-1" in ran.out
    assert "2 would be created" in ran.out
    assert list(home.iterdir()) == []


def test_what_cannot_be_read_is_listed_with_its_place_and_the_rest_goes_in(run: Run, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "tasks.jsonl", "{nonsense\n")
    ran = run("task", "import", str(path), "--json")
    assert ran.code == 1
    assert ran.json["created"] == 2
    assert [(one["file"], one["line"]) for one in ran.json["problems"]] == [("tasks.jsonl", 3)]
    assert "kircerta: tasks.jsonl:3: " in run("task", "import", str(path)).err


def test_public_task_folders_go_through(run: Run) -> None:
    data = Path(__file__).parents[3] / "shared" / "data" / "06_tasks" / "backlog_md"
    if not data.is_dir():
        pytest.skip("../shared/data is not here")
    ran = run("task", "import", str(data), "--json")
    assert ran.json["created"] > 250
    assert run("audit", "verify").code == 0
