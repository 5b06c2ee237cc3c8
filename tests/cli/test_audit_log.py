"""`kircerta audit`."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from tests.builders import Walk, a_store
from tests.cli.conftest import Run


@pytest.fixture
def log(run: Run, home: Path) -> Path:
    """A log of three tasks."""
    for number in (1, 2, 3):
        run("task", "create", "text", "--id", f"T-{number}", "--title", "=1+1")
    return home / "audit" / "events.jsonl"


def test_tail_prints_the_exact_lines(run: Run, log: Path) -> None:
    lines = log.read_text().splitlines(keepends=True)
    assert run("audit", "tail", "-n", "2", "--json").out == "".join(lines[-2:])
    assert run("audit", "tail", "-n", "0", "--json").out == ""
    assert run("audit", "tail", "--json").out == "".join(lines)
    assert [row.split()[0] for row in run("audit", "tail").out.splitlines()] == ["1", "2", "3"]


def test_tail_filters(run: Run, log: Path) -> None:
    run("task", "import", "missing")
    run("dispatch", "T-2", "--executor", "remote", "--wait", "none")
    told = [json.loads(line) for line in run("audit", "tail", "--subject", "T-2", "--json").out.splitlines()]
    assert [event["type"] for event in told] == ["task_created", "task_dispatched"]
    told = [json.loads(line) for line in run("audit", "tail", "--type", "task_dispatched", "--json").out.splitlines()]
    assert [event["subject"] for event in told] == ["T-2"]


def test_verify_says_where_the_chain_breaks(run: Run, log: Path) -> None:
    assert run("audit", "verify").code == 0
    assert run("audit", "verify", "--json").json["events"] == 3
    log.write_bytes(log.read_bytes().replace(b'"T-2"', b'"T-8"', 1))
    broken = run("audit", "verify")
    assert broken.code == 1
    assert "seq 3 does not continue seq 2" in broken.out
    assert run("audit", "verify", "--json").json["ok"] is False
    assert run("task", "list").code == 1


def test_replay_compares_every_file(run: Run, log: Path, home: Path) -> None:
    assert run("audit", "replay", "--check").code == 0
    file = home / "ssot/tasks/T-2.json"
    file.write_text(file.read_text().replace("=1+1", "=1+2"))
    differs = run("audit", "replay", "--check", "--json")
    assert differs.code == 1
    assert differs.json["differing"] == ["T-2"]


def test_an_export_gets_its_name_when_it_is_complete(run: Run, log: Path, tmp_path: Path) -> None:
    out = tmp_path / "export.jsonl"
    assert run("audit", "export", "--out", str(out), "--json").json == {"events": 3, "out": str(out)}
    assert out.read_bytes() == log.read_bytes()
    assert run("audit", "export").out == log.read_text()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".export")] == []
    assert run("audit", "export", "--out", str(tmp_path / "no" / "folder")).code == 2


def test_csv_holds_the_same_and_no_formulas(run: Run, log: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(run("audit", "export", "--format", "csv", "--subject", "T-2").out)))
    assert [(row["seq"], row["subject"], row["type"]) for row in rows] == [("2", "T-2", "task_created")]
    event = json.loads(log.read_text().splitlines()[1])
    assert json.loads(rows[0]["data"]) == event["data"]
    assert rows[0]["prev"] == event["prev"]


def test_exports_are_bounded_by_time(run: Run, log: Path) -> None:
    second = json.loads(log.read_text().splitlines()[1])["time"]
    since = run("audit", "export", "--since", second).out
    until = run("audit", "export", "--until", second).out
    assert until + since == log.read_text()
    assert since.startswith('{"specversion"')


def test_fidelity_follows_the_history_and_names_what_differs(run: Run, home: Path) -> None:
    walk = Walk(a_store(home))
    walk.create()
    walk.to_gate("reject")
    walk.reject()
    walk.dispatch()
    walk.store.close()
    assert "verbatim" in run("audit", "fidelity").out
    told = json.loads(run("audit", "fidelity", "--json").out)
    assert (told["ok"], told["redispatches"], told["forwarded"], told["unread_decisions"]) == (True, 1, 2, 0)
    log = home / "audit" / "events.jsonl"
    first, last = log.read_bytes().rsplit(b'"text":"issue 1"', 1)
    log.write_bytes(first + b'"text":"issue X"' + last)
    ran = run("audit", "fidelity")
    assert ran.code == 1
    assert "dispatch.issues[0]" in ran.out
    assert "issue X" in ran.out
    assert json.loads(run("audit", "fidelity", "--json").out)["differences"][0]["attempt"] == 2


def test_one_is_told_as_one(run: Run, home: Path) -> None:
    run("task", "create", "text", "--id", "T-1")
    assert run("audit", "verify").out.startswith("1 event in 1 segment up to seq 1, ")
    assert run("audit", "replay", "--check").out.startswith("1 event leads to 1 task\n")
    assert run("audit", "fidelity").out.startswith("1 task, 0 dispatches, 0 of them again, with 0 issues ")
    assert run("task", "list").out.endswith("1 of 1 task\n")
