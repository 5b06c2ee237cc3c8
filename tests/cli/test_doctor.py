"""`kircerta doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Ran, Run


def found(ran: Ran) -> dict[str, dict[str, Any]]:
    return {finding["check"]: finding for finding in ran.json["findings"]}


def test_a_sound_workspace_has_no_failures(run: Run) -> None:
    run("task", "create", "text", "--id", "T-1")
    ran = run("doctor", "--json")
    assert ran.code == 0
    assert ran.json["ok"]
    assert {"python", "packages", "settings", "workspace", "space", "secrets", "cage", "log", "clock"} <= set(
        found(ran)
    )
    assert "WAY OUT" in run("doctor").out


def test_an_empty_folder_is_no_failure(run: Run, home: Path) -> None:
    assert run("doctor").code == 0
    assert list(home.iterdir()) == []


def test_agents_that_could_work_with_the_users_rights_are_told_of(run: Run, home: Path) -> None:
    assert found(run("doctor", "--json"))["agents"]["level"] == "ok"
    file = home / "config" / "agents.toml"
    file.parent.mkdir()
    one = '[executor.{}]\ncommand = ["true"]\nprincipal = "{}"\n'
    file.write_text(one.format("coder", "coder") + one.format("caged", "caged") + 'isolation = "required"\n')
    told = found(run("doctor", "--json"))["agents"]
    assert told["level"] == "warn"
    assert "coder run with your own rights" in told["what"]
    assert "caged" not in told["what"]
    file.write_text(one.format("caged", "caged") + 'isolation = "required"\n')
    assert found(run("doctor", "--json"))["agents"]["level"] == "ok"
    file.write_text("[executor.coder]\nnonsense = 1\n")
    assert found(run("doctor", "--json"))["agents"]["level"] == "fail"


def test_a_bad_setting_fails(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIRCERTA_ACK_TIMEOUT_S", "soon")
    ran = run("doctor", "--json")
    assert ran.code == 1
    assert "KIRCERTA_ACK_TIMEOUT_S" in found(ran)["settings"]["what"]


def test_held_files_and_saves_put_aside_are_listed(run: Run, home: Path) -> None:
    import os

    run("task", "create", "text", "--id", "T-1")
    bad = home / "ssot/tasks/T-2.json"
    bad.write_text('{"task_id": "T-2"')
    os.utime(bad, (1, 1))
    (home / ".kircerta/displaced").mkdir()
    (home / ".kircerta/displaced/T-1.0123.json").write_text("{}")
    findings = found(run("doctor", "--json"))
    assert findings["held file"]["what"].startswith("T-2.json: ")
    assert "T-1.0123.json" in findings["displaced"]["what"]


def test_a_long_text_that_is_gone_fails(run: Run, home: Path) -> None:
    run("task", "create", "long " * 10_000, "--id", "T-1")
    (blob,) = (home / "ssot/blobs").iterdir()
    assert found(run("doctor", "--json"))["texts"]["level"] == "ok"
    blob.unlink()
    ran = run("doctor", "--json")
    assert ran.code == 1
    assert "of T-1" in found(ran)["texts"]["what"]


def test_a_broken_log_fails_with_its_place(run: Run, home: Path) -> None:
    for number in (1, 2, 3):
        run("task", "create", "text", "--id", f"T-{number}")
    log = home / "audit/events.jsonl"
    log.write_bytes(log.read_bytes().replace(b'"T-2"', b'"T-8"', 1))
    for arguments in (("doctor", "--json"), ("doctor", "--full", "--json")):
        ran = run(*arguments)
        assert ran.code == 1
        assert found(ran)["log"]["level"] == "fail"


def test_a_secret_that_others_can_read_fails(run: Run, home: Path) -> None:
    (home / ".secrets").mkdir(mode=0o700)
    key = home / ".secrets/jwt_secret"
    key.write_text("x" * 40)
    key.chmod(0o644)
    ran = run("doctor", "--json")
    assert ran.code == 1
    assert f"chmod 600 {key}" in found(ran)["secrets"]["way_out"]


def test_dispatches_without_a_dispatcher_are_told(run: Run) -> None:
    run("task", "create", "text", "--id", "T-1")
    run("dispatch", "T-1", "--executor", "fake-inproc:mode=silent", "--timeout", "0.6")
    assert "no dispatcher" in found(run("doctor", "--json"))["dispatcher"]["what"]
