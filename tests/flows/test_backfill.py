"""Failed deliveries against a GitHub API that counts: each asked for once, limits kept, nothing forgotten."""

from __future__ import annotations

import hashlib
import hmac
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import permutations
from pathlib import Path
from typing import Any

import httpx
import pytest

from flows.backfill import Report, Wish, backfill
from flows.github import CannotAsk, Failed, GitHub, Hook, HookDelivery, failed_of
from flows.turn import Turn, TurnTaken, only_one
from flows.workspace import Workspace
from ssot import replay
from ssot.ingest import github as reader
from ssot.store import Store
from tests import builders
from tests.api.running import ROOT, await_health, command, environment, free_port
from tests.flows.githubserver import CUT, TOKEN, GitHubServer, github_server
from tests.flows.test_telegram import wait_until

HOOK = "octo-org/hello.world/12"
PATH = "/repos/octo-org/hello.world/hooks/12"


@pytest.fixture
def server() -> Iterator[GitHubServer]:
    with github_server() as github:
        github.hooks[PATH] = []
        yield github


class Slept:
    """A sleep that takes no time, and what was slept."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


async def run(
    workspace: Workspace,
    server: GitHubServer,
    *hooks: str,
    token: str = TOKEN,
    seconds: float = 3600,
    turn: Turn | None = None,
    sleep: Slept | None = None,
    **more: Any,
) -> Report:
    """One run, whose waits take no time but count."""
    named = tuple(Hook.named(name) for name in hooks or (HOOK,))
    wish = Wish(named, **{"since": datetime.now(UTC) - timedelta(hours=72), "limit": 500, "most_tries": 5, **more})
    async with httpx.AsyncClient() as client:
        given = GitHub(client, server.url, token, time.monotonic() + seconds, turn, sleep or Slept(), between_s=0.0)
        return await backfill(workspace, given, wish)


def fates(report: Report) -> dict[str, str]:
    return {row.failed.newest.guid: row.fate for row in report.rows}


def take(workspace: Workspace, guid: str, number: int = 1) -> None:
    workspace.store.deliver(reader.read("issues", guid, builders.issue_payload(number=number)))


async def test_what_failed_is_asked_for_and_what_was_taken_is_not(workspace: Workspace, server: GitHubServer) -> None:
    for guid, statuses in {
        "ok": [200],
        "failed": [502],
        "mended": [500, 200],
        "twice": [0, 504],
        "known": [502],
    }.items():
        for status in statuses:
            server.attempt(PATH, guid, status)
    take(workspace, "known")
    report = await run(workspace, server)
    assert fates(report) == {"failed": "asked", "twice": "asked", "known": "known"}
    assert sorted(server.redelivered) == ["failed", "twice"]
    assert sum(method == "GET" for method, _ in server.asked) == 3, "seven attempts, three a page"


async def test_a_second_run_asks_for_nothing_again(workspace: Workspace, server: GitHubServer) -> None:
    server.attempt(PATH, "one", 502)
    assert fates(await run(workspace, server)) == {"one": "asked"}
    assert (await run(workspace, server)).rows == [], "the redelivery was taken"
    (event,) = workspace.store.events()
    assert (event.type, event.actor, event.data["guid"]) == ("redelivery_requested", "backfill_github", "one")


async def test_an_attempt_is_asked_for_once_and_the_next_one_anew(workspace: Workspace, server: GitHubServer) -> None:
    """Also by a process that knows nothing but the log."""
    server.deliver = lambda guid: 502
    server.attempt(PATH, "one", 502)
    assert fates(await run(workspace, server)) == {"one": "asked"}
    failed_again = server.hooks[PATH].pop(0)
    other = Workspace.open(workspace.settings)
    try:
        assert fates(await run(other, server)) == {"one": "asked before"}
        assert fates(await run(other, server, again=True)) == {"one": "asked"}
        server.hooks[PATH].insert(0, failed_again)
        assert fates(await run(other, server)) == {"one": "asked"}
    finally:
        other.store.close()


async def test_what_fails_too_often_is_given_up_until_a_person_insists(
    workspace: Workspace, server: GitHubServer
) -> None:
    server.deliver = lambda guid: 400
    server.attempt(PATH, "bad", 400)
    told = [fates(await run(workspace, server, most_tries=3))["bad"] for _ in range(4)]
    assert told == ["asked", "asked", "given up", "given up"]
    assert fates(await run(workspace, server, most_tries=3, again=True)) == {"bad": "asked"}


async def test_the_oldest_come_first_and_the_rest_is_left_over(workspace: Workspace, server: GitHubServer) -> None:
    for age in (50, 40, 30, 20, 10):
        server.attempt(PATH, f"age-{age}", 502, age_s=age)
    report = await run(workspace, server, limit=2)
    assert server.redelivered == ["age-50", "age-40"]
    assert report.counts() == {"asked": 2, "left over": 3}


async def test_what_is_too_old_is_not_looked_at(workspace: Workspace, server: GitHubServer) -> None:
    for number in range(7):
        server.attempt(PATH, f"old-{number}", 502, age_s=7200)
    server.attempt(PATH, "new", 502)
    report = await run(workspace, server, since=datetime.now(UTC) - timedelta(hours=1))
    assert fates(report) == {"new": "asked"}
    assert sum(method == "GET" for method, _ in server.asked) == 1, "no page behind the first old one"


async def test_hooks_of_organizations_and_apps_are_asked_at_their_own_address(
    workspace: Workspace, server: GitHubServer
) -> None:
    server.attempt("/orgs/octo-org/hooks/7", "of-org", 502)
    server.attempt("/app/hook", "of-app", 502)
    assert fates(await run(workspace, server, "octo-org/7", "app")) == {"of-org": "asked", "of-app": "asked"}


@pytest.mark.parametrize("name", ["", "a/b", "a/../1", "a/b/1/2", "a/b/x", "a b/c/1", "https://x/1", "a/b/1\n", "a//1"])
def test_what_names_no_webhook_is_refused_before_anything_is_asked(name: str) -> None:
    with pytest.raises(CannotAsk) as raised:
        Hook.named(name)
    assert raised.value.trouble == "NotConfigured"


# --------------------------------------------------------------------------------------- limits and trouble


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    ("status", "headers", "pause_s"),
    [
        (429, {"Retry-After": "7"}, 7), (403, {"Retry-After": "9"}, 9), (429, {}, 60),
        (403, {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "soon"}, 31),
    ],
)  # fmt: skip
async def test_a_limit_is_waited_for_and_then_it_goes_on(
    workspace: Workspace, server: GitHubServer, method: str, status: int, headers: dict[str, str], pause_s: float
) -> None:
    server.attempt(PATH, "one", 502)
    if "X-RateLimit-Reset" in headers:
        headers = {**headers, "X-RateLimit-Reset": str(int(time.time()) + 30)}
    server.instead.append((method, status, headers))
    slept = Slept()
    report = await run(workspace, server, sleep=slept)
    assert fates(report) == {"one": "asked"}
    assert server.redelivered == ["one"]
    assert max(slept.seconds) == pytest.approx(pause_s, abs=2)


async def test_the_last_good_answer_before_a_limit_is_kept_and_the_limit_too(
    workspace: Workspace, server: GitHubServer
) -> None:
    server.attempt(PATH, "one", 502)
    server.besides.append({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(int(time.time()) + 50)})
    slept = Slept()
    assert fates(await run(workspace, server, sleep=slept)) == {"one": "asked"}
    assert max(slept.seconds) == pytest.approx(51, abs=2)


async def test_a_limit_longer_than_the_run_ends_it_and_the_next_run_knows(
    workspace: Workspace, server: GitHubServer
) -> None:
    server.attempt(PATH, "one", 502)
    server.instead.append(("POST", 429, {"Retry-After": "900"}))
    with only_one(workspace.home, "github", TOKEN) as turn:
        report = await run(workspace, server, seconds=60, turn=turn)
        assert report.trouble is not None
        assert report.trouble.trouble == "RateLimited"
        with pytest.raises(TurnTaken), only_one(workspace.home, "github", TOKEN):
            pass
    asked = len(server.asked)
    with only_one(workspace.home, "github", TOKEN) as turn:
        again = await run(workspace, server, seconds=60, turn=turn)
        assert (again.trouble or report.trouble).trouble == "RateLimited"
    assert len(server.asked) == asked, "nothing was asked before the time"


async def test_reading_is_tried_again_and_asking_is_not(workspace: Workspace, server: GitHubServer) -> None:
    for guid in ("one", "two", "three"):
        server.attempt(PATH, guid, 502)
    server.instead += [("GET", CUT, {}), ("GET", 502, {}), ("POST", CUT, {}), ("POST", 500, {}), ("POST", 422, {})]
    report = await run(workspace, server)
    assert fates(report) == {"one": "unsure", "two": "unsure", "three": "refused"}
    assert fates(await run(workspace, server)) == {"one": "asked", "two": "asked", "three": "asked"}


async def test_a_run_whose_time_is_over_asks_for_nothing_more(workspace: Workspace, server: GitHubServer) -> None:
    server.attempt(PATH, "one", 502)
    report = await run(workspace, server, seconds=-1)
    assert report.trouble is not None
    assert report.trouble.trouble == "TimeOver"
    assert server.asked == []


async def test_a_github_that_never_answers_is_named(workspace: Workspace, server: GitHubServer) -> None:
    server.instead += [("GET", CUT, {})] * 5
    report = await run(workspace, server)
    assert report.trouble is not None
    assert report.trouble.trouble == "GitHubSilent"
    assert TOKEN not in str(report.trouble)


@pytest.mark.parametrize(("status", "trouble"), [(401, "TokenRefused"), (403, "TokenRefused"), (404, "HookUnknown")])
async def test_what_github_refuses_is_named(
    workspace: Workspace, server: GitHubServer, status: int, trouble: str
) -> None:
    server.attempt("/app/hook", "one", 502)
    server.instead.append(("GET", status, {}))
    report = await run(workspace, server, HOOK, "app")
    assert report.trouble is not None
    assert report.trouble.trouble == trouble
    assert fates(report) == ({"one": "asked"} if status == 404 else {}), "another hook is another matter"


async def test_the_token_goes_to_no_other_address(workspace: Workspace, server: GitHubServer) -> None:
    with github_server() as stranger:
        server.next_link = f"{stranger.url}/elsewhere"
        for number in range(7):
            server.attempt(PATH, f"g-{number}", 502)
        assert len((await run(workspace, server)).rows) == 7
        assert stranger.asked == []
    assert TOKEN not in repr(GitHub(httpx.AsyncClient(), server.url, TOKEN, 0.0))


async def test_entries_that_are_none_are_counted_and_passed_by(workspace: Workspace, server: GitHubServer) -> None:
    server.attempt(PATH, "one", 502)
    server.hooks[PATH] += [{"id": "x"}, None, {"id": 1, "guid": "g", "delivered_at": "yesterday"}]  # type: ignore[list-item]
    report = await run(workspace, server)
    assert (fates(report), report.unreadable) == ({"one": "asked"}, 3)


def test_nothing_failed_where_any_attempt_was_taken_in_whatever_order() -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    tried = [HookDelivery(id=n, guid="g", delivered_at=at, status_code=code) for n, code in enumerate([502, 200, 0])]
    for order in permutations(tried):
        assert failed_of(order) == []
        assert failed_of(one for one in order if not one.is_taken) == [Failed(tried[2], 2)]


# ------------------------------------------------------------------------------------------------ together


@contextmanager
def flaky(server: GitHubServer, workspace: Workspace, seed: int) -> Iterator[random.Random]:
    """A receiver that fails half of the time, and loses half of the answers to what it took."""
    chance = random.Random(seed)
    receiver = Workspace.open(workspace.settings)
    deliveries: dict[str, int] = {}

    def deliver(guid: str) -> int:
        if chance.random() < 0.5:
            return 502
        take(receiver, guid, deliveries.setdefault(guid, len(deliveries) + 1))
        return chance.choice([200, 504])

    server.deliver = deliver
    yield chance
    receiver.store.close()


async def test_in_the_end_every_delivery_has_its_effect_once(workspace: Workspace, server: GitHubServer) -> None:
    """Whatever fails on the way, in GitHub, in the receiver or between; run after run."""
    with flaky(server, workspace, seed=7) as chance:
        for number in range(30):
            server.attempt(PATH, f"g-{number}", chance.choice([0, 500, 502]))
        for _ in range(30):
            server.instead += [(chance.choice(["GET", "POST"]), chance.choice([CUT, 500, 429]), {})]
            before = len(server.redelivered)
            report = await run(workspace, server, most_tries=100)
            asked = server.redelivered[before:]
            assert len(asked) == len(set(asked)), "at most once a run"
            if {row.fate for row in report.rows} == {"known"}:
                break
    workspace.store.refresh()
    made = [event for event in workspace.store.events() if event.type == "task_created"]
    assert sorted(event.data["delivery_id"] for event in made) == sorted(f"g-{number}" for number in range(30))
    assert not any(event.type == "webhook_duplicate" for event in workspace.store.events()), "what is known is not sent"


@pytest.mark.slow
def test_killed_at_random_points_every_delivery_has_its_effect_once(tmp_path: Path, server: GitHubServer) -> None:
    """kill -9 of the API while GitHub delivers, then of the API and of the backfill while it asks again."""
    chance, home, port, total = random.Random(5), tmp_path / "home", free_port(), 24
    home.mkdir()
    given = environment(home, KIRCERTA_GITHUB_SECRET="old secret")
    receiver = f"http://127.0.0.1:{port}"
    numbers = {f"g-{number}": number for number in range(1, total + 1)}
    server.deliver = lambda guid: sent_to(receiver, guid, numbers[guid])
    of_github = {"KIRCERTA_GITHUB_API": server.url, "KIRCERTA_GITHUB_TOKEN": TOKEN, "KIRCERTA_GITHUB_HOOKS": HOOK}
    asks = [sys.executable, "-m", "tests.flows.backfilling"]
    running = subprocess.Popen(command(port), env=given, cwd=home)
    try:
        await_health(running, port)
        for at, guid in enumerate(numbers):
            if at == 8:
                running.kill()
            server.attempt(PATH, guid, server.deliver(guid))
            if at == 14:
                running.wait()
                running = subprocess.Popen(command(port), env=given, cwd=home)
                await_health(running, port)
        for turn in range(20):
            asking = subprocess.Popen(asks, env={**given, **of_github}, cwd=ROOT)
            if turn < 3:
                before = len(server.redelivered)
                wait_until(lambda b=before, a=asking: len(server.redelivered) > b or a.poll() is not None)
                time.sleep(chance.random() * 0.02)
                for process in ([asking], [running], [asking, running])[turn % 3]:
                    process.kill()
                    process.wait()
            if asking.wait(60) == 0:
                break
            if running.poll() is not None:
                running = subprocess.Popen(command(port), env=given, cwd=home)
                await_health(running, port)
    finally:
        running.kill()
        running.wait()
    assert 2 < turn < 19, "it was killed, and came to an end"
    assert_each_delivery_has_its_task(home, set(numbers))


def sent_to(receiver: str, guid: str, number: int) -> int:
    """Deliver as GitHub does; gives the status it would note down."""
    raw = json.dumps(builders.issue_payload(number=number)).encode()
    signature = hmac.new(b"old secret", raw, hashlib.sha256).hexdigest()
    headers = {
        "Content-Type": "application/json", "X-Hub-Signature-256": f"sha256={signature}", "X-GitHub-Event": "issues",
        "X-GitHub-Delivery": guid,
    }  # fmt: skip
    try:
        return httpx.post(f"{receiver}/webhooks/github", content=raw, headers=headers, timeout=5).status_code
    except httpx.HTTPError:
        return 0


def assert_each_delivery_has_its_task(home: Path, guids: set[str]) -> None:
    store = Store.open(home, source="kircerta/tests")
    try:
        told = [event for event in store.events() if "delivery_id" in event.data]
        created = [event.data["delivery_id"] for event in told if event.type == "task_created"]
        assert sorted(created) == sorted(guids)
        assert len(list((home / "ssot" / "tasks").glob("gh-*.json"))) == len(guids)
        assert {event.type for event in told} <= {"task_created", "webhook_duplicate"}
        assert replay.check(home).ok
    finally:
        store.close()
