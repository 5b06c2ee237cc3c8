"""`kircerta agents`: what is told of agents that are there, and of those that are not."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from cli.main import main

STAND_INS = Path(__file__).parents[1] / "flows" / "stand_ins"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with two agents, and a PATH on which one of their programs is."""
    programs = tmp_path / "bin"
    programs.mkdir()
    program = programs / "codex"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -I {STAND_INS / "codex.py"} "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    (tmp_path / "config").mkdir()
    (tmp_path / "checkout" / ".git").mkdir(parents=True)
    (tmp_path / "config" / "agents.toml").write_text(
        '[executor.codex]\nprofile = "codex"\nprincipal = "codex"\ncwd = "checkout"\n'
        '[reviewer.second]\nprofile = "aider"\nprincipal = "second"\ncommand = ["no-such-aider"]\n'
    )
    monkeypatch.setenv("KIRCERTA_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("CODEX_API_KEY", "sk-secret-0123456789")
    return tmp_path


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    code = main(["agents", *arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_the_list_has_built_in_and_configured_agents(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = told(capsys, "list")
    standing = {(one["name"], one["role"]): (one["kind"], one["ok"]) for one in found["agents"]}
    assert code == 0
    assert standing["fake", "reviewer"] == ("built-in", True)
    assert standing["codex", "executor"] == ("profile codex", True)
    assert standing["second", "reviewer"] == ("profile aider", False)
    assert found["profiles"]["codex"] == str(home / "bin" / "codex")


def test_an_agent_that_would_run_is_told_with_its_version_and_without_its_key(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, (one,) = told(capsys, "check", "codex")
    assert (code, one["ok"], one["version"]) == (0, True, "codex-cli 0.99.0")
    assert [line[-2:] for line in one["lines"]] == [["read-only", "-"], ["workspace-write", "-"]]
    assert [line[-2:] for line in one["shut_in"]] == [["danger-full-access", "-"]]
    assert (one["passed"], one["missing"]) == (["CODEX_API_KEY"], ["CODEX_HOME"])
    assert "sk-secret" not in json.dumps(one)


def test_what_is_started_in_a_cage_is_told_beside_what_is_started_outside(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["agents", "check", "codex"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert sum("workspace-write" in line for line in said) == 1
    assert [line.strip().split(" $ ")[0] for line in said if "danger-full-access" in line] == ["shut in:"]


def test_a_program_that_is_not_there_is_named(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["agents", "check", "second"]) == 1
    said = capsys.readouterr()
    assert "no-such-aider is not on the PATH" in said.out
    assert "second would not run" in said.err


def test_a_folder_that_is_not_there_is_named(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "checkout" / ".git").rmdir()
    (home / "checkout").rmdir()
    code, (one,) = told(capsys, "check", "codex")
    assert code == 1
    assert "is no folder" in one["problems"][0]


def test_a_program_that_fails_its_version_would_not_run(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "bin" / "codex").write_text("#!/bin/sh\nexit 9\n")
    code, (one,) = told(capsys, "check", "codex")
    assert (code, one["problems"]) == (1, [f"{home / 'bin' / 'codex'} --version ended with exit code 9"])


def test_an_unknown_agent_is_wrong_use(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["agents", "check", "nobody"]) == 2
    assert "there is no executor 'nobody'" in capsys.readouterr().err


def test_a_calibration_is_told_and_kept(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, record = told(capsys, "calibrate", "replay", "--max-miss", "0.5")
    assert (code, record["outcome"]) == (1, "fail")
    assert record["thresholds"][0]["expression"] == "miss<=0.5"
    assert json.loads((home / "reports" / "runs" / record["run_id"] / "run.json").read_text())["kind"] == "calibration"
    cases = json.loads((home / "reports" / "runs" / record["run_id"] / "cases.json").read_text())
    assert len(cases) == record["config"]["cases"] == 18


def test_a_calibration_for_people_says_what_was_missed(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["agents", "calibrate", "fake:mode=reject", "--most", "6"]) == 0
    said = capsys.readouterr().out
    assert "good work rejected" in said
    assert "not told apart: it decided all alike" in said


def test_a_reviewer_that_does_not_exist_is_not_calibrated(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["agents", "calibrate", "nobody"]) == 2
    assert not (home / "reports").exists()
