"""The dashboard's cookie: who gets one, what it looks like, and what it does not allow."""

from __future__ import annotations

import time
from http.cookies import SimpleCookie
from typing import Any

import httpx
import jwt
import pytest

from api.app import create_app
from api.auth import make_token
from audit.reader import read_events
from ssot.store import Store
from tests.api import scene
from tests.api.scene import SECRET, TASK_ID, at_stage

ORIGIN = {"Origin": "http://localhost"}


def api(store: Store, **more: Any) -> Any:
    return scene.api(store.home, store, **more)


def token(*roles: str, sub: str = "alice", ttl_s: float = 3600, now: float | None = None) -> str:
    return make_token(SECRET, sub, roles or ("approver",), ttl_s, now)


def cookie(value: str) -> dict[str, str]:
    return {"Cookie": f"kircerta_session={value}"}


async def sign_in(client: httpx.AsyncClient, value: str, **headers: str) -> httpx.Response:
    return await client.post("/session", json={"token": value}, headers={**ORIGIN, **headers})


def set_cookie(answer: httpx.Response) -> Any:
    found = SimpleCookie(answer.headers["set-cookie"])
    return found["kircerta_session"]


async def test_a_token_becomes_a_cookie_that_scripts_and_other_sites_cannot_use(store: Store) -> None:
    async with api(store) as client:
        answer = await sign_in(client, given := token("approver", "viewer"))
        assert answer.status_code == 200
        assert {name: answer.json()[name] for name in ("sub", "roles")} == {
            "sub": "alice",
            "roles": ["approver", "viewer"],
        }
        found = set_cookie(answer)
        assert found.value == given
        assert (found["httponly"], found["samesite"], found["path"]) == (True, "Strict", "/")
        assert 3590 <= int(found["max-age"]) <= 3600
        assert not found["secure"]
        assert not found["domain"]
        assert given not in answer.text
        assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("scheme", ["https", "forwarded"])
async def test_over_tls_the_cookie_is_secure(store: Store, scheme: str) -> None:
    async with api(store) as client:
        if scheme == "https":
            client.base_url = "https://localhost"
        more = {"X-Forwarded-Proto": "https"} if scheme == "forwarded" else {}
        answer = await sign_in(client, token(), Origin="https://localhost", **more)
        assert set_cookie(answer)["secure"] is True


@pytest.mark.parametrize(
    ("given", "status", "code"),
    [
        ("no token", 401, "unauthenticated"),
        (make_token("another secret of at least 32 bytes", "alice", ["approver"], 60), 401, "unauthenticated"),
        (token(now=time.time() - 7200), 401, "unauthenticated"),
        ("", 422, "invalid_body"),
    ],
)
async def test_what_is_no_token_signs_nobody_in(store: Store, given: str, status: int, code: str) -> None:
    async with api(store) as client:
        answer = await sign_in(client, given)
        assert (answer.status_code, answer.json()["code"]) == (status, code)
        assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "null"},
        {"Origin": "http://evil.example"},
        {"Origin": "http://localhost:9999"},
        {"Origin": "http://localhost.evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", **ORIGIN},
        {"Sec-Fetch-Site": "none", **ORIGIN},
    ],
)
async def test_another_origin_changes_nothing_with_the_cookie(store: Store, headers: dict[str, str]) -> None:
    at_stage(store, "needs_review")
    async with api(store) as client:
        paths = [("POST", "/session"), ("DELETE", "/session"), ("POST", f"/api/tasks/{TASK_ID}/approve")]
        for method, path in paths:
            body = {"json": {"token": token()}} if path == "/session" and method == "POST" else {}
            answer = await client.request(method, path, headers={**headers, **cookie(token())}, **body)  # type: ignore[arg-type]
            assert (answer.status_code, answer.json()["code"]) == (403, "cross_origin"), (method, path)
            assert "set-cookie" not in answer.headers
    assert store.task(TASK_ID).status == "needs_review"


@pytest.mark.parametrize("headers", [ORIGIN, {"Sec-Fetch-Site": "same-origin"}, {"Origin": "http://localhost:80"}])
async def test_the_own_page_decides_with_the_cookie(store: Store, headers: dict[str, str]) -> None:
    at_stage(store, "needs_review")
    async with api(store) as client:
        answer = await client.post(f"/api/tasks/{TASK_ID}/approve", headers={**headers, **cookie(token())})
        assert answer.status_code == 200
        assert answer.json()["attempts"][-1]["decision"]["by"] == "alice"


