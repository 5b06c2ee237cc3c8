"""The dashboard as people use it: several windows, decisions, keys, sign-in, a server that goes away."""

from __future__ import annotations

import time
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page, expect

from audit.reader import read_events
from ssot.intents import Approve, Create, Reject
from ssot.store import Store
from ssot.task import Criterion
from tests.api.scene import TASK_ID, at_stage, bring_to, locked
from tests.browser.conftest import Site, Windows, live, until

TASK = f"/#/tasks/{TASK_ID}"


def status_of(page: Page, task_id: str = TASK_ID) -> str:
    return page.locator(f'.space > .row:has(a[href="#/tasks/{task_id}"]) .badge').inner_text()


def test_three_windows_and_one_decision_within_a_second(site: Site, store: Store, windows: Windows) -> None:
    at_stage(store, "needs_review")
    site.start()
    shared = windows.context()
    deciding = windows.open(TASK, shared)
    same_browser = windows.open("/", shared)
    other_browser = windows.open(TASK)
    deciding.get_by_role("button", name="Approve…").click()
    deciding.get_by_label("Reason").fill("Holds.")
    deciding.get_by_role("dialog").get_by_role("button", name="Approve").click()
    begun = time.monotonic()
    expect(deciding.locator(".gate")).to_contain_text("Approved by alice", timeout=1000)
    expect(other_browser.locator(".gate")).to_contain_text("Approved by alice", timeout=1000)
    until(same_browser, lambda: status_of(same_browser) == "Approved", 1)
    assert time.monotonic() - begun < 1.0
    store.refresh()
    decision = store.task(TASK_ID).attempts[-1].decision
    assert decision is not None
    assert (decision.by, decision.reason) == ("alice", "Holds.")
    event = [event for event in read_events(store.audit_folder) if event.type == "task_approved"][-1]
    assert event.data["digest_given"] is True


def test_a_rejection_names_criteria_and_operations(site: Site, store: Store, windows: Windows) -> None:
    at_stage(store, "needs_review")
    site.start()
    page = windows.open(TASK)
    page.get_by_role("button", name="Reject…").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Reject").click()
    expect(dialog.get_by_role("alert").last).to_contain_text("needs a reason")
    dialog.get_by_label("Reason").fill("Not yet.")
    dialog.get_by_role("button", name="Add an issue").click()
    dialog.get_by_label("What to change").fill("Say hello to everybody.")
    dialog.get_by_label("Severity").select_option("blocker")
    dialog.get_by_role("button", name="Reject").click()
    expect(page.locator(".gate")).to_contain_text("Rejected by alice")
    store.refresh()
    decision = store.task(TASK_ID).attempts[-1].decision
    assert decision is not None
    (issue,) = decision.issues
    assert (issue.criterion_ref, issue.severity, issue.text) == ("AC-1", "blocker", "Say hello to everybody.")
    assert issue.op_refs


def test_a_locked_task_is_unlocked_with_a_reason(site: Site, store: Store, windows: Windows) -> None:
    locked(store)
    site.start()
    page = windows.open(TASK)
    page.get_by_role("button", name="Unlock…").click()
    page.get_by_label("Reason").fill("The executor was mended.")
    page.get_by_role("dialog").get_by_role("button", name="Unlock").click()
    expect(page.get_by_role("button", name="Unlock…")).to_have_count(0)
    store.refresh()
    assert store.task(TASK_ID).locked is False


def test_a_stale_digest_is_told_and_asked_about_again(site: Site, store: Store, windows: Windows) -> None:
    at_stage(store, "needs_review", dispatch_id="d-1")
    site.start()
    page = windows.open(TASK)
    page.get_by_role("button", name="Approve…").click()
    store.commit(TASK_ID, Reject(reason="no"), actor="bob")
    bring_to(store, "needs_review", dispatch_id="d-2")
    expect(page.locator(".gate")).to_contain_text("Attempt 2 waits")  # the page moved on; the dialog did not
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Approve").click()
    expect(dialog).to_contain_text("It is attempt 2 now, no longer attempt 1.")
    expect(dialog.get_by_role("heading")).to_have_text("Approve attempt 2")
    store.refresh()
    assert store.task(TASK_ID).status == "needs_review"
    dialog.get_by_role("button", name="Approve what stands now").click()
    expect(page.locator(".gate")).to_contain_text("Approved by alice")
    types = [event.type for event in read_events(store.audit_folder)]
    assert types.count("task_approved") == 1


def test_what_was_decided_meanwhile_leaves_nothing_to_decide(site: Site, store: Store, windows: Windows) -> None:
    at_stage(store, "needs_review")
    site.start()
    page = windows.open(TASK)
    page.get_by_role("button", name="Approve…").click()
    store.commit(TASK_ID, Approve(), actor="bob")
    page.get_by_role("dialog").get_by_role("button", name="Approve").click()
    expect(page.get_by_role("dialog").locator(".error")).to_contain_text("approved")


