"""`kircerta approve`, `reject` and `unlock`, against a real API."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.probe import answers
from flows.server import free_port
from tests.cli.conftest import Run

SECRET = "0123456789abcdef" * 3


@pytest.fixture
def api(home: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An API over the workspace, which has a task at its gate; and an approver's token in the environment."""
    monkeypatch.setenv("KIRCERTA_JWT_SECRET", SECRET)
    run("task", "create", "Say hello.", "--id", "T-1")
    run("dispatch", "T-1", "--executor", "fake-inproc", "--reviewer", "fake-inproc")
    url = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("KIRCERTA_API_URL", url)
    monkeypatch.setenv("KIRCERTA_TOKEN", run("token", "--sub", "alice", "--role", "approver").out.strip())
    command = [sys.executable, "-m", "cli.main", "api", "--port", url.rpartition(":")[2]]
    server = subprocess.Popen(command, stderr=subprocess.PIPE)
    assert server.stderr is not None
    deadline = time.monotonic() + 20
    while not answers(f"{url}/healthz"):
        assert server.poll() is None, server.stderr.read()
        assert time.monotonic() < deadline
    yield url
    server.terminate()
    assert server.wait(10) == 0
    server.stderr.close()


def test_what_is_decided_is_shown_and_its_digest_is_sent(run: Run, api: str) -> None:
    digest = run("task", "show", "T-1", "--json").json["review_digest"]
    ran = run("approve", "T-1", "--reason", "Read.")
    assert ran.code == 0
    assert digest in ran.out
    assert ran.out.splitlines()[-1] == "T-1 is approved"
    decision = run("task", "show", "T-1", "--json").json["attempts"][-1]["decision"]
    assert (decision["by"], decision["reason"], decision["review_digest"]) == ("alice", "Read.", digest)
    assert '"digest_given":true' in run("audit", "tail", "--type", "task_approved", "--json").out
    again = run("approve", "T-1")
    assert again.code == 1
    assert "(invalid_transition)" in again.err


def test_rejections_take_issues_from_a_file_and_lock_in_the_end(run: Run, api: str, tmp_path: Path) -> None:
    issues = tmp_path / "issues.json"
    issues.write_text('[{"criterion_ref": "AC-1", "op_refs": ["OP-1"], "text": "Louder."}]')
    ran = run("reject", "T-1", "--reason", "No.", "--issues", str(issues), "--json")
    assert ran.code == 0
    assert ran.json["attempts"][-1]["decision"]["issues"][0]["text"] == "Louder."
    unlocked = run("unlock", "T-1", "--reason", "Clear now.")
    assert unlocked.code == 1
    assert "not locked" in unlocked.err
    for text in ("{", "{}"):
        issues.write_text(text)
        assert run("reject", "T-1", "--reason", "No.", "--issues", str(issues)).code == 2


def test_the_api_s_refusals_are_one_line(run: Run, api: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("approve", "T-9").err == "kircerta: there is no task 'T-9' (not_found)\n"
    monkeypatch.setenv("KIRCERTA_TOKEN", run("token", "--sub", "bob", "--role", "viewer").out.strip())
    forbidden = run("approve", "T-1")
    assert forbidden.code == 1
    assert "(forbidden)" in forbidden.err
    monkeypatch.setenv("KIRCERTA_TOKEN", "no token")
    assert "(unauthenticated)" in run("approve", "T-1").err


def test_an_api_that_is_not_there_is_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIRCERTA_TOKEN", "x.y.z")
    monkeypatch.setenv("KIRCERTA_API_URL", f"http://127.0.0.1:{free_port()}")
    ran = run("approve", "T-1")
    assert ran.code == 1
    assert "kircerta up" in ran.err
    monkeypatch.setenv("KIRCERTA_API_URL", "ftp://nowhere")
    assert run("approve", "T-1").code == 2
