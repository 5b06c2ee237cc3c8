"""The example repository: from its failing test through agents, gate and landing to a branch whose tests pass."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli import demonstration
from cli.tasks import creation
from flows.here import run_here
from flows.landing import land
from flows.pipeline import Order
from flows.workspace import Workspace
from ssot import importers
from ssot.intents import Approve
from ssot.task import review_digest
from tests.flows.conftest import settings_for
from tests.flows.yard import git

TASK = "example-till-rounding"


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    home = tmp_path / "ws"
    home.mkdir()
    assert demonstration.prepare(home)
    opened = Workspace.open(settings_for(home, execution_timeout_s=60.0, review_timeout_s=60.0, ack_timeout_s=30.0))
    for draft in importers.read(demonstration.TASK).drafts:
        opened.store.commit(draft.task_id, creation(draft), actor="alice@cli")
    yield opened
    opened.store.close()


def passes_its_tests(checkout: Path, commit: str, folder: Path) -> bool:
    git(checkout, "worktree", "add", "--quiet", "--detach", str(folder), commit)
    done = subprocess.run([sys.executable, "-B", "-m", "unittest", "-q"], cwd=folder, capture_output=True, check=False)
    git(checkout, "worktree", "remove", "--force", str(folder))
    return done.returncode == 0


def test_a_real_bug_is_mended_checked_approved_and_landed(workspace: Workspace, tmp_path: Path) -> None:
    checkout = workspace.home / demonstration.CHECKOUT
    assert not passes_its_tests(checkout, "main", tmp_path / "before")
    (outcome,) = run_here(workspace, [TASK], Order())
    assert outcome.name == "NeedsReview", outcome
    task = workspace.store.task(TASK)
    assert task.current is not None
    assert task.current.result is not None
    assert task.current.result.observed is not None
    assert [one.exit_code for one in task.current.result.observed.checks] == [0, 0]
    assert task.current.verdict is not None
    assert task.current.verdict.decision == "approve"

    workspace.store.commit(TASK, Approve("Read.", review_digest(task)), actor="alice")
    landed = asyncio.run(land(workspace, TASK, "landing"))
    assert git(checkout, "rev-parse", demonstration.BRANCH) == landed.commit
    assert passes_its_tests(checkout, landed.commit, tmp_path / "after")
    trailers = git(checkout, "log", "-1", "--format=%(trailers)", landed.commit)
    assert f"Task: {TASK}" in trailers
    assert "Approved-by: alice" in trailers


def test_the_repository_is_the_same_one_everywhere(tmp_path: Path) -> None:
    homes = (tmp_path / "a", tmp_path / "b")
    assert all(demonstration.prepare(home) for home in homes)
    assert demonstration.prepare(homes[0])
    first, second = (git(home / demonstration.CHECKOUT, "rev-parse", "main") for home in homes)
    assert first == second


@pytest.mark.parametrize("name", ["agents.toml", "projects.toml"])
def test_where_a_person_has_a_file_of_their_own_nothing_is_made(tmp_path: Path, name: str) -> None:
    own = tmp_path / "config" / name
    own.parent.mkdir()
    own.write_text("# mine\n")
    assert not demonstration.prepare(tmp_path)
    assert own.read_text() == "# mine\n"
    assert sorted(path.name for path in tmp_path.rglob("*")) == sorted(["config", name])
