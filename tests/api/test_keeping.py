"""Proven deliveries whose effect failed, over HTTP: an honest answer, a kept delivery, and its effect later on."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import orjson
import pytest

from api.app import create_app
from audit.event import Event
from audit.files import FileLock
from ssot import inbox as inboxes
from ssot.inbox import Inbox
from ssot.store import Store
from tests import builders
from tests.api.scene import client_of, event_types, lifespan, settings_for
from tests.api.test_webhooks import SECRETS, TELEGRAM, TOKEN, XCODE, XCODE_URL, github, sealed, telegram, told

GH = "gh-octo-org_hello.world-7"


@contextmanager
def full_disk(store: Store) -> Iterator[None]:
    """No file grows beyond the log's size of now; what is smaller can be written, as on a disk with a little left."""
    for _ in range(12):
        store.commit(f"T-{store.last_seq()}", builders.create("x" * 4000), actor="tests")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((store.audit_folder / "events.jsonl").stat().st_size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@asynccontextmanager
async def an_api(home: Path) -> AsyncIterator[httpx.AsyncClient]:
    door = create_app(settings_for(home, **SECRETS))
    async with lifespan(door), client_of(door) as client:
        yield client


def make_due(inbox: Inbox) -> None:
    for path in inbox.folder.glob("*.tries"):
        path.write_bytes(orjson.dumps({**orjson.loads(path.read_bytes()), "due": 0.0}))


async def until(holds: Callable[[], Any], patience_s: float = 15.0) -> None:
    async with asyncio.timeout(patience_s):
        while not holds():
            await asyncio.sleep(0.02)


async def test_a_delivery_that_the_disk_refused_is_kept_and_comes_to_its_effect_by_itself(
    home: Path, store: Store
) -> None:
    inbox = Inbox(home)
    async with an_api(home) as client:
        with full_disk(store):
            answer = await github(client, builders.issue_payload())
            assert (answer.status_code, answer.json()["code"]) == (507, "disk_full")
            (kept,) = inbox.standings()
            assert (kept.state, kept.kept and kept.kept.task_id) == ("waiting", GH)
            assert (await client.get(f"/api/tasks/{GH}")).status_code == 404
        make_due(inbox)
        await until(lambda: not inbox.standings())
        assert (await client.get(f"/api/tasks/{GH}")).json()["source"] == "github"
        assert told(await github(client, builders.issue_payload())) == (200, True, GH, "duplicate")
    assert [one for one in event_types(store) if one != "task_created"] == ["webhook_duplicate"]


async def test_one_that_comes_again_before_that_is_not_doubled(home: Path, store: Store) -> None:
    inbox = Inbox(home)
    async with an_api(home) as client:
        with full_disk(store):
            assert (await telegram(client, builders.update_payload())).status_code == 507
        assert told(await telegram(client, builders.update_payload())) == (202, False, "tg-n1001-5", "created")
        make_due(inbox)
        await until(lambda: not inbox.standings())
    assert set(event_types(store)) == {"task_created"}


async def test_a_kept_form_is_its_json_and_no_secret_is_kept(home: Path, store: Store) -> None:
    inbox = Inbox(home)
    build = {**builders.build_payload(), "webhook": {"url": f"https://x.example/hook?token={quote(XCODE, safe='')}"}}
    async with an_api(home) as client:
        with full_disk(store):
            form = httpx.QueryParams({"payload": orjson.dumps(builders.issue_payload()).decode()})
            raw = str(form).encode()
            media_type = "application/x-www-form-urlencoded"
            await github(client, raw, content_type=media_type, x_hub_signature_256=sealed(raw))
            await client.post(XCODE_URL, json=build)
            await client.post("/webhooks/telegram", json=builders.update_payload(), headers=TOKEN)
    bodies = {one.kept.sender: one.kept.body for one in inbox.standings() if one.kept}
    assert orjson.loads(bodies["github"]) == builders.issue_payload()
    assert orjson.loads(bodies["xcode"])["webhook"] == {"url": "https://x.example/hook?token=***"}
    files = b"".join(path.read_bytes() for path in inbox.folder.iterdir())
    for secret in (XCODE, quote(XCODE, safe=""), TELEGRAM, "old secret", "new secret", "sha256="):
        assert secret.encode() not in files
        assert orjson.dumps(secret)[1:-1] not in files


async def test_what_is_not_proven_or_not_read_is_never_kept(home: Path, store: Store) -> None:
    async with an_api(home) as client:
        with full_disk(store):
            assert (await github(client, builders.issue_payload(), x_hub_signature_256="sha256=" + "0" * 64)).is_error
            assert (await github(client, {"action": "opened", "issue": {}})).status_code == 400
            assert (await telegram(client, [])).status_code == 400
    assert Inbox(home).standings() == []


async def test_a_log_that_contradicts_itself_costs_no_delivery(home: Path, store: Store) -> None:
    store.commit("T-1", builders.create(), actor="tests")
    store.commit("T-2", builders.create(), actor="tests")
    log = store.audit_folder / "events.jsonl"
    good = log.read_bytes()
    async with an_api(home) as client:
        with FileLock(store.audit_folder / ".lock").hold():  # no alarm of a busy machine is written over it meanwhile
            log.write_bytes(good + b'{"seq": 3}\n')
        answer = await github(client, builders.issue_payload())
        assert (answer.status_code, answer.json()["code"]) == (503, "log_corrupt")
    log.write_bytes(good)
    inbox = Inbox(home)
    make_due(inbox)
    fresh = Store.open(home, source="kircerta/tests")
    assert [one.came for one in inbox.drain(fresh)] == ["delivered"]
    fresh.close()


def alerts(store: Store) -> list[Event]:
    return [event for event in store.events() if event.type == "alert"]


async def test_a_full_inbox_is_an_alarm_until_there_is_room(home: Path, store: Store) -> None:
    inbox = Inbox(home)
    inbox.folder.mkdir(parents=True)
    for number in range(inboxes.MAX_DELIVERIES):
        (inbox.folder / f"{number:032x}.json").touch()
        (inbox.folder / f"{number:032x}.tries").write_bytes(b'{"count": 10, "due": 0, "error": "x"}')

    async with an_api(home) as client:
        with full_disk(store):
            assert (await telegram(client, builders.update_payload())).status_code == 507
        await until(lambda: {one.data["alarm"] for one in alerts(store)} == {"inbox_full", "deliveries_failed"})
        assert len(inbox.keys()) == inboxes.MAX_DELIVERIES
        for path in inbox.folder.iterdir():
            path.unlink()
        await until(lambda: len(alerts(store)) == 4)
    assert [one.data["state"] for one in alerts(store)] == ["raised", "raised", "cleared", "cleared"]


async def test_an_inbox_that_cannot_be_made_changes_no_answer(home: Path, store: Store) -> None:
    (home / ".kircerta" / "inbox").write_text("a file where the folder should be")
    async with an_api(home) as client:
        with full_disk(store):
            assert (await telegram(client, builders.update_payload())).status_code == 507
        assert (await telegram(client, builders.update_payload())).status_code == 202


@pytest.mark.slow
async def test_a_busy_workspace_keeps_the_delivery_within_the_senders_patience(home: Path, store: Store) -> None:
    inbox, clock = Inbox(home), asyncio.get_running_loop().time
    async with an_api(home) as client:
        with FileLock(store.audit_folder / ".lock").hold():
            begun = clock()
            answer = await telegram(client, builders.update_payload())
            assert (answer.status_code, answer.json()["code"]) == (503, "busy")
            assert clock() - begun < 10
            assert len(inbox.standings()) == 1
        make_due(inbox)
        await until(lambda: not inbox.standings())
    assert event_types(store) == ["task_created"]


async def test_a_secret_given_beside_the_payload_is_not_in_its_headers(home: Path, store: Store) -> None:
    async with an_api(home) as client:
        with full_disk(store):
            await github(client, builders.issue_payload())
            await telegram(client, builders.update_payload())
    headers = [one.kept.headers for one in Inbox(home).standings() if one.kept]
    assert headers == [{"x-github-event": "issues", "x-github-delivery": "d-1"}, {}]
