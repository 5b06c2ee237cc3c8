"""Proven deliveries with everything in them that a parser, a path or a patient server could fall over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ssot import replay
from ssot.ingest import github as github_reader
from ssot.ingest import telegram as telegram_reader
from ssot.ingest import xcode as xcode_reader
from ssot.ingest.delivery import BadPayload, Delivery
from ssot.store import Refused, Store
from ssot.task import TASK_ID
from tests import builders
from tests.api.running import server
from tests.api.scene import api, event_types
from tests.api.test_webhooks import DATA, JSON, SECRETS, TELEGRAM, TOKEN, XCODE_URL, github, needs_data, sealed

JSON_TYPE = {"content-type": "application/json"}


async def to_all(client: httpx.AsyncClient, raw: bytes, delivery_id: str = "d-1") -> list[httpx.Response]:
    """The same proven bytes to each endpoint."""
    return [
        await github(client, raw, delivery_id),
        await client.post(XCODE_URL, content=raw, headers=JSON_TYPE),
        await client.post("/webhooks/telegram", content=raw, headers={**TOKEN, **JSON_TYPE}),
    ]


BOMBS = {
    "deep lists": b"[" * 500_000,
    "deep lists, closed": b"[" * 250_000 + b"]" * 250_000,
    "deep objects": b'{"a":' * 150_000,
    "deep below a known key": b'{"update_id":1,"message":' * 30_000,
    "wide": b"[" + b"[]," * 100_000 + b"[]]",
    "endless number": b'{"update_id":' + b"9" * 900_000 + b"}",
    "exponent": b'{"update_id":1e999999999}',
    "one key often": b"{" + b'"a":1,' * 100_000 + b'"a":1}',
    "spaces": b" " * 1_000_000,
    "an open text": b'"' + b"a" * 1_000_000,
    "escapes": b'"' + b"\\u0000" * 150_000,
    "half a pair": b'{"update_id":1,"message":{"text":"\\ud800"}}',
    "byte order mark": b"\xef\xbb\xbf{}",
    "sixteen bits": "{}".encode("utf-16"),
    "compressed": b"\x1f\x8b\x08" + bytes(1000),
}


@pytest.mark.parametrize("bomb", BOMBS)
async def test_a_json_bomb_is_a_400_at_every_endpoint(home: Path, store: Store, bomb: str) -> None:
    async with asyncio.timeout(9), api(home, **SECRETS) as client:
        assert {answer.status_code for answer in await to_all(client, BOMBS[bomb])} == {400}
    store.refresh()
    assert {event.data["codes"]["bad_payload"] for event in store.events()} == {1}
    assert not store.view.entries


async def test_much_of_anything_is_read_within_bounds_and_means_nothing(home: Path, store: Store) -> None:
    many = orjson.dumps({"update_id": 1, **{f"key {n}": n for n in range(40_000)}})
    long = b'{"update_id":0.' + b"1" * 900_000 + b"}"
    form = {"content_type": "application/x-www-form-urlencoded"}
    async with asyncio.timeout(9), api(home, **SECRETS) as client:
        assert [answer.status_code for answer in await to_all(client, many)] == [202, 400, 202]
        assert [answer.status_code for answer in await to_all(client, long, "d-3")] == [202, 400, 400]
        for raw in (b"a&" * 400_000, b"payload=" + b"%5B" * 300_000, b"payload=%7B%7D&" * 9, b"&" * 900_000):
            assert (await github(client, raw, "d-2", **form)).status_code == 400
    store.refresh()
    assert {event.type for event in store.events()} == {"webhook_ignored", "webhook_rejected"}
    assert not store.view.entries


@pytest.mark.parametrize("sender", ["github", "xcode", "telegram"])
async def test_ten_at_once_from_any_sender_make_one_task(home: Path, store: Store, sender: str) -> None:
    send: dict[str, Callable[[httpx.AsyncClient], Any]] = {
        "github": lambda client: github(client, builders.issue_payload()),
        "xcode": lambda client: client.post(XCODE_URL, json=builders.build_payload()),
        "telegram": lambda client: client.post("/webhooks/telegram", json=builders.update_payload(), headers=TOKEN),
    }
    async with api(home, **SECRETS) as one, api(home, **SECRETS) as other:
        answers = await asyncio.gather(*(send[sender]((one, other)[n % 2]) for n in range(10)))
    assert sorted(answer.status_code for answer in answers) == [200] * 9 + [202]
    repeat = "telegram_dedup_hit" if sender == "telegram" else "webhook_duplicate"
    assert event_types(store) == ["task_created"] + [repeat] * 9
    assert len(list((home / "ssot" / "tasks").glob("*.json"))) == 1


@needs_data
def test_no_name_from_outside_becomes_a_path(tmp_path: Path) -> None:
    """Traversals and commands wherever a sender names something: refused, or text and nothing else."""
    home = tmp_path / "deep" / "home"
    home.mkdir(parents=True)
    store = builders.a_store(home)
    store.deliver(telegram_reader.read(builders.update_payload()))
    before = {path for path in tmp_path.rglob("*") if path.parent.name != "tasks"}
    lines = {
        line.decode("latin-1")
        for path in sorted((DATA / "09_adversarial" / "paths_and_commands").iterdir())
        for line in path.read_bytes().split(b"\n")
        if line.strip()
    }
    made = sum(delivered(store, reading, line) for line in sorted(lines) for reading in NAMING)
    assert made > 0
    store.close()
    tasks = list((home / "ssot" / "tasks").glob("*"))
    assert all(TASK_ID.fullmatch(path.stem) for path in tasks if not path.name.startswith("."))
    new = {path for path in tmp_path.rglob("*") if path.parent.name != "tasks"} - before
    assert {path.relative_to(home).parts[0] for path in new} <= {".kircerta", "audit"}
    assert replay.check(home).ok


NAMING: list[Callable[[str], Delivery]] = [
    lambda line: github_reader.read("issues", "d", builders.issue_payload(repository=line)),
    lambda line: github_reader.read("issues", line, builders.issue_payload(repository=f"owner/{line}")),
    lambda line: xcode_reader.read(builders.build_payload(run_id=line)),
    lambda line: xcode_reader.read(builders.build_payload(event=line)),
]


def delivered(store: Store, reading: Callable[[str], Delivery], line: str) -> bool:
    try:
        delivery = reading(line)
    except BadPayload:
        return False
    try:
        return store.deliver(delivery).event.type == "task_created"
    except Refused:
        return False


@pytest.mark.slow
def test_whatever_a_proven_body_says_it_is_never_a_500(tmp_path: Path) -> None:
    """Bytes, texts and JSON of any shape, through a real server."""
    secrets = {"KIRCERTA_GITHUB_SECRET": "old secret", "KIRCERTA_XCODE_SECRET": "plain"}
    secrets["KIRCERTA_TELEGRAM_SECRET"] = TELEGRAM
    events = st.sampled_from(["issues", "issue_comment", "ping", "push", "star"])
    bodies = st.binary(max_size=300) | st.text(max_size=100).map(str.encode) | JSON.map(orjson.dumps)
    with server(tmp_path, **secrets) as (_, port), httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:

        @given(raw=bodies, event=events, delivery_id=st.from_regex(r"[!-~]{1,60}", fullmatch=True))
        @settings(max_examples=120, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        def tried_out(raw: bytes, event: str, delivery_id: str) -> None:
            signed = {"x-hub-signature-256": sealed(raw), "x-github-event": event, "x-github-delivery": delivery_id}
            for path, headers in (
                ("github", signed), ("xcode/plain", {}), ("telegram", {"x-telegram-bot-api-secret-token": TELEGRAM}),
            ):  # fmt: skip
                answer = client.post(f"/webhooks/{path}", content=raw, headers={**JSON_TYPE, **headers})
                assert answer.status_code in (200, 202, 400), answer.text

        tried_out()
    assert replay.check(tmp_path).ok