def test_signing_in_by_link_leaves_the_token_nowhere(site: Site, windows: Windows) -> None:
    site.start()
    context = windows.context()
    page = context.new_page()
    windows.guard(page)
    token = site.token("alice")
    page.goto(f"{site.url}/#token={token}")
    expect(page.locator("#who")).to_contain_text("alice")
    live(page)
    assert token not in page.url
    stored = page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, history.state])")
    assert stored == '[{},{},"",null]'
    (cookie,) = context.cookies()
    assert (cookie["name"], cookie["value"]) == ("kircerta_session", token)
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Strict", "/")
    page.locator("#who").click()
    page.get_by_role("button", name="Sign out").click()
    expect(page.locator("#who")).to_have_text("Sign in")
    assert context.cookies() == []


def test_signing_in_by_pasting_and_what_is_no_token(site: Site, store: Store, windows: Windows) -> None:
    at_stage(store, "needs_review")
    site.start()
    page = windows.open(TASK, sub=None)
    page.get_by_role("button", name="Sign in to decide").click()
    page.get_by_label("Token").fill("nonsense")
    page.get_by_role("dialog").get_by_role("button", name="Sign in").click()
    expect(page.locator("dialog .error")).to_contain_text("token")
    page.get_by_label("Token").fill(site.token("carol"))
    expect(page.locator("dialog .error")).to_be_empty()
    page.get_by_role("dialog").get_by_role("button", name="Sign in").click()
    expect(page.locator("#who")).to_contain_text("carol")
    expect(page.get_by_role("button", name="Approve…")).to_be_visible()


def test_where_reads_need_a_token_the_page_asks_for_one(site: Site, store: Store, windows: Windows) -> None:
    at_stage(store, "new")
    site.settings = {"KIRCERTA_READ_AUTH": "1"}
    site.start()
    context = windows.context()
    page = context.new_page()
    windows.guard(page)
    page.goto(site.url)
    page.get_by_label("Token").fill(site.token("vera", "viewer"))
    page.keyboard.press("Enter")
    live(page)
    expect(page.locator(".space > .row")).to_have_count(1)


def test_another_origin_can_neither_read_nor_decide(site: Site, store: Store, windows: Windows, tmp_path: Path) -> None:
    at_stage(store, "needs_review")
    site.start()
    context = windows.context()
    windows.open("/", context)
    other = context.new_page()
    # The same machine under another port is the same site: SameSite alone would send the cookie.
    with httpx.Client() as client:
        assert client.get(site.url, headers={"Host": "rebound.example"}).status_code == 421
    other.goto("about:blank")
    other.route("http://127.0.0.1:1/**", lambda route: route.fulfill(body="<p>elsewhere</p>", content_type="text/html"))
    other.goto("http://127.0.0.1:1/")
    answers = other.evaluate(
        """async ([url, id]) => {
          const tried = async (path, options) => {
            try {
              const answer = await fetch(url + path, {credentials: "include", ...options});
              return answer.type === "opaque" ? "opaque" : answer.status;
            } catch { return "blocked"; }
          };
          return [
            await tried("/api/tasks", {}),
            await tried(`/api/tasks/${id}/approve`, {method: "POST"}),
            await tried(`/api/tasks/${id}/approve`, {method: "POST", mode: "no-cors"}),
            await tried("/session", {method: "DELETE"}),
          ];
        }""",
        [site.url, TASK_ID],
    )
    assert 200 not in answers
    assert answers[0] == "blocked"
    store.refresh()
    assert store.task(TASK_ID).status == "needs_review"
    assert context.cookies(site.url) != []


