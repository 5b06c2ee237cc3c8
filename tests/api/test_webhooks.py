"""Deliveries over HTTP: proven, once, accountable. Real payloads and vectors where the shared data is there."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import httpx
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from api import budget as budgets
from api.app import create_app
from api.budget import FailureBudget
from api.webhooks import Secrets, _Seal, github_body_bytes
from audit.event import Event
from ssot import replay
from ssot.ingest import github as github_reader
from ssot.ingest import telegram as telegram_reader
from ssot.ingest import xcode as xcode_reader
from ssot.ingest.delivery import BadPayload, Delivery
from ssot.store import Store
from ssot.task import parse_document
from ssot.view import MAX_DELIVERIES, View
from tests import builders
from tests.api.scene import api, client_of, dispatched, event_types, lifespan, settings_for
from tests.api.scene import task as by_hand

DATA = Path(__file__).parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.exists(), reason="the shared data is not there")
GITHUB, XCODE, TELEGRAM = "old secret, new secret", "x/code ü", "tele-gram_1"
SECRETS = {
    "github_secret": SecretStr(GITHUB),
    "xcode_secret": SecretStr(XCODE),
    "telegram_secret": SecretStr(TELEGRAM),
}
TOKEN = {"X-Telegram-Bot-Api-Secret-Token": TELEGRAM}
XCODE_URL = f"/webhooks/xcode?token={quote(XCODE, safe='')}"


def sealed(raw: bytes, secret: str = "old secret") -> str:
    return "sha256=" + hmac.new(secret.encode(), raw, hashlib.sha256).hexdigest()


async def github(
    client: httpx.AsyncClient, payload: Any, delivery_id: str = "d-1", event: str = "issues", **more: str
) -> httpx.Response:
    """A proven delivery; `more` replaces headers (named with underscores)."""
    raw = payload if isinstance(payload, bytes) else orjson.dumps(payload)
    headers = {
        "content-type": "application/json",
        "x-hub-signature-256": sealed(raw),
        "x-github-event": event,
        "x-github-delivery": delivery_id,
        **{name.replace("_", "-"): value for name, value in more.items()},
    }
    return await client.post("/webhooks/github", content=raw, headers=headers)


async def telegram(client: httpx.AsyncClient, payload: Any) -> httpx.Response:
    return await client.post("/webhooks/telegram", json=payload, headers=TOKEN)


def last(store: Store) -> Event:
    return list(store.events())[-1]


def told(answer: httpx.Response) -> tuple[int, bool, str | None, str]:
    body = answer.json()
    return answer.status_code, body["duplicate"], body["task_id"], body["effect"]


# ------------------------------------------------------------------------------------------------ proof


async def test_without_a_secret_an_endpoint_is_closed(home: Path, store: Store) -> None:
    async with api(home, github_secret=SecretStr(" , ")) as client:
        for path in ("github", "xcode", "xcode/x", "telegram"):
            answer = await client.post(f"/webhooks/{path}", json={})
            assert (answer.status_code, answer.json()["code"]) == (503, "not_configured"), path


async def test_a_right_signature_is_taken_and_both_secrets_are_good_while_they_rotate(home: Path) -> None:
    async with api(home, **SECRETS) as client:
        raw = orjson.dumps(builders.issue_payload())
        for number, secret in enumerate(("old secret", "new secret")):
            answer = await github(client, raw, f"d-{number}", x_hub_signature_256=sealed(raw, secret))
            assert answer.status_code == 202


@pytest.mark.parametrize(
    "signature",
    ["", "sha256=", "sha1=" + "0" * 40, "sha256=" + "0" * 64, "upper", "no prefix", "space", "list", "other secret"],
)
async def test_a_signature_is_compared_exactly(home: Path, store: Store, signature: str) -> None:
    raw = orjson.dumps(builders.issue_payload())
    right = sealed(raw)
    made = {
        "upper": "sha256=" + right[7:].upper(),
        "no prefix": right[7:],
        "space": right + " x",
        "list": f"{right},{right}",
        "other secret": sealed(raw, GITHUB),
    }.get(signature, signature)
    async with api(home, **SECRETS) as client:
        answer = await github(client, raw, x_hub_signature_256=made)
        assert (answer.status_code, answer.json()["code"]) == (401, "bad_signature")
    store.refresh()
    assert not store.view.entries
    assert event_types(store) == ["webhook_rejected"]


async def test_two_signature_headers_prove_nothing(home: Path) -> None:
    raw = orjson.dumps(builders.issue_payload())
    headers = [("x-hub-signature-256", sealed(raw)), ("x-hub-signature-256", sealed(raw)), ("x-github-event", "issues")]
    async with api(home, **SECRETS) as client:
        answer = await client.post("/webhooks/github", content=raw, headers=headers)
        assert answer.status_code == 401


@needs_data
async def test_the_published_vectors_are_judged_as_a_strict_receiver_does(home: Path) -> None:
    vectors = json.loads((DATA / "02_webhook_signatures" / "github_hmac_vectors.json").read_bytes())
    seen = []
    for secret in {vector["secret"] for vector in vectors}:
        async with api(home, github_secret=SecretStr(secret)) as client:
            for vector in vectors:
                if vector["secret"] == secret:
                    taken = await vector_is_taken(client, vector)
                    assert taken == (vector["strict_github_sha256"] == "accept"), vector["id"]
                    seen.append(taken)
    assert len(seen) == len(vectors)
    assert set(seen) == {True, False}


async def vector_is_taken(client: httpx.AsyncClient, vector: dict[str, Any]) -> bool:
    """Whether its signature is: then what follows the signature is judged."""
    if vector.get("body_b64") is not None:
        raw = base64.b64decode(vector["body_b64"])
    else:
        raw = (DATA / "02_webhook_signatures" / vector["body_file"]).read_bytes()
    headers = {**vector["headers"], "content-type": "application/json"}
    answer = await client.post("/webhooks/github", content=raw, headers=headers)
    return answer.json().get("code") not in ("bad_signature", "not_configured")


@needs_data
def test_wycheproofs_vectors_are_judged_right() -> None:
    data = json.loads((DATA / "02_webhook_signatures" / "wycheproof_hmac_sha256.json").read_bytes())
    tried = 0
    for group in data["testGroups"]:
        for test in group["tests"]:
            seal = _Seal(Secrets("", (bytes.fromhex(test["key"]),)))
            seal.take(bytes.fromhex(test["msg"]))
            right = test["result"] == "valid" and group["tagSize"] == 256
            assert seal.is_that_of(b"sha256=" + test["tag"].encode()) == right, test["tcId"]
            tried += 1
    assert tried == data["numberOfTests"]


async def test_the_order_of_checks_is_size_then_signature_then_the_rest(home: Path) -> None:
    async with api(home, **SECRETS, max_body_bytes=2048) as client:
        long = await github(client, b"x" * 3000, x_hub_signature_256="none", content_type="image/png")
        assert (long.status_code, long.json()["code"]) == (413, "too_large")
        unproven = await github(client, b"{", x_hub_signature_256="none", content_type="image/png", x_github_event="")
        assert unproven.status_code == 401
        picture = await github(client, b"{", content_type="image/png")
        assert (picture.status_code, picture.json()["code"]) == (415, "unsupported_media_type")
        packed = await github(client, b"{}", content_encoding="gzip")
        assert packed.status_code == 415
        for body in (b"", b"{", b"[]", b'"x"', b'{"a":1,"a":2}', b'{"a":NaN}', b"[" * 100):
            broken = await github(client, body)
            assert (broken.status_code, broken.json()["code"]) == (400, "bad_payload"), body
        for missing in ("x_github_event", "x_github_delivery"):
            assert (await github(client, b"{}", **{missing: ""})).status_code == 400


def test_githubs_bodies_may_be_25_mib_unless_the_setting_is_lowered(home: Path) -> None:
    sizes = [github_body_bytes(settings_for(home, max_body_bytes=given)) for given in (2048, 1048576, 64 * 1048576)]
    assert sizes == [2048, 25 * 1048576, 64 * 1048576]


async def test_forms_and_json_say_the_same(home: Path, store: Store) -> None:
    form_type = "application/x-www-form-urlencoded"
    async with api(home, **SECRETS) as client:
        text = orjson.dumps(builders.issue_payload(title="Grüße")).decode()
        raw = urlencode({"payload": text}).encode()
        assert (await github(client, raw, content_type=form_type)).status_code == 202
        for bad in (b"", b"payload=1&payload=2", b"other=1", b"payload=%FF", "payload=ü".encode()):
            assert (await github(client, bad, content_type=form_type)).status_code == 400, bad
    store.refresh()
    assert store.task("gh-octo-org_hello.world-7").title == "Grüße"


async def test_a_body_that_comes_too_slowly_is_a_408(home: Path) -> None:
    door = create_app(settings_for(home, **SECRETS), body_timeout_s=0.1)
    async with lifespan(door):
        sent: list[Any] = []

        async def receive() -> Any:
            await asyncio.sleep(1)
            return {"type": "http.request", "body": b"{", "more_body": True}

        async def send(message: Any) -> None:
            sent.append(message)

        headers = [(b"host", b"localhost"), (b"x-telegram-bot-api-secret-token", TELEGRAM.encode())]
        scope = {
            "type": "http", "method": "POST", "path": "/webhooks/telegram", "raw_path": b"/webhooks/telegram",
            "headers": headers, "query_string": b"", "client": ("127.0.0.1", 1), "http_version": "1.1", "root_path": "",
        }  # fmt: skip
        await door(scope, receive, send)
        assert sent[0]["status"] == 408


# ------------------------------------------------------------------------------------- once, accountably


async def test_each_refused_delivery_is_counted_and_none_writes_a_task(home: Path, store: Store) -> None:
    async with api(home, **SECRETS) as client:
        for _ in range(30):
            assert (await github(client, b"{}", x_hub_signature_256="sha256=" + "0" * 64)).status_code == 401
        await client.post("/webhooks/telegram", json={})
        await client.post("/webhooks/xcode/wrong", json={}, headers={"X-Forwarded-For": "9.9.9.9"})
        assert "kircerta_refused_deliveries 32.0" in (await client.get("/metrics")).text
    store.refresh()
    rejected = [event.data for event in store.events() if event.type == "webhook_rejected"]
    assert {data["route"]: data["count"] for data in rejected} == {
        "/webhooks/github": 30,
        "/webhooks/telegram": 1,
        "/webhooks/xcode/{secret}": 1,
    }
    assert {data["address"] for data in rejected} == {"127.0.0.1"}
    assert not store.view.entries


async def test_ten_at_once_make_one_task_on_any_replica(home: Path, store: Store) -> None:
    async with api(home, **SECRETS) as one, api(home, **SECRETS) as other:
        answers = await asyncio.gather(*(github((one, other)[n % 2], builders.issue_payload()) for n in range(10)))
        assert sorted(answer.status_code for answer in answers) == [200] * 9 + [202]
        assert {answer.json()["task_id"] for answer in answers} == {"gh-octo-org_hello.world-7"}
    store.refresh()
    assert event_types(store) == ["task_created"] + ["webhook_duplicate"] * 9


async def test_a_delivery_is_known_after_a_restart_with_and_without_a_checkpoint(home: Path, store: Store) -> None:
    async with api(home, **SECRETS) as client:
        assert told(await github(client, builders.issue_payload()))[:2] == (202, False)
    for checkpointed in (False, True):
        if checkpointed:
            store.refresh()
            store.save_checkpoint()
        async with api(home, **SECRETS) as client:
            assert told(await github(client, builders.issue_payload())) == (
                200, True, "gh-octo-org_hello.world-7", "duplicate",
            )  # fmt: skip


async def test_ten_replays_leave_every_task_file_as_it_is(home: Path, store: Store) -> None:
    async with api(home, **SECRETS) as client:

        async def everything() -> list[int]:
            answers = [
                await github(client, builders.issue_payload()),
                await client.post(XCODE_URL, json=builders.build_payload()),
                await telegram(client, builders.update_payload()),
                await telegram(client, builders.update_payload("Better.", 2, kind="edited_message")),
                await github(client, {"action": "created"}, "d-2", "star"),
            ]
            return [answer.status_code for answer in answers]

        assert await everything() == [202] * 5
        before = {path.name: path.read_bytes() for path in (home / "ssot" / "tasks").glob("*.json")}
        for _ in range(10):
            assert await everything() == [200] * 5
    assert {path.name: path.read_bytes() for path in (home / "ssot" / "tasks").glob("*.json")} == before
    assert replay.check(home).ok
    types = event_types(store)
    assert (types.count("webhook_duplicate"), types.count("telegram_dedup_hit")) == (30, 20)


async def test_an_outcome_is_one_event_that_carries_its_delivery(home: Path, store: Store) -> None:
    async with api(home, **SECRETS) as client:
        await github(client, builders.issue_payload(), "guid-1")
    store.refresh()
    (event,) = store.events()
    assert (event.type, event.data["delivery_id"], event.actor) == ("task_created", "guid-1", "github")


# ----------------------------------------------------------------------------------------------- github


async def test_an_issue_becomes_a_task_with_its_checklist_as_criteria(home: Path, store: Store) -> None:
    body = "Please:\n- [ ] greet\n  1. [x] by name\n* [ ] fast\n\n```\n- [ ] no\n```\n    - [ ] neither\n"
    async with api(home, **SECRETS) as client:
        answer = await github(client, builders.issue_payload(body))
        assert told(answer) == (202, False, "gh-octo-org_hello.world-7", "created")
    store.refresh()
    task = store.task("gh-octo-org_hello.world-7")
    assert (task.source, task.title, task.request_text, task.status) == ("github", "Greet people", body, "pending")
    assert [one.text for one in task.acceptance_criteria] == ["greet", "by name", "fast"]
    assert (task.origin["repository"], task.origin["number"]) == ("Octo-Org/Hello.World", 7)
    assert task.origin["url"] == "https://github.com/Octo-Org/Hello.World/issues/7"


async def test_without_a_checklist_the_title_is_the_criterion(home: Path, store: Store) -> None:
    async with api(home, **SECRETS) as client:
        for number, body in enumerate(("", None, "- just a list"), 1):
            await github(client, builders.issue_payload(body, number=number), f"d-{number}")
    store.refresh()
    for entry in store.view.entries:
        assert [one.text for one in store.task(entry).acceptance_criteria] == ["Greet people"]


async def test_only_a_newer_version_refreshes_and_only_before_the_dispatch(home: Path, store: Store) -> None:
    task_id = "gh-octo-org_hello.world-7"
    long = "x" * 40_000
    async with api(home, **SECRETS) as client:
        steps = [
            (long, "2026-01-31T09:00:00Z", "created"),
            ("same moment", "2026-01-31T09:00:00Z", "out_of_order"),
            ("older", "2026-01-31T08:59:59Z", "out_of_order"),
            ("same moment elsewhere", "2026-01-31T10:00:00+01:00", "out_of_order"),
            ("untold", None, "out_of_order"),
            ("newer\n- [ ] one", "2026-01-31T09:00:01Z", "refreshed"),
        ]
        for number, (body, at, effect) in enumerate(steps):
            answer = await github(client, builders.issue_payload(body, at, action="edited"), f"d-{number}")
            assert told(answer) == (202, False, task_id, effect)
        store.refresh()
        task = store.task(task_id)
        assert (task.request_text, task.revision) == ("newer\n- [ ] one", 2)
        dispatched(store, task_id=task_id)
        answer = await github(client, builders.issue_payload("late", "2026-02-01T00:00:00Z"), "d-late")
        assert told(answer) == (202, False, task_id, "ignored")
    store.refresh()
    assert last(store).type == "webhook_ignored"
    assert store.task(task_id).request_text == task.request_text
    assert replay.check(home).ok


async def test_a_long_name_is_cut_and_stays_unique(home: Path) -> None:
    name = "Org/" + "r" * 200
    async with api(home, **SECRETS) as client:
        answer = await github(client, builders.issue_payload(repository=name))
    whole = f"gh-org_{'r' * 200}-7"
    assert answer.json()["task_id"] == f"{whole[:111]}-{hashlib.sha256(whole.encode()).hexdigest()[:16]}"
    assert len(answer.json()["task_id"]) == 128


async def test_two_repositories_with_one_id_do_not_meet(home: Path, store: Store) -> None:
    async with api(home, **SECRETS) as client:
        await github(client, builders.issue_payload(repository="a_b/c"), "d-1")
        answer = await github(client, builders.issue_payload("x", "2027-01-01T00:00:00Z", repository="a/b_c"), "d-2")
        assert told(answer) == (202, False, "gh-a_b_c-7", "ignored")
    store.refresh()
    assert last(store).data["reason"] == "another_task"


@pytest.mark.parametrize(
    ("body", "command"),
    [
        ("/dispatch", "dispatch"), ("/approve\r\nthanks", "approve"), ("/reject too slow", "reject"),
        ("/rejected", None), ("please /approve", None),
        ("hi\n/approve", None), (" /approve", None), (None, None), ("", None),
    ],
)  # fmt: skip
async def test_a_command_in_a_comment_is_recorded_and_not_obeyed(
    home: Path, store: Store, body: str | None, command: str | None
) -> None:
    async with api(home, **SECRETS) as client:
        await github(client, builders.issue_payload(), "d-1")
        store.refresh()
        before = store.document("gh-octo-org_hello.world-7")
        comment = {**builders.issue_payload(), "action": "created", "comment": {"body": body}}
        answer = await github(client, comment, "d-2", "issue_comment")
        assert told(answer)[3] == ("recorded" if command else "ignored")
    store.refresh()
    assert store.document("gh-octo-org_hello.world-7") == before
    assert last(store).type == ("command_recorded" if command else "webhook_ignored")
    assert last(store).data.get("command") == command


@pytest.mark.parametrize(("action", "effect"), [("edited", "recorded"), ("deleted", "ignored")])
async def test_a_command_that_was_edited_into_a_comment_is_recorded_too_and_one_taken_back_is_not(
    home: Path, store: Store, action: str, effect: str
) -> None:
    async with api(home, **SECRETS) as client:
        comment = {**builders.issue_payload(), "action": action, "comment": {"body": "/approve"}}
        assert told(await github(client, comment, "d-2", "issue_comment"))[3] == effect
    store.refresh()
    assert last(store).data["delivery_kind"] == f"issue_comment.{action}"


async def test_a_ping_is_answered_with_pong(home: Path) -> None:
    async with api(home, **SECRETS) as client:
        answer = await github(client, {"zen": "Keep it simple."}, event="ping")
        assert (answer.status_code, answer.json()) == (200, {"pong": True})


@needs_data
async def test_every_real_payload_gets_its_documented_answer(home: Path, store: Store) -> None:
    paths = sorted((DATA / "01_github_webhooks").glob("*/*.json"))
    made = set()
    async with api(home, **SECRETS) as client:
        for path in paths:
            event = path.name.split(".")[0]
            payload = orjson.loads(path.read_bytes())
            answer = await github(client, path.read_bytes(), path.name[:200], event)
            if event == "ping":
                assert (answer.status_code, answer.json()) == (200, {"pong": True})
                continue
            assert answer.status_code in (200, 202), (path.name, answer.text)
            if event == "issues" and payload.get("action") in ("opened", "edited", "labeled"):
                made.add(answer.json()["task_id"])
                assert answer.json()["effect"] in ("created", "refreshed", "out_of_order"), path.name
            elif answer.status_code == 202:
                assert answer.json()["effect"] in ("ignored", "recorded"), path.name
    store.refresh()
    assert set(store.view.entries) == made
    assert made
    assert len(list(store.events())) == len(paths) > 150


# ------------------------------------------------------------------------------------------------ xcode


async def test_the_secret_may_stand_in_the_query_or_in_the_path(home: Path, store: Store) -> None:
    async with api(home, **{**SECRETS, "xcode_secret": SecretStr("plain")}) as client:
        assert (await client.post("/webhooks/xcode/plain", json=builders.build_payload())).status_code == 202
        assert (await client.post("/webhooks/xcode?token=plain", json=builders.build_payload())).status_code == 200
        for path in ("", "/", "/plain2", "?token=plain&token=plain", "?token=", "/wrong?token=plain", "?x=plain"):
            answer = await client.post(f"/webhooks/xcode{path}", json=builders.build_payload())
            assert answer.status_code in (401, 404), path
    assert b"plain" not in (home / "audit" / "events.jsonl").read_bytes()


async def test_a_secret_with_a_plus_is_encoded_and_one_with_a_slash_has_no_place_in_the_path(home: Path) -> None:
    async with api(home, **{**SECRETS, "xcode_secret": SecretStr("a+b/c")}) as client:
        answers = {
            address: (await client.post(f"/webhooks/xcode{address}", json=builders.build_payload())).status_code
            for address in ("?token=a%2Bb%2Fc", "?token=a%2Bb/c", "?token=a+b/c", "/a%2Bb%2Fc", "/a+b/c")
        }
    assert list(answers.values()) == [202, 200, 401, 404, 404]
    other = home / "other"
    other.mkdir()
    async with api(other, **{**SECRETS, "xcode_secret": SecretStr("a+b")}) as client:
        answer = await client.post("/webhooks/xcode/a%2Bb", json=builders.build_payload())
    assert answer.status_code == 202


async def test_the_secret_is_struck_out_of_a_payload_that_tells_it(home: Path, store: Store) -> None:
    told_url = f"https://kircerta.example{XCODE_URL}"
    payload = {**builders.build_payload(), "webhook": {"url": told_url, XCODE: [XCODE]}}
    async with api(home, **SECRETS) as client:
        assert (await client.post(XCODE_URL, json=payload)).status_code == 202
        assert (await client.get("/metrics")).text.count(quote(XCODE)) == 0
    everything = b"".join(path.read_bytes() for path in home.rglob("*") if path.is_file())
    for form in (XCODE, quote(XCODE, safe=""), XCODE.encode("ascii", "backslashreplace").decode()):
        assert form.encode() not in everything


async def test_the_task_of_a_build_holds_its_payload_as_received(home: Path, store: Store) -> None:
    payload = builders.build_payload("COMPLETE", "SUCCEEDED", run_id="0AB1-cd")
    async with api(home, **SECRETS) as client:
        answer = await client.post(XCODE_URL, json=payload)
        assert answer.json()["event_id"] == "0AB1-cd:BUILD_COMPLETED:COMPLETE:SUCCEEDED"
        assert told(answer) == (202, False, "xcode-0ab1-cd", "created")
        again = builders.build_payload("COMPLETE", "SUCCEEDED", run_id="0ab1-CD")
        assert (await client.post(XCODE_URL, json=again)).status_code == 200
    store.refresh()
    task = store.task("xcode-0ab1-cd")
    assert task.build is not None
    assert (task.build.progress, task.build.status, task.build.number) == ("COMPLETE", "SUCCEEDED", 12)
    assert task.build.payload == payload
    assert (task.source, task.origin["build_run_id"]) == ("xcode", "0AB1-cd")
    assert task.created_at == "2026-01-30T17:00:00.123456Z"


@needs_data
async def test_a_build_never_goes_backwards_whatever_the_order(home: Path, store: Store) -> None:
    folder = DATA / "04_xcode_cloud" / "derived"
    names = ("build_created.pending", "build_started.running", "build_completed.failed")
    states = [orjson.loads((folder / f"{name}.pull_request.json").read_bytes()) for name in names]
    async with api(home, **SECRETS) as client:
        for number, order in enumerate(permutations(range(3))):
            highest = -1
            for at in order:
                payload = {**states[at], "ciBuildRun": {**states[at]["ciBuildRun"], "id": f"RUN-{number}"}}
                answer = await client.post(XCODE_URL, json=payload)
                expected = "created" if highest < 0 else "build_updated" if at > highest else "out_of_order"
                assert told(answer) == (202, False, f"xcode-run-{number}", expected)
                highest = max(highest, at)
            store.refresh()
            build = store.task(f"xcode-run-{number}").build
            assert build is not None
            assert (build.progress, build.status) == ("COMPLETE", "FAILED")
            assert build.payload["ciBuildRun"]["attributes"] == states[2]["ciBuildRun"]["attributes"]
    events = [event for event in store.events() if event.type == "out_of_order_ignored"]
    assert len(events) == 7, "one for each older state that came after a newer one"
    assert replay.check(home).ok


async def test_values_that_are_not_known_yet_are_taken_as_they_come(home: Path, store: Store) -> None:
    async with api(home, **SECRETS) as client:
        steps = [
            ("QUEUED", None, "created"),
            ("COMPLETE", "EXPLODED", "build_updated"),
            ("PAUSED", None, "out_of_order"),
        ]
        for progress, status, effect in steps:
            answer = await client.post(XCODE_URL, json=builders.build_payload(progress, status, "SOMETHING"))
            assert told(answer)[3] == effect
        bare = {"ciBuildRun": {"id": "x"}}
        answer = await client.post(XCODE_URL, json=bare)
        assert (answer.status_code, answer.json()["event_id"]) == (202, "x:-:-:-")
        for payload in ({}, {"ciBuildRun": {"id": "../x"}}, {"ciBuildRun": {"id": 7}}, [], {"ciBuildRun": {"id": ""}}):
            assert (await client.post(XCODE_URL, json=payload)).status_code == 400, payload


async def test_a_payload_is_nested_so_deep_that_its_task_can_still_be_read(home: Path, store: Store) -> None:
    def nested(levels: int) -> dict[str, Any]:
        more: Any = 1
        for _ in range(levels - 1):
            more = [more]
        return {**builders.build_payload(), "more": more}

    async with api(home, **SECRETS) as client:
        assert (await client.post(XCODE_URL, json=nested(63))).status_code == 400
        assert (await client.post(XCODE_URL, json=nested(62))).status_code == 202
    parse_document((home / "ssot" / "tasks" / "xcode-0ab1-cd.json").read_bytes())


async def test_a_large_payload_is_kept_whole(home: Path, store: Store) -> None:
    payload = {**builders.build_payload(), "more": ["x" * 70_000, "y" * 200_000]}
    async with api(home, **SECRETS) as client:
        assert (await client.post(XCODE_URL, json=payload)).status_code == 202
        shown = (await client.get("/api/tasks/xcode-0ab1-cd")).json()
    assert shown["build"]["payload"] == payload
    assert replay.check(home).ok


# --------------------------------------------------------------------------------------------- telegram


async def test_a_message_becomes_a_task_once(home: Path, store: Store) -> None:
    async with api(home, **SECRETS) as client:
        answers = [await telegram(client, builders.update_payload("Greet.", n)) for n in (1, 1, 2)]
        assert [told(answer) for answer in answers] == [
            (202, False, "tg-n1001-5", "created"), (200, True, "tg-n1001-5", "duplicate"),
            (200, True, "tg-n1001-5", "duplicate"),
        ]  # fmt: skip
        shown = (await client.get("/api/tasks/tg-n1001-5")).json()
    assert event_types(store) == ["task_created", "telegram_dedup_hit", "telegram_dedup_hit"]
    expected = {"source": "telegram", "chat_id": -1001, "message_id": 5, "request_text": "Greet.", "status": "pending"}
    assert expected.items() <= shown.items()
    assert shown["created_at"] == "2026-02-02T02:40:00.000000Z"
    assert shown["correlation_id"]


async def test_an_update_id_that_comes_again_with_another_message_loses_nothing(home: Path) -> None:
    async with api(home, **SECRETS) as client:
        for message_id in (5, 6):
            answer = await telegram(client, builders.update_payload("x", 1, message_id=message_id))
            assert told(answer) == (202, False, f"tg-n1001-{message_id}", "created")


async def test_an_edit_refreshes_before_the_dispatch_and_never_goes_back(home: Path, store: Store) -> None:
    def edit(text: str, update_id: int, at: int, **more: Any) -> dict[str, Any]:
        return builders.update_payload(text, update_id, kind="edited_message", edit_date=1_770_000_000 + at, **more)

    async with api(home, **SECRETS) as client:
        assert told(await telegram(client, edit("unknown", 1, 1, message_id=99)))[3] == "ignored"
        await telegram(client, builders.update_payload("one", 2))
        steps = [("two", 3, 2, "refreshed"), ("2", 4, 2, "refreshed"), ("old", 5, 1, "out_of_order")]
        for text, update_id, at, effect in steps:
            assert told(await telegram(client, edit(text, update_id, at)))[3] == effect
        assert told(await telegram(client, edit("2", 4, 2)))[:2] == (200, True)
        store.refresh()
        task = store.task("tg-n1001-5")
        assert (task.request_text, task.title, task.chat_id) == ("2", "2", -1001)
        dispatched(store, task_id="tg-n1001-5")
        assert told(await telegram(client, edit("late", 9, 9)))[3] == "ignored"
    assert replay.check(home).ok


@needs_data
async def test_every_real_update_is_answered(home: Path) -> None:
    async with api(home, **SECRETS) as client:
        for path in sorted((DATA / "05_telegram_updates").glob("*.json")):
            payload = orjson.loads(path.read_bytes())
            answer = await telegram(client, payload)
            if isinstance(payload, dict) and isinstance(payload.get("update_id"), int):
                assert answer.status_code in (200, 202), (path.name, answer.text)
                message = payload.get("message") or payload.get("channel_post") or {}
                made = bool(message.get("text") or message.get("caption"))
                assert (answer.json()["effect"] in ("created", "duplicate")) == made, path.name
            else:
                assert answer.status_code == 400, path.name


async def test_the_samples_that_come_along_are_taken(home: Path) -> None:
    folder = Path(__file__).parents[2] / "examples" / "webhooks"
    async with api(home, **SECRETS) as client:
        answers = [
            await github(client, (folder / "github.issues.opened.json").read_bytes()),
            await client.post(XCODE_URL, json=orjson.loads((folder / "xcode.build_completed.json").read_bytes())),
            await telegram(client, orjson.loads((folder / "telegram.message.json").read_bytes())),
        ]
    assert [told(answer)[2:] for answer in answers] == [
        ("gh-example_greeter-42", "created"),
        ("xcode-5b0d3f52-7a34-4f53-9c2e-1f0a6f3f7a11", "created"),
        ("tg-4242-10", "created"),
    ]


async def test_a_task_made_by_hand_under_a_senders_id_is_left_alone(home: Path, store: Store) -> None:
    by_hand(store, "tg-n1001-5")
    by_hand(store, "GH-octo-org_hello.world-7")
    async with api(home, **SECRETS) as client:
        assert told(await telegram(client, builders.update_payload()))[3] == "ignored"
        assert told(await github(client, builders.issue_payload()))[3] == "ignored"
    store.refresh()
    reasons = [event.data["reason"] for event in store.events() if event.type == "webhook_ignored"]
    assert reasons == ["another_task", "case_clash"]


def test_the_oldest_deliveries_are_forgotten_first() -> None:
    known = View()
    for number in range(MAX_DELIVERIES + 3):
        known.remember_delivery(number.to_bytes(16, "big"), number)
    assert len(known.deliveries) == MAX_DELIVERIES
    assert next(iter(known.deliveries.values())) == 3


# ---------------------------------------------------------------------------------------------- hostile


@needs_data
async def test_no_hostile_json_is_a_500_or_makes_a_task(home: Path, store: Store) -> None:
    async with api(home, **SECRETS) as client:
        for number, path in enumerate(sorted((DATA / "09_adversarial" / "json_test_suite" / "parsing").iterdir())):
            raw = path.read_bytes()
            for body in (raw, b'{"update_id": 1, "message": ' + raw + b"}"):
                answers = [
                    await github(client, body, f"d-{number}-{len(body)}"),
                    await client.post(XCODE_URL, content=body, headers={"content-type": "application/json"}),
                    await client.post(
                        "/webhooks/telegram", content=body, headers={**TOKEN, "content-type": "application/json"}
                    ),
                ]
                codes = [answer.status_code for answer in answers]
                assert set(codes) <= {200, 202, 400}, path.name
    store.refresh()
    assert not store.view.entries


@needs_data
async def test_naughty_texts_go_through_unharmed(home: Path, store: Store) -> None:
    naughty = [text for text in json.loads((DATA / "09_adversarial" / "naughty_strings.json").read_bytes()) if text]
    async with api(home, **SECRETS) as client:
        for number, text in enumerate(naughty, 1):
            answer = await github(client, builders.issue_payload(text, number=number, title=text), f"d-{number}")
            assert answer.status_code == 202, text
            answer = await telegram(client, builders.update_payload(text, number, message_id=number))
            assert answer.status_code == 202, text
    store.refresh()
    assert replay.check(home).ok


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def swapped(payload: Any, path: list[str], value: Any) -> Any:
    """A payload with one value replaced."""
    if not path:
        return value
    return {**payload, path[0]: swapped(payload.get(path[0], {}), path[1:], value)}


PLACES = {
    "github": ["issue", "issue.title", "issue.body", "issue.number", "issue.labels", "issue.updated_at", "repository",
               "issue.created_at", "repository.full_name", "issue.user", "action"],
    "xcode": ["ciBuildRun", "ciBuildRun.id", "ciBuildRun.attributes", "metadata", "ciProduct", "ciWorkflow.attributes",
              "ciBuildRun.attributes.executionProgress", "ciBuildRun.attributes.number",
              "metadata.attributes.eventType",
              "ciBuildRun.attributes.createdDate"],
    "telegram": ["update_id", "message", "message.chat", "message.chat.id", "message.message_id", "message.text",
                 "message.date", "message.from", "message.caption"],
}  # fmt: skip


READERS: dict[str, Callable[[Any], Delivery]] = {
    "github": lambda payload: github_reader.read("issues", "d-1", payload),
    "xcode": xcode_reader.read,
    "telegram": telegram_reader.read,
}


@pytest.mark.parametrize("sender", list(PLACES))
@given(data=st.data())
@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
def test_whatever_stands_in_a_place_it_is_taken_or_refused(store: Store, sender: str, data: Any) -> None:
    place, value = data.draw(st.sampled_from(PLACES[sender])), data.draw(JSON)
    whole = {"github": builders.issue_payload, "xcode": builders.build_payload, "telegram": builders.update_payload}
    payload = swapped(whole[sender](), place.split("."), value)
    try:
        delivery = READERS[sender](payload)
    except BadPayload:
        return
    store.deliver(delivery)
    if delivery.task_id in store.view.entries:
        parse_document(store.document(delivery.task_id) or b"")


# ----------------------------------------------------------------------------------------------- floods


async def test_a_burst_of_good_deliveries_is_never_refused(home: Path, store: Store) -> None:
    async with api(home, **SECRETS) as client:
        answers = await asyncio.gather(
            *(github(client, builders.issue_payload(number=n), f"d-{n}") for n in range(1, 201))
        )
        assert {answer.status_code for answer in answers} == {202}


async def test_a_right_signature_goes_through_from_an_address_that_floods(home: Path) -> None:
    door = create_app(settings_for(home, **SECRETS))
    async with lifespan(door), client_of(door) as client:
        wrong = {"x_hub_signature_256": "sha256=" + "0" * 64}
        await asyncio.gather(*(github(client, b"{}", f"w-{n}", **wrong) for n in range(40)))
        flood = [asyncio.create_task(github(client, b"{}" * 1000, f"w-{n}", **wrong)) for n in range(50)]
        good = await github(client, builders.issue_payload())
        assert good.status_code == 202
        assert {answer.status_code for answer in await asyncio.gather(*flood)} == {401}


async def test_a_spent_budget_serves_one_at_a_time_and_recovers() -> None:
    now = 0.0
    budget = FailureBudget(lambda: now)
    await asyncio.gather(*(budget.failed("a") for _ in range(30)))
    assert budget.is_spent("a")
    assert not budget.is_spent("b")
    at_once = most = 0

    async def served() -> None:
        nonlocal at_once, most
        async with budget.turn("a"):
            at_once += 1
            most = max(most, at_once)
            await asyncio.sleep(0.001)
            at_once -= 1

    await asyncio.gather(*(served() for _ in range(10)))
    assert most == 1
    now += 60
    assert not budget.is_spent("a")
    for number in range(budgets.MAX_ADDRESSES + 10):
        await budget.failed(str(number))
    assert len(budget._accounts) == budgets.MAX_ADDRESSES
