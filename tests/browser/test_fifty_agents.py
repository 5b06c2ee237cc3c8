"""Fifty agents at once, each in a clone of its own, while people look at the dashboard and decide."""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Page

from flows.workspace import Workspace
from ssot.store import Store
from tests.api.running import environment
from tests.api.scene import at_stage
from tests.browser.conftest import Site, Windows, live, until
from tests.flows.conftest import settings_for
from tests.flows.yard import Yard, a_yard

AGENTS = 50
DECISIONS = 20
PACE_S = 0.5
SHOWN_S = 2.0
"""Within a second or two: how long a decision, made anywhere, may take to stand on the page."""
WORKS = """
import time
name = job["task_id"]
write(f"src/{name}.txt", f"made by {name}\\n")
time.sleep(3)
result(op(1, "edit", f"src/{name}.txt"))
"""
READS = "verdict(open(f\"src/{job['task_id']}.txt\").read())\n"
ALL_OF_THEM = """
import sys
from pathlib import Path
from flows.here import run_here
from flows.pipeline import Order
from flows.workspace import Workspace
from ssot.settings import load
names = sys.argv[2:]
patience = {"ack_timeout_s": 60.0, "execution_timeout_s": 120.0, "review_timeout_s": 120.0}
settings = load(home=Path(sys.argv[1]), prefect_api_url=None, dispatch_concurrency=len(names), **patience)
print({one.name for one in run_here(Workspace.open(settings), names, Order("own", "own"))})
"""
WATCH = """() => {
  let last = performance.now();
  window.longest = 0;
  setInterval(() => {
    const now = performance.now();
    window.longest = Math.max(window.longest, now - last);
    last = now;
  }, 20);
}"""


@pytest.fixture
def yard(home: Path, tmp_path: Path) -> Iterator[Yard]:
    opened: list[Workspace] = []

    def at_home(**settings: object) -> Workspace:
        opened.append(Workspace.open(settings_for(home, **settings)))
        return opened[-1]

    yield a_yard(at_home, tmp_path)
    for workspace in opened:
        workspace.store.close()


def test_the_dashboard_keeps_up_with_fifty_agents_at_once(
    site: Site, store: Store, yard: Yard, windows: Windows
) -> None:
    yard.agents(WORKS, READS)
    names = [yard.add(f"T-{number}") for number in range(AGENTS)]
    waiting = [f"gate-{number}" for number in range(DECISIONS)]
    for task_id in waiting:
        at_stage(store, "needs_review", task_id=task_id, dispatch_id=f"d-{task_id}")
    site.start()
    page, agents = windows.open("/"), windows.open("/#/agents")
    page.evaluate(WATCH)
    shown: list[float] = []
    most = 0
    with fifty(site.home, names) as dispatching:
        until(agents, lambda: at_work(agents) > 0, 60)
        while waiting and dispatching.poll() is None:
            shown.append(decide(site, page, waiting.pop(), len(shown) + 1))
            most = max(most, at_work(agents))
            page.wait_for_timeout(PACE_S * 1000)
        said, _ = dispatching.communicate(timeout=120)
    assert said == "{'NeedsReview'}\n"
    assert len(shown) >= 5, "the agents were gone before anything was decided"
    assert most > AGENTS / 2, "they were not at work at once"
    until(page, lambda: count(page, "needs_review") == AGENTS + len(waiting), 5)
    until(agents, lambda: at_work(agents) == 0, 5)
    live(page)
    assert max(shown) < SHOWN_S, shown
    assert page.evaluate("window.longest") < SHOWN_S * 1000, "the page stood still"
    yard.workspace.store.refresh()
    for name in names:
        assert yard.attempt(name).verdict.summary == f"made by {name}\n"  # type: ignore[union-attr]
        assert f"+++ b/src/{name}.txt\n" in yard.result(name).diff_snapshot.text  # type: ignore[operator,union-attr]


@contextmanager
def fifty(home: Path, names: list[str]) -> Iterator[subprocess.Popen[str]]:
    """All of them handed out at once, by a process of its own: this one drives the browser."""
    command = [sys.executable, "-c", ALL_OF_THEM, str(home), *names]
    process = subprocess.Popen(command, env=environment(home), stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def decide(site: Site, page: Page, task_id: str, so_many: int) -> float:
    """Approve over HTTP; the seconds from asking until the page shows it."""
    begun = time.monotonic()
    headers = {"Authorization": f"Bearer {site.token('bob')}", "Content-Type": "application/json"}
    asked = urllib.request.Request(f"{site.url}/api/tasks/{task_id}/approve", b"{}", headers, method="POST")
    with urllib.request.urlopen(asked, timeout=30) as answer:
        assert answer.status == 200
    until(page, lambda: count(page, "approved") == so_many, 30)
    return time.monotonic() - begun


def count(page: Page, status: str) -> int:
    return int(page.locator(f".chip.s-{status} b").inner_text())


def at_work(page: Page) -> int:
    return page.locator("tr[data-task]").count()
