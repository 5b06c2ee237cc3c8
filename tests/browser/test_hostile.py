"""Hostile text in every field of the page: no script runs, no dialog opens, nothing is wider than the window."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from audit.stamp import rfc3339
from ssot.intents import Create, Dispatch, Reject, SendAck, SendHeartbeat, SendResult, SendVerdict
from ssot.store import Store
from ssot.task import AckBody, Criterion, DiffSnapshot, Echo, Issue, Operation, ResultBody, VerdictBody
from tests.browser.conftest import Site, Windows

PUBLIC = Path(__file__).parents[3] / "shared" / "data" / "09_adversarial" / "naughty_strings.json"
OWN = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "javascript:alert(1)",
    "{{constructor.constructor('alert(1)')()}}",
    "\u202etxt.exe\u202c",
    "\u2066abc\u2069\u200b\u200f",
    "Z" + "".join(chr(0x300 + n % 100) for n in range(300)) + "algo",
    "W" * 4000,
    "\u05d0\u05d1\u05d2 " * 200,
    "\u0001\u0007\u001b[31mred\u001b[0m",
    "\U000e0041\U000e0042 tags that nobody sees",
    "\ufdfd" * 200,
    "=cmd|' /C calc'!A0",
    "__proto__",
    "\u2028\u2029",
]


def strings() -> list[str]:
    public: list[str] = json.loads(PUBLIC.read_text()) if PUBLIC.exists() else []
    return [text for text in [*OWN, *public] if text.strip()]


def line(text: str, most: int = 4000) -> str:
    return "".join(char for char in text if char not in "\n\r\x00")[:most] or "x"


def fill(store: Store, task_id: str, texts: list[str], title: str) -> None:
    """One task with the texts in every field that others can write."""
    criteria = tuple(Criterion(id=line(text, 190)[:180] + f"#{n}", text=text) for n, text in enumerate(texts))
    made = Create(
        "\n".join(texts),
        title=line(title),
        acceptance_criteria=criteria,
        origin={"url": "javascript:alert(1)", line(title, 50): title},
        metadata={text[:100]: text for text in texts},
        correlation_id=line(title, 190),
    )
    store.commit(task_id, made, actor="tests")
    store.commit(task_id, Dispatch("d-1", line(title, 190), line(title, 190)), actor="tests")
    echo = tuple(Echo(criterion_ref=one.id, text=one.text) for one in criteria)
    by = line(title, 60)
    store.commit(task_id, SendAck(AckBody(dispatch_id="d-1", echo=echo)), actor=by)
    store.commit(task_id, SendHeartbeat("d-1", title[:900]), actor=by)
    at = rfc3339(1_790_000_000)
    work = tuple(
        Operation(
            op_id=f"OP-{n} {line(text, 100)}",
            at=at,
            action="run",
            target=line(text),
            detail=text,
            criterion_refs=(criteria[n].id,),
        )
        for n, text in enumerate(texts)
    )
    body = "".join(f"+{line(text)}\n" for text in texts)
    diff = f"--- /dev/null\n+++ b/a.txt\n@@ -0,0 +1,{len(texts)} @@\n{body}"
    snapshot = DiffSnapshot(
        format="unified", base=line(title), sha256=hashlib.sha256(diff.encode()).hexdigest(), text=diff
    )
    result = ResultBody(dispatch_id="d-1", outcome="completed", summary=title, work_log=work, diff_snapshot=snapshot)
    store.commit(task_id, SendResult(result), actor=by)
    issues = tuple(
        Issue(
            issue_id=f"IS-{n} {line(text, 100)}",
            criterion_ref=criteria[n].id,
            op_refs=(work[n].op_id,),
            severity="major",
            text=text,
        )
        for n, text in enumerate(texts)
    )
    verdict = VerdictBody(dispatch_id="d-1", decision="reject", summary=title, issues=issues)
    store.commit(task_id, SendVerdict(verdict), actor=line(title, 59) + "r")


def assert_whole(page: Page) -> None:
    """Nothing sticks out of the window, and the frame around the content is where it was."""
    width = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert width[0] <= width[1], page.url
    assert page.evaluate("document.querySelectorAll('main script, main iframe, main img, main style').length") == 0
    assert page.evaluate("document.querySelector('.top').getBoundingClientRect().height") == 44
    assert (
        page.evaluate("[...document.querySelectorAll('main a')].filter((a) => !/^https?:$/.test(a.protocol)).length")
        == 0
    )
    out = page.evaluate(
        """[...document.querySelectorAll('.panel')].filter((panel) => {
          const box = panel.getBoundingClientRect();
          return box.right > innerWidth + 1 || box.left < -1;
        }).length"""
    )
    assert out == 0, page.url


@pytest.mark.parametrize("width", [1280, 375])
def test_hostile_text_in_every_field_stays_text(site: Site, store: Store, windows: Windows, width: int) -> None:
    texts = strings()
    parts = [texts[start : start + 24] for start in range(0, len(texts), 24)]
    for number, part in enumerate(parts):
        fill(store, f"hostile-{number}", part, part[0])
    store.commit("hostile-1", Reject(reason=texts[0]), actor=line(texts[1], 60))
    for number, text in enumerate(texts):
        store.commit(f"titled-{number}", Create(text, title=line(text)), actor="tests")
    site.start()
    context = windows.context(viewport={"width": width, "height": 800})
    page = windows.open("/", context)
    for position in range(0, len(texts) * 60, 700):
        page.evaluate("(top) => (document.querySelector('.scroller').scrollTop = top)", position)
        page.wait_for_timeout(15)
        assert_whole(page)
    for number in range(len(parts)):
        page.goto(f"{site.url}/#/tasks/hostile-{number}")
        expect(page.locator(".timeline li").first).to_be_visible()
        page.evaluate("document.querySelectorAll('details').forEach((fold) => (fold.open = true))")
        page.wait_for_timeout(30)
        assert_whole(page)
        shown = page.locator(".criteria .prose").first.inner_text()
        assert shown
    page.keyboard.press("r")
    page.get_by_role("button", name="Add an issue").click()
    box = page.get_by_role("dialog").bounding_box()
    assert box is not None
    assert box["width"] <= width
    page.keyboard.press("Escape")
    page.goto(f"{site.url}/#/activity")
    expect(page.locator(".log .row").first).to_be_visible()
    page.locator(".log .row button").first.click()
    assert_whole(page)
    page.goto(f"{site.url}/#/agents")
    assert_whole(page)


def test_what_cannot_be_seen_is_made_visible(site: Site, store: Store, windows: Windows) -> None:
    store.commit("unseen", Create("a\u202eb\u200bc\u0007d\U000e0041e", title="x\u202ey"), actor="tests")
    site.start()
    page = windows.open("/#/tasks/unseen")
    shown = page.locator('[data-section="request"] .prose').inner_text()
    assert shown == "a‹U+202E›b‹U+200B›c␇d‹U+E0041›e"
    assert page.locator("h1").inner_text() == "x‹U+202E›y"


def test_families_and_joined_scripts_stay_whole(site: Site, store: Store, windows: Windows) -> None:
    text = "\U0001f469\u200d\U0001f469\u200d\U0001f467 \u0646\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645 e\u0301"
    store.commit("joined", Create(text), actor="tests")
    site.start()
    page = windows.open("/#/tasks/joined")
    assert page.locator('[data-section="request"] .prose').inner_text() == text
