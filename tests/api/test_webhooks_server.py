"""Deliveries to a real server: killed at any moment, flooded, and told more than it wants to hear."""

from __future__ import annotations

import asyncio
import random
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from ssot import replay
from ssot.store import Store
from tests import builders
from tests.api.running import await_health, command, environment, exchange, free_port, server
from tests.api.test_webhooks import TELEGRAM, github, sealed

SECRETS = {
    "KIRCERTA_GITHUB_SECRET": "old secret",
    "KIRCERTA_XCODE_SECRET": "plain",
    "KIRCERTA_TELEGRAM_SECRET": TELEGRAM,
}
pytestmark = pytest.mark.slow


async def until_taken(client: httpx.AsyncClient, send: Any) -> None:
    """What a patient sender does: the same again until there is an answer."""
    async with asyncio.timeout(90):
        while True:
            try:
                answer = await send(client)
                assert answer.status_code in (200, 202), answer.text
                return
            except httpx.TransportError:
                await asyncio.sleep(0.05)


def every_sender(number: int) -> list[Any]:
    headers = {"X-Telegram-Bot-Api-Secret-Token": TELEGRAM}
    update = builders.update_payload(f"update {number}", number, message_id=number)
    build = builders.build_payload("RUNNING", run_id=f"run-{number}")
    return [
        lambda client: github(client, builders.issue_payload(number=number), f"d-{number}"),
        lambda client: client.post("/webhooks/telegram", json=update, headers=headers),
        lambda client: client.post("/webhooks/xcode/plain", json=build),
    ]


async def test_killed_at_random_points_each_delivery_has_its_effect_once(tmp_path: Path) -> None:
    chance, port, home, count = random.Random(11), free_port(), tmp_path / "home", 40
    home.mkdir()
    given = environment(home, **SECRETS)
    process = subprocess.Popen(command(port), env=given, cwd=home)
    try:
        await asyncio.to_thread(await_health, process, port)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
            sends = [send for number in range(1, count + 1) for send in every_sender(number)]
            for begin in range(0, len(sends), 20):
                batch = asyncio.gather(*(until_taken(client, send) for send in sends[begin : begin + 20]))
                await asyncio.sleep(chance.random() * 0.05)
                process.kill()
                process.wait()
                process = subprocess.Popen(command(port), env=given, cwd=home)
                await batch
    finally:
        process.kill()
        process.wait()
    store = Store.open(home, source="kircerta/tests")
    try:
        events = list(store.events())
        created = [event.subject for event in events if event.type == "task_created"]
        assert len(created) == len(set(created)) == 3 * count == len(store.view.entries)
        assert replay.check(home).ok
    finally:
        store.close()


def test_a_refusal_reaches_who_sends_a_large_body(tmp_path: Path) -> None:
    with server(tmp_path, **SECRETS) as (_, port), httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        for signature in ("none", "sha256=" + "0" * 64):
            headers = {"X-Hub-Signature-256": signature}
            for _ in range(2):
                answer = client.post("/webhooks/github", content=b"x" * 5_000_000, headers=headers)
                assert answer.status_code == 401
        too_large = client.post("/webhooks/xcode/plain", content=b"x" * 1_100_000)
        assert too_large.status_code == 413
        raw = orjson.dumps(builders.issue_payload("x" * 3_000_000))
        assert asyncio.run(_sent(port, raw)).status_code == 202


async def _sent(port: int, raw: bytes) -> httpx.Response:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
        return await github(client, raw)


def test_a_body_that_never_ends_is_given_up_in_good_time(tmp_path: Path) -> None:
    head = (
        "POST /webhooks/github HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"X-Hub-Signature-256: {sealed(b'{}')}\r\nContent-Length: 100\r\n\r\n"
    )
    with server(tmp_path, **SECRETS) as (_, port):
        begun = time.monotonic()
        answer = exchange(port, head.encode() + b"{", timeout_s=12)
        assert answer.startswith(b"HTTP/1.1 408")
        assert time.monotonic() - begun < 9


def test_no_secret_is_in_anything_that_the_server_writes(tmp_path: Path) -> None:
    with server(tmp_path, **{**SECRETS, "KIRCERTA_XCODE_SECRET": "s3cr3t-of-xcode"}) as (process, port):
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
            told = {"webhook": {"url": "https://example.invalid/webhooks/xcode/s3cr3t-of-xcode"}}
            for path in ("/{}", "?token={}", "/{}/more", "?token={}&token={}"):
                url = "/webhooks/xcode" + path.replace("{}", "s3cr3t-of-xcode")
                client.post(url, json={**builders.build_payload(), **told})
                client.post(url, content=b"{")
            shown = client.get("/metrics").text + client.get("/api/audit").text
        process.terminate()
        process.wait()
        assert process.stderr is not None
        stderr = process.stderr.read()
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert "s3cr3t-of-xcode" not in shown
    assert b"s3cr3t-of-xcode" not in written + stderr