def test_with_the_keyboard_alone(site: Site, store: Store, windows: Windows) -> None:
    at_stage(store, "needs_review")
    for number in range(3):
        store.commit(f"other-{number}", Create("something else", title=f"Other {number}"), actor="tests")
    site.start()
    page = windows.open("/")
    expect(page.locator(".space > .row")).to_have_count(4)
    page.keyboard.press("Tab")
    expect(page.locator("#skip")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("/")
    page.keyboard.type(TASK_ID[:3])
    page.keyboard.press("Enter")
    expect(page.locator("a.rowlink:focus")).to_have_attribute("href", f"#/tasks/{TASK_ID}")
    page.keyboard.press("/")
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    for key in "jjjkjjjj":  # past the end it stays at the end
        page.keyboard.press(key)
    expect(page.locator("a.rowlink:focus")).to_have_attribute("href", f"#/tasks/{TASK_ID}")
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_be_visible()
    expect(page.locator(".gate")).to_be_visible()
    page.keyboard.press("a")
    page.keyboard.type("By hand.")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    expect(page.get_by_role("dialog").get_by_role("button", name="Approve")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator(".gate")).to_contain_text("Approved by alice")
    page.keyboard.press("2")
    expect(page.locator(".log .row").first).to_contain_text("Approved")
    page.keyboard.press("3")
    expect(page.locator(".agentsview")).to_be_visible()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_contain_text("search")
    page.keyboard.press("Escape")
    page.keyboard.press("1")
    expect(page.locator(".view.list")).to_be_visible()


def test_a_server_that_restarts_is_lost_and_then_live_with_nothing_missed(
    site: Site, store: Store, windows: Windows
) -> None:
    at_stage(store, "needs_review")
    site.start()
    page = windows.open("/")
    log = windows.open("/#/activity", page.context)
    site.stop()
    expect(page.locator("#light")).to_have_text("Lost", timeout=5000)
    expect(log.locator("#light")).to_have_text("Lost", timeout=5000)
    store.commit(TASK_ID, Approve(), actor="bob")
    for number in range(20):
        store.commit(f"meanwhile-{number}", Create("made meanwhile"), actor="tests")
    site.start()
    live(page)
    live(log)
    expect(page.locator(".chip.s-approved b")).to_have_text("1")
    expect(page.locator(".chip.s-all b")).to_have_text("21")
    until(log, lambda: log.locator(".count").inner_text() == f"{store.last_seq()} events")
    numbers = log.evaluate("[...document.querySelectorAll('.log .c-seq')].map((e) => +e.textContent.slice(1))")
    shown = sorted(numbers)
    assert shown == list(range(shown[0], store.last_seq() + 1))


def test_changes_by_other_processes_and_editors_show_within_a_second(
    site: Site, store: Store, windows: Windows
) -> None:
    at_stage(store, "new")
    site.start()
    page = windows.open("/")
    begun = time.monotonic()
    store.commit("fresh", Create("made by another process", title="A fresh one"), actor="tests")
    expect(page.locator(".space > .row")).to_have_count(2, timeout=1000)
    assert time.monotonic() - begun < 1
    file = store.tasks_folder / "by-hand.json"
    file.write_text(
        '{"task_id": "by-hand", "source": "manual", "request_text": "Typed in an editor", '
        '"created_at": "2026-01-31T09:00:00Z"}'
    )
    begun = time.monotonic()
    expect(page.locator('.row:has-text("Typed in an editor")')).to_have_count(1, timeout=2000)
    assert time.monotonic() - begun < 1.5


def test_live_changes_leave_focus_scroll_and_folds_alone(site: Site, store: Store, windows: Windows) -> None:
    at_stage(store, "needs_review")
    for number in range(60):
        store.commit(f"t-{number:02}", Create("x", title=f"Task {number}"), actor="tests")
    site.start()
    page = windows.open("/")
    page.evaluate("document.querySelector('.scroller').scrollTop = 700")
    row = page.locator('a[href="#/tasks/t-30"]')
    row.focus()
    place = row.bounding_box()
    for number in range(5):
        store.commit(f"new-{number}", Create("y", title=f"New {number}"), actor="tests")
    expect(page.locator(".count").first).to_have_text("66 tasks")
    expect(row).to_be_focused()
    assert row.bounding_box() == place
    task = windows.open(TASK, page.context)
    task.get_by_text("Raw JSON").click()
    task.evaluate("scrollTo(0, 300)")
    store.commit(TASK_ID, Reject(reason="no"), actor="bob")
    expect(task.locator(".gate")).to_contain_text("Rejected by bob")
    assert task.locator('[data-section="raw"]').evaluate("(fold) => fold.open") is True
    assert task.evaluate("scrollY") == 300


def test_issues_lead_to_their_criterion_and_operations(site: Site, store: Store, windows: Windows) -> None:
    at_stage(store, "needs_review")
    store.commit(TASK_ID, Reject(reason="no"), actor="bob")
    site.start()
    page = windows.open(TASK)
    page.locator(".criteria .jump").first.click()
    expect(page.locator("tr:focus, li:focus").first).to_be_visible()


@pytest.mark.timeout(300)
def test_thirty_tabs_share_one_connection(site: Site, store: Store, windows: Windows) -> None:
    at_stage(store, "needs_review")
    site.start()
    context = windows.context()
    tabs = [windows.open("/", context) for _ in range(30)]
    leading = [tab for tab in tabs if tab.get_attribute("#light", "data-leads") == "true"]
    assert len(leading) == 1
    metrics = httpx.get(f"{site.url}/metrics").text
    (streams,) = [line for line in metrics.splitlines() if line.startswith("kircerta_streams_open ")]
    assert float(streams.split()[1]) == 1
    store.commit(TASK_ID, Approve(), actor="bob")
    for tab in tabs:
        until(tab, lambda tab=tab: status_of(tab) == "Approved", 5)  # type: ignore[misc]
    leading[0].close()
    store.commit("later", Create("after the leading tab was closed", title="Later"), actor="tests")
    rest = [tab for tab in tabs if tab is not leading[0]]
    for tab in rest:
        expect(tab.locator('.row:has-text("Later")')).to_have_count(1, timeout=5000)
    assert len([tab for tab in rest if tab.get_attribute("#light", "data-leads") == "true"]) == 1


def test_ten_thousand_tasks_draw_only_what_is_visible(site: Site, store: Store, windows: Windows) -> None:
    wanted = [
        (
            f"task-{number:05}",
            Create("x", title=f"Task number {number}", acceptance_criteria=(Criterion(id="AC-1", text="x"),)),
        )
        for number in range(10_000)
    ]
    for start in range(0, len(wanted), 500):
        store.commit_many(wanted[start : start + 500], actor="tests")
    site.start()
    page = windows.open("/")
    expect(page.locator(".count").first).to_have_text("10000 tasks", timeout=20_000)
    assert page.locator(".space > .row").count() < 80
    page.evaluate("document.querySelector('.scroller').scrollTop = 1e9")
    expect(page.locator('a[href="#/tasks/task-00000"]')).to_be_visible()
    assert page.locator(".space > .row").count() < 80
    assert page.evaluate("document.querySelectorAll('*').length") < 2500
    spent = page.evaluate(
        """async () => {
          const search = document.querySelector(".list input[type=search]");
          const begun = performance.now();
          search.value = "number 777";
          search.dispatchEvent(new Event("input"));
          const filtering = performance.now() - begun;
          const scroller = document.querySelector(".scroller");
          search.value = "";
          search.dispatchEvent(new Event("input"));
          let worst = 0, last = performance.now();
          for (let i = 0; i < 60; i++) {
            scroller.scrollTop = i * 4000;
            await new Promise(requestAnimationFrame);
            const now = performance.now();
            worst = Math.max(worst, now - last);
            last = now;
          }
          return {filtering, worst};
        }"""
    )
    assert spent["filtering"] < 300
    assert spent["worst"] < 400
    page.keyboard.press("Escape")
    store.commit("task-00042", Reject(reason="not needed"), actor="bob")
    expect(page.locator(".chip.s-rejected b")).to_have_text("1")


def test_on_a_phone_nothing_is_wider_than_the_screen(site: Site, store: Store, windows: Windows) -> None:
    at_stage(store, "needs_review")
    site.start()
    context = windows.context(viewport={"width": 375, "height": 667}, has_touch=True, is_mobile=True)
    shown = {
        "/": ".row .rowlink",
        TASK: ".gate button",
        "/#/activity": ".log .rowlink",
        "/#/agents": ".agentsview .empty",
    }
    for path, selector in shown.items():
        page = windows.open(path, context)
        expect(page.locator(selector).first).to_be_in_viewport(ratio=0.9)
        assert page.evaluate("document.documentElement.scrollWidth") <= 375
    page = windows.open(TASK, context)
    page.get_by_role("button", name="Approve…").tap()
    box = page.get_by_role("dialog").bounding_box()
    assert box is not None
    assert box["width"] <= 375


def test_without_locks_a_tab_has_its_own_connection(site: Site, store: Store, windows: Windows) -> None:
    at_stage(store, "needs_review")
    site.start()
    context = windows.context()
    context.add_init_script("Object.defineProperty(navigator, 'locks', {value: undefined})")
    pages = [windows.open("/", context) for _ in range(2)]
    store.commit(TASK_ID, Approve(), actor="bob")
    for page in pages:
        until(page, lambda page=page: status_of(page) == "Approved", 2)  # type: ignore[misc]


def test_a_hidden_leader_that_lost_the_server_hands_over(site: Site, store: Store, windows: Windows) -> None:
    at_stage(store, "needs_review")
    site.start()
    context = windows.context()
    hidden = windows.open("/", context)
    seen = windows.open("/", context)
    hidden.wait_for_selector('#light[data-leads="true"]')
    hidden.evaluate("Object.defineProperty(document, 'hidden', {value: true})")
    site.stop()
    expect(seen.locator("#light")).to_have_text("Lost")
    store.commit(TASK_ID, Approve(), actor="bob")
    seen.wait_for_selector('#light[data-leads="true"]')
    hidden.wait_for_selector('#light[data-leads="false"]', state="attached")
    site.start()
    for page in (seen, hidden):
        live(page)
    until(seen, lambda: status_of(seen) == "Approved", 5)