async def test_a_bearer_token_needs_no_origin_and_goes_before_the_cookie(store: Store) -> None:
    at_stage(store, "needs_review")
    async with api(store) as client:
        path = f"/api/tasks/{TASK_ID}/approve"
        answer = await client.post(path, headers={"Authorization": "Bearer x.y.z", **cookie(token()), **ORIGIN})
        assert answer.status_code == 401
        answer = await client.post(path, headers={**scene.bearer("bob", "approver"), **cookie(token())})
        assert answer.json()["attempts"][-1]["decision"]["by"] == "bob"


async def test_the_cookie_reads_where_reads_need_a_token(store: Store) -> None:
    async with api(store, read_auth=True) as client:
        assert (await client.get("/api/tasks")).status_code == 401
        assert (await client.get("/api/tasks", headers=cookie(token("viewer")))).status_code == 200
        for bad in ("x", token(now=time.time() - 7200), f"{token()}; kircerta_session={token(sub='bob')}"):
            assert (await client.get("/api/tasks", headers=cookie(bad))).status_code == 401


async def test_the_role_is_asked_of_the_cookie_too(store: Store) -> None:
    at_stage(store, "needs_review")
    async with api(store) as client:
        headers = {**ORIGIN, **cookie(token("viewer"))}
        answer = await client.post(f"/api/tasks/{TASK_ID}/approve", headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


async def test_who_is_signed_in_is_told_without_a_refusal(store: Store) -> None:
    async with api(store) as client:
        nobody = {"sub": None, "roles": [], "exp": None, "configured": True}
        answer = await client.get("/session")
        assert (answer.status_code, answer.json()) == (200, nobody)
        assert "set-cookie" not in answer.headers
        told = (await client.get("/session", headers=cookie(token()))).json()
        assert (told["sub"], told["roles"]) == ("alice", ["approver"])
        assert told["exp"].endswith("Z")
        answer = await client.get("/session", headers=cookie(token(now=time.time() - 7200)))
        assert answer.json() == nobody
        assert set_cookie(answer)["max-age"] == "0"
    assert [event.type for event in read_events(store.audit_folder)] == []


async def test_signing_out_clears_the_cookie(store: Store) -> None:
    async with api(store) as client:
        answer = await client.delete("/session", headers={**ORIGIN, **cookie(token())})
        assert answer.json()["sub"] is None
        found = set_cookie(answer)
        assert (found.value, found["max-age"], found["path"], found["httponly"]) == ("", "0", "/", True)


async def test_without_a_key_nobody_signs_in(store: Store) -> None:
    door = create_app(scene.settings_for(store.home).model_copy(update={"jwt_secret": None}), store)
    async with scene.lifespan(door), scene.client_of(door) as client:
        answer = await sign_in(client, token())
        assert (answer.status_code, answer.json()["code"]) == (503, "not_configured")
        assert (await client.get("/session", headers=cookie(token()))).json()["configured"] is False


async def test_a_foreign_host_gets_no_page_and_no_session(store: Store) -> None:
    async with api(store) as client:
        for path in ("/", "/static/main.js", "/session"):
            answer = await client.get(path, headers={"Host": "rebound.example"})
            assert (answer.status_code, answer.json()["code"]) == (421, "misdirected")


async def test_a_token_that_fits_no_cookie_is_refused(store: Store) -> None:
    claims = jwt.decode(token(), SECRET, algorithms=["HS256"], audience="kircerta")
    large = jwt.encode({**claims, "roles": ["viewer"] * 400}, SECRET, algorithm="HS256")
    async with api(store) as client:
        answer = await sign_in(client, large)
        assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


async def test_pages_hold_nothing_foreign_and_run_no_inline_script(store: Store) -> None:
    async with api(store) as client:
        page = await client.get("/")
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "require-trusted-types-for 'script'" in policy
        assert "unsafe" not in policy
        assert "http" not in page.text.replace('charset="utf-8"', "")
        for line in page.text.splitlines():
            if "<script" in line:
                assert line.endswith('.js"></script>')
        again = await client.get("/", headers={"If-None-Match": page.headers["etag"]})
        assert again.status_code == 304
