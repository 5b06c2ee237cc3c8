"""Webhooks: proven deliveries have their effect once, all others none, and the log accounts for each."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import Any, Final

import httpx
import orjson

from flows.accept.ground import Checks, Ground, expect, expect_refusal, told
from flows.playground import end
from ssot.counted import counted

SECRETS: Final = {f"{name}_secret": secrets.token_urlsafe(24) for name in ("github", "xcode", "telegram")}
NOT_SHOWN: Final = ("deliveries from GitHub, Xcode Cloud and Telegram themselves: the payloads have their form only",)
_GITHUB: Final = "gh-acme_shop-7"
_RUN: Final = "5f0c61d2-0000-4000-8000-00000000ACCE"


def checks(on: Ground) -> Checks:
    """Every check of the module, in order: later ones meet what earlier ones left."""
    yield "GitHub: a signed issue becomes a task, its checklist the criteria", lambda: _issue(on)
    yield "GitHub: the same delivery again has no second effect, also after a restart", lambda: _again(on)
    yield "GitHub: a bad signature, no signature and a changed body write no task", lambda: _unsigned(on)
    yield "GitHub: a body that is no JSON and one that is too large are refused", lambda: _malformed(on)
    yield "GitHub: a comment that commands is recorded, not obeyed", lambda: _comment(on)
    yield "Xcode Cloud: a build becomes a task and goes on", lambda: _build(on)
    yield "Xcode Cloud: an older state never replaces a newer one", lambda: _older(on)
    yield "Telegram: a message becomes a task, the same message again does not", lambda: _message(on)
    yield "a wrong secret is refused at every door, and written nowhere", lambda: _wrong_secrets(on)
    yield "every refusal is counted in the log", lambda: _counted(on)


# -------------------------------------------------------------------------------------------- senders


def _github(
    on: Ground, payload: Any, delivery: str, *, kind: str = "issues", signature: str | None = None
) -> httpx.Response:
    raw = payload if isinstance(payload, bytes) else orjson.dumps(payload)
    seal = hmac.new(SECRETS["github_secret"].encode(), raw, hashlib.sha256).hexdigest()
    headers = {
        "Content-Type": "application/json",
        "X-Hub-Signature-256": f"sha256={seal}" if signature is None else signature,
        "X-GitHub-Event": kind,
        "X-GitHub-Delivery": delivery,
    }
    return on.client.post("/webhooks/github", content=raw, headers=headers)


def _issue_payload(number: int = 7, body: str = "- [ ] it adds up\n- [ ] it says so\n") -> dict[str, Any]:
    issue = {
        "number": number,
        "title": "Add up the cart",
        "body": body,
        "html_url": f"https://github.example/acme/shop/issues/{number}",
        "user": {"login": "ann"},
        "labels": [],
        "created_at": "2026-01-30T08:00:00Z",
        "updated_at": "2026-01-31T09:00:00Z",
    }
    return {"action": "opened", "issue": issue, "repository": {"full_name": "Acme/Shop"}, "sender": {"login": "ann"}}


def _xcode(on: Ground, progress: str, status: str | None = None, secret: str | None = None) -> httpx.Response:
    known = {"PENDING": "BUILD_CREATED", "RUNNING": "BUILD_STARTED", "COMPLETE": "BUILD_COMPLETED"}
    attributes = {"number": 12, "createdDate": "2026-01-30T10:00:00Z", "executionProgress": progress}
    payload = {
        "metadata": {"attributes": {"eventType": known[progress]}},
        "ciProduct": {"attributes": {"name": "Shop"}},
        "ciWorkflow": {"attributes": {"name": "Pull Requests"}},
        "ciBuildRun": {"id": _RUN, "attributes": {**attributes, **({"completionStatus": status} if status else {})}},
    }
    token = SECRETS["xcode_secret"] if secret is None else secret
    return on.client.post("/webhooks/xcode", params={"token": token}, json=payload)


def _telegram(on: Ground, update_id: int, secret: str | None = None) -> httpx.Response:
    chat = {"id": -1001, "type": "group"}
    message = {"message_id": 5, "date": 1_770_000_000, "chat": chat, "text": "Add up the cart."}
    token = SECRETS["telegram_secret"] if secret is None else secret
    headers = {"X-Telegram-Bot-Api-Secret-Token": token}
    return on.client.post("/webhooks/telegram", json={"update_id": update_id, "message": message}, headers=headers)


def _taken(answer: httpx.Response, status: int = 202) -> dict[str, Any]:
    expect(answer.status_code == status, f"expected {status}, got {told(answer)}")
    body: dict[str, Any] = answer.json()
    return body


# --------------------------------------------------------------------------------------------- checks


def _issue(on: Ground) -> str:
    body = _taken(_github(on, _issue_payload(), "delivery-1"))
    expect(body["task_id"] == _GITHUB, f"the task is {body['task_id']}, not {_GITHUB}")
    task = orjson.loads(on.document(_GITHUB))
    texts = [one["text"] for one in task["acceptance_criteria"]]
    expect(texts == ["it adds up", "it says so"], f"its criteria are {texts}")
    event = on.event("task_created", _GITHUB)
    return f"seq {event.seq}: task_created {_GITHUB}, two criteria, {task['status']}"


def _again(on: Ground) -> str:
    before, since = on.document(_GITHUB), on.last_seq()
    expect(_taken(_github(on, _issue_payload(), "delivery-1"), 200)["duplicate"] is True, "it was not recognised")
    end(on.playground.api)
    on.playground.start_api()
    on.playground.await_api()
    expect(_taken(_github(on, _issue_payload(), "delivery-1"), 200)["duplicate"] is True, "not after the restart")
    found = on.events("webhook_duplicate", after=since)
    expect(len(found) == 2, f"{len(found)} webhook_duplicate in the log")
    expect(on.document(_GITHUB) == before, "the task was changed by it")
    return f"seq {found[0].seq}, and after a restart seq {found[1].seq}: webhook_duplicate; the task is the same"


def _unsigned(on: Ground) -> str:
    raw, since = orjson.dumps(_issue_payload(8)), on.last_seq()
    other = hmac.new(b"another secret", raw, hashlib.sha256).hexdigest()
    changed = hmac.new(SECRETS["github_secret"].encode(), raw + b" ", hashlib.sha256).hexdigest()
    for number, signature in enumerate((f"sha256={other}", "", f"sha256={changed}")):
        expect_refusal(_github(on, raw, f"forged-{number}", signature=signature), 401, "bad_signature")
    _nothing_came(on, since)
    return f"three deliveries: 401 bad_signature; no task since seq {since}"


def _malformed(on: Ground) -> str:
    since = on.last_seq()
    said = expect_refusal(_github(on, b'{"action": ', "torn"), 400, "bad_payload")
    huge = _github(on, b"x" * (25 * 1024 * 1024 + 1), "huge")
    expect(huge.status_code == 413, f"25 MiB and a byte: {told(huge)}")
    _nothing_came(on, since)
    return f"{said}; 25 MiB and a byte: {told(huge)}; no task since seq {since}"


def _comment(on: Ground) -> str:
    before = on.document(_GITHUB)
    payload = {
        **_issue_payload(),
        "action": "created",
        "comment": {"id": 1, "body": "/approve", "user": {"login": "e"}},
    }
    _taken(_github(on, payload, "delivery-2", kind="issue_comment"))
    event = on.event("command_recorded", _GITHUB)
    expect(on.document(_GITHUB) == before, "the comment changed the task")
    return f"seq {event.seq}: command_recorded; the task is the same"


def _build(on: Ground) -> str:
    task_id = f"xcode-{_RUN.lower()}"
    expect(_taken(_xcode(on, "PENDING"))["task_id"] == task_id, "another task id than the build's")
    _taken(_xcode(on, "COMPLETE", "SUCCEEDED"))
    build = orjson.loads(on.document(task_id))["build"]
    stands = (build["progress"], build["status"])
    expect(stands == ("COMPLETE", "SUCCEEDED"), f"the build stands at {stands}")
    made, went_on = on.event("task_created", task_id), on.event("build_status", task_id)
    return f"seq {made.seq}: task_created {task_id}; seq {went_on.seq}: build_status, COMPLETE, SUCCEEDED"


def _older(on: Ground) -> str:
    before, since = on.document(f"xcode-{_RUN.lower()}"), on.last_seq()
    _taken(_xcode(on, "RUNNING"))
    event = on.event("out_of_order_ignored", after=since)
    expect(on.document(f"xcode-{_RUN.lower()}") == before, "the older state changed the task")
    return f"seq {event.seq}: out_of_order_ignored; COMPLETE stays"


def _message(on: Ground) -> str:
    body = _taken(_telegram(on, 1))
    made, since = on.event("task_created", body["task_id"]), on.last_seq()
    for update_id in (1, 2):
        expect(_taken(_telegram(on, update_id), 200)["duplicate"] is True, f"update {update_id} was not recognised")
    found = on.events("telegram_dedup_hit", after=since)
    expect(len(found) == 2, f"{len(found)} telegram_dedup_hit in the log")
    _nothing_came(on, since)
    return f"seq {made.seq}: task_created {body['task_id']}; seq {found[0].seq}, {found[1].seq}: telegram_dedup_hit"


def _wrong_secrets(on: Ground) -> str:
    since, wrong = on.last_seq(), "not-the-secret-of-this-door"
    expect_refusal(_xcode(on, "PENDING", secret=wrong), 401, "bad_signature")
    expect_refusal(_telegram(on, 9, secret=wrong), 401, "bad_signature")
    _nothing_came(on, since)
    shown = on.client.get("/metrics").content + on.client.get("/api/audit").content
    kept = b"".join(path.read_bytes() for path in on.settings.home.rglob("*") if path.is_file())
    leaks = [name for name, secret in {**SECRETS, "wrong": wrong}.items() if secret.encode() in shown + kept]
    expect(not leaks, f"{', '.join(leaks)} stands in what the server shows or writes")
    return f"Xcode Cloud, Telegram: 401 bad_signature; no secret in any file, page or metric; no task since seq {since}"


def _counted(on: Ground) -> str:
    """What is counted and not yet written is written at shutdown."""
    end(on.playground.api)
    found = on.events("webhook_rejected")
    total = sum(int(one.data["count"]) for one in found)
    expect(total == _REFUSED, f"{_REFUSED} deliveries were refused, the log has {total}")
    return (
        f"{counted(total, 'refusal')} in {len(found)} webhook_rejected: seq {', '.join(str(one.seq) for one in found)}"
    )


_REFUSED: Final = 7
"""Three without a proof, two malformed, two with a wrong secret."""


def _nothing_came(on: Ground, since: int) -> None:
    made = [one.subject for one in on.events("task_created", after=since)]
    expect(not made, f"{', '.join(str(one) for one in made)} was made of it")
