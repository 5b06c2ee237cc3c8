"""The dashboard in a real browser: windows that nobody reloads. Where no browser is there, this is not shown."""

from __future__ import annotations

import os
import shutil
import time
from typing import Any, Final

from flows.accept.ground import Broken, Ground, NotShown, expect, told

_FLAGS: Final = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")
_OPENS_MS: Final = 20_000
_WITHIN_MS: Final = 1000
_TASK: Final = "seen-in-a-browser"


def look(on: Ground) -> str:
    """Two windows of one browser profile and one of another show a decision within a second of its answer."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise NotShown("Playwright is not installed") from None
    chromium = os.environ.get("KIRCERTA_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        raise NotShown("chromium is not installed")
    on.at_gate(_TASK)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(_FLAGS))
        try:
            return _watched(on, browser)
        finally:
            browser.close()


def _watched(on: Ground, browser: Any) -> str:
    shared = browser.new_context()
    pages = [context.new_page() for context in (shared, shared, browser.new_context())]
    for page in pages:
        page.goto(on.settings.api_url)
        page.locator('#light[data-state="live"]').wait_for(timeout=_OPENS_MS)
        _badge(page, "Needs review").wait_for(timeout=_OPENS_MS)
    since = on.last_seq()
    answer = on.decide(_TASK, "approve", {"reason": "Three windows are watching."})
    begun = time.monotonic()
    expect(answer.status_code == 200, f"the approval was answered with {told(answer)}")
    for number, page in enumerate(pages, start=1):
        try:
            left_ms = _WITHIN_MS - (time.monotonic() - begun) * 1000
            _badge(page, "Approved").wait_for(timeout=max(1.0, left_ms))
        except Exception:
            raise Broken(f"window {number} did not show the approval within {_WITHIN_MS} ms") from None
    took_ms = (time.monotonic() - begun) * 1000
    event = on.event("task_approved", _TASK, since)
    return f"seq {event.seq}: task_approved, in all three windows after {took_ms:.0f} ms; {browser.version}"


def _badge(page: Any, text: str) -> Any:
    return page.locator(f'.row:has(a[href="#/tasks/{_TASK}"]) .badge', has_text=text).first
