"""The place of one attempt: private, pinned, and read without trusting what the agent left in it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from flows.agents.footprint import bytes_in
from flows.agents.workplace import FOLDER, NoWorkplace, Workplace, prepare, remove_stale
from ssot import diff
from ssot.claims import try_claim


def git(folder: Path, *arguments: str) -> str:
    named = ("-c", "user.name=n", "-c", "user.email=n@example.org", "-c", "init.defaultBranch=main")
    done = subprocess.run(["git", *named, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    (folder / "src").mkdir(parents=True)
    git(folder, "init", "--quiet")
    (folder / "src" / "a.py").write_text("one\n")
    (folder / "old.txt").write_text("old\n")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "first")
    return folder


@pytest.fixture
def place(tmp_path: Path, checkout: Path) -> Workplace:
    return prepare(tmp_path / "home", checkout, "HEAD", "d-1")


def test_it_stands_at_the_pinned_commit_whatever_the_checkout_does_meanwhile(place: Workplace, checkout: Path) -> None:
    (checkout / "src" / "a.py").write_text("two\n")
    git(checkout, "commit", "--quiet", "--all", "--message", "second")
    assert (place.tree / "src" / "a.py").read_text() == "one\n"
    assert place.base != git(checkout, "rev-parse", "HEAD")
    assert place.facts().changed == ()
    assert place.facts().diff == ""


def test_everything_that_changed_is_told_as_a_diff_that_makes_the_same_tree(place: Workplace) -> None:
    (place.tree / "src" / "a.py").write_text("changed\n")
    (place.tree / "old.txt").unlink()
    (place.tree / "new file — ü.txt").write_text("neu\n")
    (place.tree / "latin [1].txt").write_bytes("über\n".encode("latin-1"))
    (place.tree / "link").symlink_to("src/a.py")
    facts = place.facts()
    assert set(facts.changed) == {"src/a.py", "old.txt", "new file — ü.txt", "latin [1].txt", "link"}
    assert set(diff.paths(facts.diff)) == set(facts.changed)
    assert "+changed" in facts.diff
    assert place.tree_of(facts.diff) == facts.tree


def test_a_diff_that_claims_something_else_is_told_apart_by_its_files(place: Workplace) -> None:
    (place.tree / "src" / "a.py").write_text("changed\n")
    (place.tree / "b.py").write_text("unmentioned\n")
    facts = place.facts()
    claimed = place.tree_of("--- a/src/a.py\n+++ b/src/a.py\n@@ -1 +1 @@\n-one\n+something else\n")
    assert place.difference(claimed, facts.tree) == ("A b.py", "M src/a.py")
    with pytest.raises(NoWorkplace, match=r"nowhere\.py"):
        place.tree_of("--- a/nowhere.py\n+++ b/nowhere.py\n@@ -1 +1 @@\n-one\n+two\n")


def test_the_same_change_with_other_context_is_the_same_tree(place: Workplace) -> None:
    (place.tree / "src" / "a.py").write_text("changed\n")
    claimed = "diff --git a/src/a.py b/src/a.py\n--- a/src/a.py\n+++ b/src/a.py\n@@ -1,1 +1,1 @@ def\n-one\n+changed\n"
    assert place.tree_of(claimed) == place.facts().tree


def test_hooks_filters_and_configuration_of_the_agent_are_not_run(place: Workplace, tmp_path: Path) -> None:
    trap = tmp_path / "trapped"
    hooks = place.tree / ".git" / "hooks"
    hooks.mkdir(exist_ok=True)
    for name in ("pre-commit", "post-checkout", "post-index-change", "fsmonitor-watchman"):
        (hooks / name).write_text(f"#!/bin/sh\ntouch {trap}\n")
        (hooks / name).chmod(0o755)
    for setting in ("core.fsmonitor", "filter.evil.clean", "diff.evil.textconv", "diff.external", "core.pager"):
        git(place.tree, "config", setting, f"touch {trap}; cat")
    (place.tree / ".gitattributes").write_text("* filter=evil diff=evil\n")
    (place.tree / "src" / "a.py").write_text("changed\n")
    assert "+changed" in place.facts().diff
    assert not trap.exists()


def test_a_rewritten_git_folder_changes_nothing_about_the_facts(place: Workplace) -> None:
    (place.tree / "src" / "a.py").write_text("changed\n")
    before = place.facts()
    git(place.tree, "add", "--all")
    git(place.tree, "commit", "--quiet", "--message", "as if nothing had been")
    git(place.tree, "update-index", "--assume-unchanged", "src/a.py")
    (place.tree / ".git" / "info").mkdir(exist_ok=True)
    (place.tree / ".git" / "info" / "exclude").write_text("*\n")
    assert place.facts() == before


def test_a_repository_planted_inside_is_refused(place: Workplace) -> None:
    inside = place.tree / "vendor"
    inside.mkdir()
    git(inside, "init", "--quiet")
    (inside / "hidden.py").write_text("unseen\n")
    with pytest.raises(NoWorkplace, match=r"vendor has a \.git"):
        place.facts()


def test_a_symlink_out_of_the_tree_is_told_as_a_link_and_not_followed(place: Workplace, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("the secret")
    (place.tree / "way out").symlink_to(tmp_path / "secret")
    facts = place.facts()
    assert "the secret" not in facts.diff
    assert "120000" in facts.diff


def test_a_diff_is_applied_for_a_review_and_a_changed_file_there_is_noticed(
    place: Workplace, tmp_path: Path, checkout: Path
) -> None:
    (place.tree / "src" / "a.py").write_text("changed\n")
    (place.tree / "new.py").write_text("new\n")
    facts = place.facts()
    review = prepare(tmp_path / "home", checkout, facts.base, "d-1", "review")
    review.apply(facts.diff)
    assert review.facts().tree == facts.tree
    (review.tree / "new.py").write_text("touched by the reviewer\n")
    assert review.facts().tree != facts.tree


def test_places_of_attempts_that_nobody_runs_are_removed_and_the_others_stay(tmp_path: Path, checkout: Path) -> None:
    home = tmp_path / "home"
    left = prepare(home, checkout, "HEAD", "d-dead")
    closed = left.tree / "closed"
    closed.mkdir()
    (closed / "file").write_text("x")
    os.chmod(closed, 0)
    prepare(home, checkout, "HEAD", "d-alive")
    prepare(home, checkout, "HEAD", "d-alive", "review")
    claim = try_claim(home, "d-alive")
    assert claim is not None
    with claim:
        assert remove_stale(home) == 1
        assert sorted(one.name for one in (home / FOLDER).iterdir()) == ["d-alive~review", "d-alive~work"]


def test_what_lies_in_a_folder_that_was_closed_is_counted_and_a_link_in_its_place_opens_nothing(tmp_path: Path) -> None:
    closed, elsewhere = tmp_path / "place" / "closed", tmp_path / "elsewhere"
    for folder in (closed, elsewhere):
        folder.mkdir(parents=True)
        (folder / "file").write_bytes(bytes(1 << 20))
        os.chmod(folder, 0o300)
    (tmp_path / "place" / "link").symlink_to(elsewhere)
    assert 1 << 20 <= bytes_in([tmp_path / "place"]) < 2 << 20
    assert elsewhere.stat().st_mode & 0o777 == 0o300


def test_a_folder_that_is_no_repository_and_an_unknown_commit_are_named(tmp_path: Path, checkout: Path) -> None:
    with pytest.raises(NoWorkplace, match="no git repository"):
        prepare(tmp_path / "home", tmp_path, "HEAD", "d-1")
    with pytest.raises(NoWorkplace):
        prepare(tmp_path / "home", checkout, "--upload-pack=touch", "d-1")
    assert not (tmp_path / "home" / FOLDER / "d-1~work").exists()
