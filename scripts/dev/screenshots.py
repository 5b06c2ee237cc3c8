"""Takes the pictures of the docs: the task list and a task's page, from the showcase workspace. Needs chromium."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from audit.event import Draft  # noqa: E402
from scripts.dev import showcase  # noqa: E402
from tests.browser.conftest import CHROMIUM, FLAGS, Site  # noqa: E402

SIZE = {"width": 1280, "height": 760}
TALL = {"width": 1280, "height": 900}
SHOTS = {
    "dashboard-list": ("/", ".space > .row"),
    "dashboard-task": ("/#/tasks/lease-renewal", ".timeline li"),
}
MORE = {
    "activity": ("/#/activity", ".log .row"),
    "agents": ("/#/agents", ".agent tbody tr"),
    "projects": ("/#/projects", ".project"),
    "trace": ("/#/tasks/gh-acme_shop-418", ".trace .matrix"),
}


def main() -> int:
    """0 when the pictures are there; 2 without a browser."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "img", help="folder of the pictures")
    parser.add_argument("--all", action="store_true", help="every view, dark and on a phone, too")
    given = parser.parse_args()
    if CHROMIUM is None:
        print("chromium is not installed: no pictures")
        return 2
    given.out.mkdir(parents=True, exist_ok=True)
    home = Path(tempfile.mkdtemp(prefix="kircerta-shots-"))
    try:
        store = showcase.make(home, end=time.time())
        if given.all:
            alarm = {"alarm": "p95", "state": "raised", "reason": "GET /api/tasks: P95 is 412 ms, over 200 ms"}
            store.note(Draft("alert", "kircerta/load", alarm))
        store.close()
        site = Site(home)
        site.start()
        try:
            shoot(site, given.out, everything=given.all)
        finally:
            site.stop()
    finally:
        shutil.rmtree(home)
    return 0


def shoot(site: Site, out: Path, *, everything: bool) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        looks = {"": {"viewport": SIZE}}
        if everything:
            looks["-dark"] = {"viewport": SIZE, "color_scheme": "dark"}
            looks["-phone"] = {"viewport": {"width": 375, "height": 740}, "has_touch": True, "is_mobile": True}
        for suffix, look in looks.items():
            context = browser.new_context(**look)  # type: ignore[arg-type]
            cookie = {"name": "kircerta_session", "value": site.token("alice2"), "url": site.url}
            context.add_cookies([cookie])  # type: ignore[list-item]
            for name, (path, ready) in (SHOTS | MORE if everything else SHOTS).items():
                page = context.new_page()
                if look["viewport"] is SIZE and "task" in name:
                    page.set_viewport_size(TALL)  # type: ignore[arg-type]
                take(page, site.url + path, ready, out / f"{name}{suffix}.png")
        browser.close()


def take(page: Page, url: str, ready: str, file: Path) -> None:
    page.goto(url)
    page.wait_for_selector('#light[data-state="live"]')
    page.wait_for_selector(ready)
    if "trace" in file.stem:
        page.locator(".trace").evaluate("element => element.scrollIntoView()")
    page.wait_for_timeout(800)
    page.screenshot(path=file)
    print(f"{file} ({file.stat().st_size // 1024} KiB)")


if __name__ == "__main__":
    sys.exit(main())
