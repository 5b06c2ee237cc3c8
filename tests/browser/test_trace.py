"""The trace of a task, the projects and the alarms, as people see them."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Page, expect

from audit.event import Draft
from audit.stamp import Clock
from ssot.intents import EndAttempt, Reject
from ssot.store import Store
from ssot.task import Issue
from tests.api.scene import TASK_ID, at_stage, bring_to, locked, task
from tests.browser.conftest import Site, Windows, live

TASK = f"/#/tasks/{TASK_ID}"
SHOP = '[project.shop]\ntitle = "The <b>shop</b>"\n[project.shop.policy]\nquorum = 2\n[project.bakery]\n'


def projects(home: Path, text: str = SHOP) -> None:
    (home / "config").mkdir(exist_ok=True)
    (home / "config" / "projects.toml").write_text(text)


def fits(page: Page) -> bool:
    """Whether nothing makes the page wider than its window."""
    return bool(page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"))


def test_a_criterion_leads_to_its_operations_hunks_issues_and_their_answers(
    site: Site, store: Store, windows: Windows
) -> None:
    at_stage(store, "needs_review", dispatch_id="d-1")
    issue = Issue(issue_id="D-1", criterion_ref="AC-1", op_refs=("OP-1",), severity="major", text="again")
    store.commit(TASK_ID, Reject(reason="no", issues=(issue,)), actor="bob")
    site.start()
    page = windows.open(TASK)
    trace = page.locator(".trace")
    expect(trace).to_contain_text("1 of 1 criterion with operations · 1 run or tested · 1 with hunks")
    expect(trace.locator(".matrix tbody")).to_contain_text("waits to be dispatched again")
    bring_to(store, "needs_review", dispatch_id="d-2")
    expect(trace.locator(".fold")).to_have_count(2)
    page.reload()
    trace.locator("summary").nth(1).click()
    row = trace.locator(".fold").nth(1).locator(".matrix tbody tr")
    expect(row.locator('[data-label="Next attempt"]')).to_contain_text("#2 OP-1")
    row.get_by_role("button", name="greet.py 1").click()  # in an attempt whose folds were never opened
    expect(page.locator('[data-anchor="1 hunk 1.1"]')).to_be_focused()
    expect(page.locator('[data-anchor="1 hunk 1.1"]')).to_be_in_viewport()
    row.get_by_role("button", name="#2 OP-2").click()
    expect(page.locator('[data-anchor="2 op OP-2"]')).to_be_focused()


def test_projects_show_their_light_their_reasons_and_what_changes(
    home: Path, site: Site, store: Store, windows: Windows
) -> None:
    projects(home)
    task(store, "T-7", metadata={"project": "shop"})
    site.start()
    page = windows.open("/#/projects")
    shop = page.locator('[data-project="shop"]')
    expect(shop).to_contain_text("The <b>shop</b>")
    expect(shop.locator("h2 .state")).to_have_text("In order")
    shop.locator("summary").click()
    expect(shop).to_contain_text("2, of one and the same digest")
    bring_to(store, "dispatched", task_id="T-7", dispatch_id="d-7")
    expect(shop).to_contain_text("T-7 running")
    store.commit("T-7", EndAttempt("d-7", "executor_failed", "exit code 3"), actor="dispatcher")
    expect(shop.locator("h2 .state")).to_have_text("Broken")
    expect(shop.locator(".reasons")).to_contain_text("T-7 the last run failed: executor_failed")
    expect(shop).to_contain_text("2, of one and the same digest")  # the fold that was opened stays open
    projects(home, "[project.shop]\ncolour = 5\n")
    store.note(Draft("alert", "tests", {"text": "look"}))
    expect(page.get_by_role("alert")).to_contain_text("colour")
    expect(page.locator("[data-project]")).to_have_count(0)


def test_alarms_stand_above_every_view_while_they_are_raised(site: Site, store: Store, windows: Windows) -> None:
    store.note(Draft("alert", "tests", {"alarm": "p95", "state": "raised", "reason": "P95 is <i>900</i> ms"}))
    store.note(Draft("alert", "tests", {"alarm": "disk", "state": "raised", "reason": "1 GiB left"}))
    store.note(Draft("alert", "tests", {"alarm": "disk", "state": "cleared"}))
    site.start()
    page = windows.open("/")
    banner = page.locator("#alarms")
    expect(banner).to_contain_text("p95 P95 is <i>900</i> ms")
    expect(banner).not_to_contain_text("disk")
    page.keyboard.press("4")
    expect(page.locator("h1")).to_have_text("Projects")
    expect(banner).to_be_visible()
    store.note(Draft("alert", "tests", {"alarm": "lag", "state": "raised"}))
    expect(banner.locator("p")).to_have_count(2)
    for name in ("p95", "lag"):
        store.note(Draft("alert", "tests", {"alarm": name, "state": "cleared"}))
    expect(banner).to_be_hidden()


def test_an_alarm_is_put_away_in_this_browser_until_it_is_raised_again(
    site: Site, store: Store, windows: Windows
) -> None:
    raised = Draft("alert", "tests", {"alarm": "threshold_soak", "state": "raised", "reason": "read_p95<200"})
    store.note(raised)
    store.note(Draft("alert", "tests", {"alarm": "lag", "state": "raised", "reason": "too slow"}))
    site.start()
    context = windows.context()
    page, beside, elsewhere = windows.open("/", context), windows.open("/", context), windows.open("/")
    banner = page.locator("#alarms")
    banner.get_by_role("button", name="Put away threshold_soak").click()
    for window in (page, beside):
        expect(window.locator("#alarms")).not_to_contain_text("threshold_soak")
        expect(window.locator("#alarms")).to_contain_text("lag")
    expect(elsewhere.locator("#alarms")).to_contain_text("threshold_soak")
    banner.get_by_role("button", name="Put away lag").click()
    expect(banner).to_be_hidden()
    page.reload()
    live(page)
    page.keyboard.press("2")
    expect(page.locator(".view.activity")).to_contain_text("threshold_soak · raised · read_p95<200")
    expect(banner).to_be_hidden()
    store.note(Draft("alert", "tests", {"alarm": "threshold_soak", "state": "cleared"}))
    store.note(raised)
    expect(banner).to_contain_text("threshold_soak")
    expect(banner).not_to_contain_text("lag")


def test_an_alarm_of_long_ago_says_why_and_stays_put_away(home: Path, site: Site, windows: Windows) -> None:
    long_ago = Store.open(home, source="kircerta/tests", clock=Clock(seconds=lambda: 1_700_000_000.0))
    long_ago.note(Draft("alert", "tests", {"alarm": "threshold_soak", "state": "raised", "reason": "read_p95<200"}))
    long_ago.close()
    site.start()
    page = windows.open("/")
    expect(page.locator("#alarms")).to_contain_text("read_p95<200")
    page.get_by_role("button", name="Put away threshold_soak").click()
    page.reload()
    live(page)
    page.wait_for_timeout(500)  # what was raised is read after the link is there
    expect(page.locator("#alarms")).to_be_hidden()


def test_the_gate_says_how_many_approvals_are_asked_for_and_who_gave_one(
    home: Path, site: Site, store: Store, windows: Windows
) -> None:
    projects(home, '[project.shop.policy]\nquorum = 2\napprovers = ["bob", "carol"]\n')
    task(store, metadata={"project": "shop"})
    bring_to(store, "needs_review")
    site.start()
    page = windows.open(TASK, sub="bob")
    approvals = page.locator(".gate .approvals")
    expect(approvals).to_contain_text("0 of 2 approvals")
    expect(approvals).to_contain_text("Asked: bob, carol")
    page.get_by_role("button", name="Approve…").click()
    page.get_by_label("Reason").fill("Reads well.")
    page.get_by_role("dialog").get_by_role("button", name="Approve").click()
    expect(page.locator("#toasts")).to_contain_text("Approval given: T-1")
    expect(approvals).to_contain_text("1 of 2 approvals")
    expect(approvals.locator("li")).to_contain_text("bob, now · Reads well.")
    second = windows.open(TASK, windows.context(), sub="carol")
    second.get_by_role("button", name="Approve…").click()
    second.get_by_role("dialog").get_by_role("button", name="Approve").click()
    expect(page.locator(".gate")).to_contain_text("Approved by carol")


def test_a_phone_shows_it_all_without_scrolling_sideways(
    home: Path, site: Site, store: Store, windows: Windows
) -> None:
    projects(home)
    locked(store)
    task(store, "T-8", metadata={"project": "shop"})
    store.note(Draft("alert", "tests", {"alarm": "p95", "state": "raised", "reason": "x" * 200}))
    site.start()
    page = windows.open(TASK, windows.context(viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True))
    cell = page.locator('.matrix td[data-label="Hunks"]').first
    expect(cell).to_be_visible()
    assert cell.evaluate("cell => getComputedStyle(cell, '::before').content") == '"Hunks"'
    assert fits(page)
    page.get_by_role("link", name="Projects").click()
    expect(page.locator(".project")).to_have_count(2)
    assert fits(page)


def test_a_phone_reaches_the_reports_and_the_api(site: Site, windows: Windows) -> None:
    site.start()
    for width in (360, 390):
        phone = windows.context(viewport={"width": width, "height": 740}, is_mobile=True, has_touch=True)
        page = windows.open("/", phone, sub="somebody-with-a-long-name")
        for name, address in (("Reports", "/reports/"), ("API", "/docs")):
            page.get_by_role("button", name="More").click()
            assert fits(page)
            page.get_by_role("dialog").get_by_role("link", name=name).click()
            page.wait_for_url(site.url + address)
            page.go_back()
    wide = windows.open("/")
    expect(wide.get_by_role("link", name="Reports")).to_be_visible()
    expect(wide.get_by_role("button", name="More")).to_be_hidden()
