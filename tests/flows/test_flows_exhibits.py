"""What a run shows: everything that counts, and nothing that a task's text could do."""

from __future__ import annotations

import asyncio

import pytest
from markdown_it import MarkdownIt

from flows import exhibits
from flows.outcome import Outcome
from flows.pipeline import Order, take_to_gate
from flows.workspace import Workspace
from ssot.intents import Create
from ssot.task import Criterion
from tests.flows.conftest import add_task

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "![](http://evil.example/x.png)",
    "[click](javascript:alert(1))",
    "http://evil.example and www.evil.example and me@evil.example",
    "a | b | c\n# heading\n- [ ] list",
    "`code` ``` fence **bold** _it_ ~~gone~~",
    "&lt;b&gt; &#x3c;script&#x3e;",
    "\u202egnp.exe\u2066",
    "\x1b[31mred\x00",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_text_from_outside_is_only_text(text: str) -> None:
    rendered = MarkdownIt("gfm-like", {"linkify": False}).render(exhibits.escaped(text))
    assert rendered.count("<") == 2  # the paragraph that it stands in
    assert rendered.startswith("<p>")
    assert "\x00" not in rendered
    assert "\u202e" not in rendered


def test_a_page_shows_criteria_operations_diff_and_issues(workspace: Workspace) -> None:
    add_task(workspace)
    order = Order("fake-inproc", "fake-inproc:mode=reject")
    outcome = asyncio.run(take_to_gate(workspace, "T-1", order))
    task = workspace.store.task("T-1")
    result = task.current.result if task.current else None
    assert result is not None
    assert result.diff_snapshot is not None
    page = exhibits.attempt_page(task, outcome, "http://127.0.0.1:8000", result.diff_snapshot.text)
    assert "[T-1](http://127.0.0.1:8000/#/tasks/T-1)" in page
    for part in (
        "## Criteria",
        "It works",
        "## Result",
        "OP\\-1",
        "## Diff",
        "\\+",
        "## Verdict",
        "**reject**",
        "IS\\-1",
    ):
        assert part in page


def test_hostile_criteria_stay_in_their_cells(workspace: Workspace) -> None:
    criteria = tuple(Criterion(id=f"AC-{number}", text=text) for number, text in enumerate(HOSTILE))
    workspace.store.commit("T-1", Create("<b>x</b>", acceptance_criteria=criteria), actor="alice")
    outcome = asyncio.run(take_to_gate(workspace, "T-1", Order("remote")))
    page = exhibits.attempt_page(workspace.store.task("T-1"), outcome, "http://127.0.0.1:8000", None)
    html = MarkdownIt("gfm-like", {"linkify": False}).render(page)
    assert html.count("<tr>") == len(HOSTILE) + 1
    for tag in ("<script", "<img", "<b>", "<del", "<em"):
        assert tag not in html
    assert html.count("<a ") == 1


def test_a_diff_cannot_close_its_fence() -> None:
    diff = "--- a/x\n+++ b/x\n@@ -0,0 +1,2 @@\n+````\n+# not a heading\n"
    page = "\n".join(exhibits._diff(diff))
    html = MarkdownIt("gfm-like", {"linkify": False}).render(page)
    assert "<h1>" not in html
    assert html.count("<pre>") == 1


def test_a_long_diff_is_cut() -> None:
    diff = "--- a/x\n+++ b/x\n@@ -0,0 +1,1000 @@\n" + "+line\n" * 1000
    page = "\n".join(exhibits._diff(diff))
    assert "more lines" in page
    assert len(page.splitlines()) < 400


def test_keys_of_similar_tasks_differ() -> None:
    keys = {exhibits.key_of(task_id) for task_id in ("T-1", "t-1", "T_1", "T.1", "x" * 128, "x" * 127 + "y")}
    assert len(keys) == 6
    assert all(key.replace("-", "").isalnum() and key == key.lower() for key in keys)


def test_the_page_of_many_counts_them_by_outcome() -> None:
    outcomes = [
        Outcome("T-1", "d-1", "needs_review", "NeedsReview"),
        Outcome("T-2", "d-2", "ended", "AckTimeout", "x|y"),
    ]
    page = exhibits.outcomes_page(outcomes, "http://127.0.0.1:8000")
    assert page.startswith("# 2 tasks: 1 AckTimeout, 1 NeedsReview")
    assert "x\\|y" in page


def test_what_root_cannot_have_is_told_calmly_and_what_else_is_missing_stands_out() -> None:
    told = "\n".join(exhibits._lacking(("processes: not for <root>", "namespaces: none")))
    assert r"**Missing here:** namespaces\: none" in told
    assert r"no limit on the number of processes (not for \<root\>); the other limits held" in told
    assert exhibits._lacking(()) == []
