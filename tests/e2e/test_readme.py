"""The README's commands run as they stand there, in their order, against an API of their own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from audit.reader import read_events
from tests.api.running import environment, server

ROOT = Path(__file__).parents[2]
COMMAND = Path(sys.executable).with_name("kircerta")
pytestmark = pytest.mark.slow


def blocks(section: str) -> list[str]:
    """The shell blocks of one section."""
    text = (ROOT / "README.md").read_text()
    body = text.split(f"\n## {section}\n")[1].split("\n## ")[0]
    return re.findall(r"```sh\n(.*?)```", body, re.DOTALL)


def test_the_first_task_by_hand_goes_as_the_readme_says(tmp_path: Path) -> None:
    script = "\n".join(blocks("A first task by hand")).replace(".venv/bin/kircerta", str(COMMAND))
    with server(tmp_path) as (_, port):
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script.replace("127.0.0.1:8000", f"127.0.0.1:{port}")],
            cwd=tmp_path,
            env=environment(tmp_path),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"status":"approved"' in done.stdout
    kinds = [event.type for event in read_events(tmp_path / "audit")]
    assert kinds == [
        "task_adopted",
        "task_dispatched",
        "ack_received",
        "result_received",
        "verdict_received",
        "task_approved",
    ]


def test_the_first_commands_are_targets_of_the_makefile() -> None:
    named = re.findall(r"^make ([a-z-]+)", "\n".join(blocks("Two commands")), re.MULTILINE)
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert named == ["run", "test"]
    assert set(named) <= set(targets)


def test_every_page_that_the_readme_links_is_there() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", (ROOT / "README.md").read_text())
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
