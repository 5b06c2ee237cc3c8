"""`kircerta land`: what it says, and its exit codes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.workspace import Workspace
from ssot.intents import Approve
from tests.cli.conftest import Run
from tests.flows.conftest import settings_for
from tests.flows.yard import Yard, a_yard, git


@pytest.fixture
def yard(home: Path, tmp_path: Path) -> Iterator[Yard]:
    opened: list[Workspace] = []

    def open_workspace(**settings: Any) -> Workspace:
        opened.append(Workspace.open(settings_for(home, **settings)))
        return opened[0]

    made = a_yard(open_workspace, tmp_path)
    file = home / "config" / "projects.toml"
    file.write_text(file.read_text() + '[project.shop.landing]\nbranch = "approved"\n')
    made.add()
    made.run()
    yield made
    opened[0].store.close()


def test_it_names_the_commit_and_says_it_again(yard: Yard, run: Run) -> None:
    yard.workspace.store.commit("T-1", Approve("read"), actor="alice")
    first, again = run("land", "T-1", "--json"), run("land", "T-1")
    assert first.code == again.code == 0
    commit = git(yard.checkout, "rev-parse", "approved")
    assert first.json == {"task_id": "T-1", "landed": True, "branch": "approved", "commit": commit, "is_new": True}
    assert commit in again.out


def test_what_nobody_approved_is_exit_code_1(yard: Yard, run: Run) -> None:
    ran = run("land", "T-1")
    assert ran.code == 1
    assert "needs_review" in ran.err
    assert run("land", "T-9").code == 1


def test_a_refusal_is_exit_code_1_with_its_reason(yard: Yard, run: Run) -> None:
    yard.workspace.store.commit("T-1", Approve("read"), actor="alice")
    git(yard.checkout, "checkout", "--quiet", "-b", "approved")
    ran = run("land", "T-1", "--json")
    assert (ran.code, ran.json["reason"]) == (1, "checked_out")
    assert "(checked_out)" in run("land", "T-1").err


def test_what_met_a_conflict_is_dispatched_again_by_hand(yard: Yard, run: Run) -> None:
    yard.workspace.store.commit("T-1", Approve("read"), actor="alice")
    assert run("dispatch", "T-1").code == 1, "what may still land is not begun again"
    git(yard.checkout, "branch", "approved")
    conflict_on(yard, "approved")
    assert run("land", "T-1", "--json").json["reason"] == "conflict"
    assert "kircerta dispatch T-1" in run("task", "show", "T-1").out
    ran = run("dispatch", "T-1", "--executor", "own", "--reviewer", "own", "--json")
    assert (ran.code, ran.json["outcomes"][0]["name"]) == (0, "NeedsReview")
    yard.workspace.store.refresh()
    dispatch = yard.attempt().dispatch
    assert dispatch is not None
    assert [one.issue_id for one in dispatch.issues] == ["LANDING-1"]


def conflict_on(yard: Yard, branch: str) -> None:
    """Somebody's commit that changes the same line."""
    other = yard.checkout.parent / "other"
    git(yard.checkout, "worktree", "add", "--quiet", str(other), branch)
    (other / "src" / "a.py").write_text("three\n")
    git(other, "commit", "--quiet", "--all", "--message", "somebody's")
    git(yard.checkout, "worktree", "remove", "--force", str(other))
