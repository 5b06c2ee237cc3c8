"""A real browser on the real server, over a workspace of its own. Without chromium one line says that it is not run."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Request, sync_playwright

from api.auth import make_token
from ssot.store import Store
from tests.api.running import await_health, command, environment, free_port
from tests.api.scene import SECRET

CHROMIUM = os.environ.get("KIRCERTA_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            if CHROMIUM is None:
                item.add_marker(pytest.mark.skip(reason="chromium is not installed: the browser tests are not run"))
            item.add_marker(pytest.mark.browser)
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.timeout(180))
            # The driver's pipes are left to the collector when it stops.
            item.add_marker(pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"))


@dataclass
class Site:
    """The server over a workspace. It can be stopped and started again at the same address."""

    home: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        given = environment(self.home, **self.settings)
        self.process = subprocess.Popen(command(self.port), env=given, cwd=self.home, stderr=subprocess.PIPE)
        await_health(self.process, self.port)

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.communicate(timeout=15)
            self.process = None

    def token(self, sub: str = "alice", *roles: str, ttl_s: float = 3600) -> str:
        return make_token(SECRET, sub, roles or ("approver",), ttl_s)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    made = tmp_path / "home"
    made.mkdir()
    return made


@pytest.fixture
def store(home: Path) -> Iterator[Store]:
    """Another process's view of the workspace: what it commits, the server has to notice."""
    opened = Store.open(home, source="kircerta/tests")
    yield opened
    opened.close()


@pytest.fixture
def site(home: Path) -> Iterator[Site]:
    """Started by the test, once its workspace is ready."""
    made = Site(home)
    yield made
    made.stop()


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """One browser for this folder; it goes with it, since Playwright's event loop would be in the others' way."""
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield launched
        launched.close()


@dataclass
class Windows:
    """Opens windows, and remembers what no window may ever do."""

    browser: Browser
    site: Site
    contexts: list[BrowserContext] = field(default_factory=list)
    wrongs: list[str] = field(default_factory=list)

    def context(self, **options: object) -> BrowserContext:
        made = self.browser.new_context(**options)  # type: ignore[arg-type]
        made.set_default_timeout(15_000)
        self.contexts.append(made)
        return made

    def open(self, path: str = "/", context: BrowserContext | None = None, *, sub: str | None = "alice") -> Page:
        """A window on the dashboard, signed in unless `sub` is None. Waits until it is live."""
        context = context or self.context()
        if sub is not None:
            context.add_cookies([{"name": "kircerta_session", "value": self.site.token(sub), "url": self.site.url}])
        page = context.new_page()
        self.guard(page)
        page.goto(self.site.url + path)
        live(page)
        return page

    def guard(self, page: Page) -> None:
        """Note scripts of others that ran, errors of ours, refusals of the policy, and requests to anywhere else."""

        def note_request(request: Request) -> None:
            if not request.url.startswith((self.site.url, "data:", "blob:")):
                self.wrongs.append(f"request to {request.url}")

        def note_dialog(dialog: object) -> None:
            self.wrongs.append("a dialog of the browser")
            dialog.dismiss()  # type: ignore[attr-defined]

        page.on("dialog", note_dialog)
        page.on("pageerror", lambda error: self.wrongs.append(f"error: {error}"))
        page.on("request", note_request)
        page.on(
            "console",
            lambda message: (
                self.wrongs.append(f"console: {message.text}")
                if "Content Security Policy" in message.text or "TrustedHTML" in message.text
                else None
            ),
        )


@pytest.fixture
def windows(browser: Browser, site: Site) -> Iterator[Windows]:
    made = Windows(browser, site)
    yield made
    for context in made.contexts:
        context.close()
    assert made.wrongs == []


def live(page: Page, timeout_s: float = 15) -> None:
    page.wait_for_selector('#light[data-state="live"]', timeout=timeout_s * 1000)


def until(page: Page, condition: Callable[[], bool], timeout_s: float = 10) -> None:
    """Turn the page until a condition outside of it holds."""
    for _ in range(int(timeout_s / 0.05)):
        if condition():
            return
        page.wait_for_timeout(50)
    raise AssertionError("the condition did not come true")
