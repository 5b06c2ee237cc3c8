"""The README's commands run as they stand there, in their order, against an API of their own."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from audit.log import read_events

ROOT = Path(__file__).parents[2]
COMMAND = Path(sys.executable).with_name("kircerta")
pytestmark = pytest.mark.slow


def blocks(section: str) -> list[str]:
    """The shell blocks of one section."""
    text = (ROOT / "README.md").read_text()
    body = text.split(f"\n## {section}\n")[1].split("\n## ")[0]
    return re.findall(r"```sh\n(.*?)```", body, re.DOTALL)


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def home(tmp_path: Path, port: int) -> Iterator[Path]:
    """A workspace with a running API, as `make run` would have left it."""
    secrets = tmp_path / ".secrets"
    secrets.mkdir(mode=0o700)
    (secrets / "jwt_secret").write_text("a key that only this test knows, 32 bytes")
    (secrets / "jwt_secret").chmod(0o600)
    command = [COMMAND, "api", "--port", str(port)]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE) as api:
        try:
            wait_until_healthy(port)
            yield tmp_path
        finally:
            api.terminate()
            api.communicate(timeout=10)


def wait_until_healthy(port: int) -> None:
    until = time.monotonic() + 20
    while time.monotonic() < until:
        try:
            if httpx.get(f"http://127.0.0.1:{port}/healthz").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.05)
    raise AssertionError("the API did not come up")


def test_the_first_task_by_hand_goes_as_the_readme_says(home: Path, port: int) -> None:
    script = "\n".join(blocks("A first task by hand"))
    script = script.replace(".venv/bin/kircerta", str(COMMAND)).replace("127.0.0.1:8000", f"127.0.0.1:{port}")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=home, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"status":"approved"' in done.stdout
    kinds = [event.type for event in read_events(home / "audit")]
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
