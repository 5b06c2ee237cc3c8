"""What every command has in common: help, exit codes, one line for an error, quiet ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from cli.main import app
from tests.cli.conftest import Run

KIRCERTA = [sys.executable, "-m", "cli.main"]


def commands() -> Iterator[tuple[str, Any]]:
    def below(path: str, command: Any) -> Iterator[tuple[str, Any]]:
        children = getattr(command, "commands", {})
        if not children:
            yield path, command
        for name, child in children.items():
            yield from below(f"{path} {name}".strip(), child)

    return below("", typer.main.get_command(app))


@pytest.mark.parametrize("path", [path for path, _ in commands()])
def test_every_command_has_help_with_an_example(path: str, run: Run) -> None:
    ran = run(*path.split(), "--help")
    assert ran.code == 0
    assert "Example: " in ran.out
    assert "kircerta" in ran.out.split("Example: ")[1]


PROMISED = """up api dispatch approve reject unlock token doctor
    task:list task:show task:create task:import audit:tail audit:verify audit:replay audit:export"""


@pytest.mark.parametrize("name", PROMISED.split())
def test_every_promised_command_is_there_and_prints_json_where_asked(name: str) -> None:
    command = dict(commands())[name.replace(":", " ")]
    assert "--json" in {option for parameter in command.params for option in parameter.opts}


def test_commands_that_read_import_neither_prefect_nor_servers() -> None:
    code = (
        "import sys; from cli.main import main; main(['task', 'list']);"
        "heavy = {'prefect', 'fastapi', 'uvicorn', 'httpx', 'pandas'} & set(sys.modules);"
        "sys.exit(repr(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_no_arguments_show_the_help(run: Run) -> None:
    ran = run()
    assert ran.code == 2
    assert "Usage: kircerta" in ran.out


def test_the_version_is_printed(run: Run) -> None:
    assert re.fullmatch(r"kircerta \d+\.\d+\.\d+\n", run("--version").out)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--bogus",),
        ("bogus",),
        ("task", "bogus"),
        ("task", "list", "--limit", "0"),
        ("task", "list", "--limit", "many"),
        ("task", "list", "--status", "bogus"),
        ("task", "show"),
        ("task", "show", "../etc/passwd"),
        ("task", "show", "a\nb"),
        ("task", "create"),
        ("task", "create", "one", "--text", "two"),
        ("task", "create", "--file", "missing.txt"),
        ("task", "create", "text", "--id", "-x"),
        ("task", "create", "text", "--scope", "/etc/**"),
        ("task", "import", "missing"),
        ("dispatch", "T-1", "--wait", "forever"),
        ("dispatch", "T-1", "--executor", "nobody"),
        ("dispatch", "T-1", "--reviewer", "fake:mode=bogus"),
        ("dispatch", "T-1", "--wait", "none"),
        ("approve", "T-1"),
        ("reject", "T-1"),
        ("token", "--sub", "alice"),
        ("token", "--sub", "alice", "--role", "approver"),
        ("audit", "export", "--format", "xml"),
        ("audit", "export", "--json"),
        ("audit", "tail", "--lines", "-1"),
        ("audit", "export", "--since", "yesterday"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(arguments: tuple[str, ...], run: Run) -> None:
    ran = run(*arguments)
    assert ran.code == 2
    assert ran.out == ""
    assert re.fullmatch(r"kircerta: [^\n]+\n", ran.err.replace(_remark(ran.err), ""))


def test_a_cursor_that_no_page_gave_out_is_wrong_use(run: Run) -> None:
    run("task", "create", "text")
    assert run("task", "list", "--cursor", "???").code == 2


def _remark(err: str) -> str:
    found = re.match(r"kircerta: [^\n]+ holds no tasks yet[^\n]+\n", err)
    return found[0] if found else ""


def test_a_bad_setting_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIRCERTA_MAX_REJECTS", "none")
    ran = run("task", "list")
    assert ran.code == 2
    assert ran.err.startswith("kircerta: KIRCERTA_MAX_REJECTS: ")


def test_a_traceback_shows_only_where_it_is_asked_for(run: Run) -> None:
    assert "Traceback" not in run("task", "show", "nope").err
    asked = run("--debug", "task", "show", "nope")
    assert asked.code == 1
    assert "Traceback" in asked.err


def test_a_workspace_that_cannot_be_made_is_one_line(run: Run, home: Path) -> None:
    home.rmdir()
    home.write_text("a file where the folder should be")
    ran = run("task", "create", "text")
    assert ran.code == 2
    assert str(home) in ran.err
    assert ran.err.count("\n") == 1


def test_reading_makes_no_workspace(run: Run, home: Path) -> None:
    assert run("task", "list", "--json").json == {"tasks": [], "total": 0, "next_cursor": None}
    assert run("task", "show", "T-1").code == 1
    assert run("audit", "tail").out == ""
    assert run("audit", "verify").code == 0
    assert run("audit", "export").out == ""
    assert list(home.iterdir()) == []


def test_a_reader_that_has_enough_ends_it_quietly(run: Run, home: Path) -> None:
    for number in range(12):
        run("task", "create", "text", "--id", f"T-{number}", "--criterion", "x" * 30_000)
    command = subprocess.Popen(
        [*KIRCERTA, "audit", "export"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=dict(os.environ)
    )
    assert command.stdout is not None
    assert command.stderr is not None
    command.stdout.read(1)
    command.stdout.close()
    assert command.stderr.read() == b""
    command.stderr.close()
    assert command.wait(60) == 1


def test_ctrl_c_ends_it_with_130_and_without_a_word(run: Run, home: Path) -> None:
    run("task", "create", "text", "--id", "T-1")
    follower = subprocess.Popen(
        [*KIRCERTA, "audit", "tail", "-f", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert follower.stdout is not None
    assert b"task_created" in follower.stdout.readline()
    run("task", "create", "text", "--id", "T-2")
    assert b'"T-2"' in follower.stdout.readline()
    follower.send_signal(signal.SIGINT)
    _, err = follower.communicate(timeout=10)
    assert (follower.returncode, err) == (130, b"")
