"""Whether a load run can be carried out here: the API answers, serves this workspace, and lets the run in."""

from __future__ import annotations

import hmac
import http.client
from contextlib import closing, suppress
from typing import Any, Final
from urllib.parse import urlsplit

import orjson

from audit.event import Event
from flows.load.plan import Plan
from ssot.settings import Settings
from ssot.tokens import make_token

PRINCIPAL: Final = "load-decider"
_TIMEOUT_S: Final = 5.0
_SPARE_S: Final = 3600.0


class NotHere(Exception):
    """The run cannot be carried out here; the message says what is missing."""


def token_for(settings: Settings, duration_s: float) -> str:
    """The token that the run decides with: the given one, or one made with the workspace's key; empty without both."""
    if settings.token is not None:
        return settings.token.get_secret_value()
    if settings.jwt_secret is None:
        return ""
    return make_token(settings.jwt_secret.get_secret_value(), PRINCIPAL, ["approver", "viewer"], duration_s + _SPARE_S)


def check(plan: Plan, token: str) -> None:
    """Look before anything is written. Raises NotHere."""
    status, _ = _asked(plan.base_url, "GET", "/healthz")
    if status != 200:
        answer = "nobody answers" if status == 0 else f"/healthz answers {status}"
        raise NotHere(f"{answer} at {plan.base_url}: start `kircerta up`, or give --base-url")
    if plan.deciders:
        _check_decider(plan.base_url, token)
    if plan.flooders:
        _check_flood(plan.base_url)


def _check_decider(base_url: str, token: str) -> None:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    status, body = _asked(base_url, "POST", "/api/tasks/load-nobody/approve", headers)
    if status == 404:  # let in, and there is no such task
        return
    raise NotHere(
        f"decisions are not taken at {base_url} ({status} {_code(body)}): set KIRCERTA_TOKEN to one with the role "
        "approver, or run where the workspace's key is at hand (KIRCERTA_JWT_SECRET)"
    )


def _check_flood(base_url: str) -> None:
    wrong = hmac.new(b"not the secret", b"{}", "sha256").hexdigest()
    headers = {"Content-Type": "application/json", "X-Hub-Signature-256": f"sha256={wrong}"}
    headers |= {"X-GitHub-Event": "ping", "X-GitHub-Delivery": "load-probe"}
    status, body = _asked(base_url, "POST", "/webhooks/github", headers, b"{}")
    if status == 401:
        return
    if status == 503:
        raise NotHere(
            f"the API at {base_url} has no KIRCERTA_GITHUB_SECRET ({_code(body)}): every delivery is refused before "
            "its signature is looked at, so there is no flood to measure. Set it and start the API again"
        )
    raise NotHere(f"a delivery with a bad signature got {status} {_code(body)} from {base_url}: 401 is expected")


def check_workspace(plan: Plan, settings: Settings, token: str, event: Event) -> None:
    """The API must show an event that was just logged here. Raises NotHere."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    status, body = _asked(plan.base_url, "GET", f"/api/audit?after={event.seq - 1}&limit=1", headers)
    found: Any = None
    with suppress(ValueError, KeyError, IndexError, TypeError):
        found = orjson.loads(body)["events"][0]["id"]
    if found != event.id:
        raise NotHere(
            f"the API at {plan.base_url} does not serve the workspace {settings.home} ({status}): "
            "set KIRCERTA_HOME to the one that it serves, or give the --base-url of this one's API"
        )


def _asked(
    base_url: str, method: str, path: str, headers: dict[str, str] | None = None, body: bytes | None = None
) -> tuple[int, bytes]:
    """Status and body of an answer; 0 where there is none."""
    parts = urlsplit(base_url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=_TIMEOUT_S)
    with closing(connection), suppress(OSError, http.client.HTTPException):
        connection.request(method, path, body=body, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    return 0, b""


def _code(body: bytes) -> str:
    with suppress(ValueError, KeyError, TypeError):
        return str(orjson.loads(body)["code"])[:100]
    return "no code"
