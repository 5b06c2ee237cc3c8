"""Tokens of every wrong kind, who may read, and hosts."""

from __future__ import annotations

import json
import time
from base64 import urlsafe_b64encode
from pathlib import Path
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.app import is_loopback
from api.auth import BadToken, check_token, make_token
from api.head import Head, Hosts, name_of
from api.problems import Problem
from ssot.store import Store
from tests.api.scene import AS_APPROVER, SECRET, api, bearer, task

DATA = Path(__file__).parents[3] / "shared" / "data" / "09_adversarial" / "jwt"
NOW = int(time.time())
GOOD: dict[str, Any] = {
    "iss": "kircerta",
    "aud": "kircerta",
    "sub": "alice",
    "roles": ["approver"],
    "iat": NOW,
    "exp": NOW + 86400,
}


def signed(claims: dict[str, Any], secret: str = SECRET, **more: Any) -> str:
    return jwt.encode(claims, secret, **{"algorithm": "HS256", **more})


def raw_token(header: dict[str, Any], claims: Any) -> str:
    """Signed with the right key over whatever header."""
    whole = jwt.api_jws.PyJWS(algorithms=["HS256"])
    return whole.encode(json.dumps(claims).encode(), SECRET, algorithm="HS256", headers=header)


def encoded(value: Any) -> str:
    return urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def test_a_token_that_was_made_is_accepted_with_its_roles() -> None:
    found = check_token(SECRET, make_token(SECRET, "alice", ["approver", "viewer"], 60))
    assert (found.name, found.roles) == ("alice", {"approver", "viewer"})
    assert found.may("approver")
    assert not found.may("executor")


def test_a_delegates_token_says_for_whom_it_acts() -> None:
    found = check_token(SECRET, make_token(SECRET, "bot", ["approver"], 60, on_behalf_of="alice"))
    assert (found.name, found.on_behalf_of) == ("bot", "alice")
    for behalf in ("bot", "policy:shop", ""):
        with pytest.raises(ValueError, match=r"behalf|principal"):
            make_token(SECRET, "bot", ["approver"], 60, on_behalf_of=behalf)


@pytest.mark.parametrize(
    "claims",
    [{"on_behalf_of": "alice"}, {"on_behalf_of": 7}, {"on_behalf_of": None}, {"on_behalf_of": "policy:shop"},
     {"act": {"sub": "bot"}}, {"may_act": {"sub": "bot"}}],
)  # fmt: skip
def test_a_delegation_that_is_not_understood_is_no_token(claims: dict[str, Any]) -> None:
    with pytest.raises(BadToken):
        check_token(SECRET, signed({**GOOD, "sub": "alice", **claims}))


def test_admin_has_every_role() -> None:
    found = check_token(SECRET, make_token(SECRET, "root", ["admin"], 60))
    assert all(found.may(role) for role in ("approver", "executor", "reviewer", "viewer"))


@pytest.mark.parametrize(
    ("sub", "roles", "ttl_s"),
    [("Alice", ["viewer"], 60), ("alice\n", ["viewer"], 60), ("a" * 65, ["viewer"], 60), ("", ["viewer"], 60),
     ("alice", [], 60), ("alice", ["boss"], 60), ("alice", ["viewer"], 0)],
)  # fmt: skip
def test_no_token_is_made_that_would_be_refused(sub: str, roles: list[str], ttl_s: float) -> None:
    with pytest.raises(ValueError, match=r"principal|roles|valid"):
        make_token(SECRET, sub, roles, ttl_s)


WRONG: dict[str, str] = {
    "another key": signed(GOOD, "another secret, which is also long enough"),
    "expired": signed({**GOOD, "iat": NOW - 900, "exp": NOW - 31}),
    "not yet issued": signed({**GOOD, "iat": NOW + 86400}),
    "another issuer": signed({**GOOD, "iss": "other"}),
    "another audience": signed({**GOOD, "aud": "other"}),
    "audience as a list": signed({**GOOD, "aud": ["kircerta"]}),
    "sub in capitals": signed({**GOOD, "sub": "Alice"}),
    "sub with a newline": signed({**GOOD, "sub": "alice\n"}),
    "roles as a string": signed({**GOOD, "roles": "admin"}),
    "an unknown role": signed({**GOOD, "roles": ["approver", "boss"]}),
    "roles of numbers": signed({**GOOD, "roles": [1]}),
    "HS512": signed(GOOD, SECRET * 2, algorithm="HS512"),
    "kid": signed(GOOD, headers={"kid": "../../dev/null"}),
    "jku": signed(GOOD, headers={"jku": "https://example.com/keys"}),
    "jwk": signed(GOOD, headers={"jwk": {"kty": "oct", "k": "AAAA"}}),
    "x5u": signed(GOOD, headers={"x5u": "https://example.com"}),
    "crit": signed(GOOD, headers={"crit": ["exp"]}),
    "typ": signed(GOOD, headers={"typ": "JOSE"}),
    "alg none": f"{encoded({'alg': 'none', 'typ': 'JWT'})}.{encoded(GOOD)}.",
    "alg None with a signature": f"{encoded({'alg': 'None'})}.{encoded(GOOD)}.{'A' * 43}",
    "claims are a list": raw_token({}, [1]),
    "exp as text": raw_token({}, {**GOOD, "exp": str(NOW + 86400)}),
    "exp as true": raw_token({}, {**GOOD, "exp": True}),
    "exp infinite": raw_token({}, {**GOOD, "exp": float("inf")}),
    "exp not a number": raw_token({}, {**GOOD, "exp": float("nan")}),
    "iat as text": raw_token({}, {**GOOD, "iat": "now"}),
    "signature with padding": signed(GOOD) + "=",
    "empty": "",
    "blanks": "   ",
    "one part": "abc",
    "huge": "a." + "b" * 10_000 + "." + "A" * 43,
    "two tokens": signed(GOOD) + "," + signed(GOOD),
    **{f"without {name}": signed({k: v for k, v in GOOD.items() if k != name}) for name in GOOD},
    **{f"{name} null": raw_token({}, {**GOOD, name: None}) for name in GOOD},
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_token_of_a_wrong_kind_is_refused(kind: str) -> None:
    with pytest.raises(BadToken):
        check_token(SECRET, WRONG[kind])


def test_the_leeway_is_thirty_seconds() -> None:
    now = int(time.time())
    assert check_token(SECRET, signed({**GOOD, "exp": now - 20})).name == "alice"
    assert check_token(SECRET, signed({**GOOD, "iat": now + 20})).name == "alice"
    for late in ({"exp": now - 31}, {"iat": now + 40}):
        with pytest.raises(BadToken):
            check_token(SECRET, signed({**GOOD, **late}))


def test_no_other_text_is_the_same_token() -> None:
    """The last character of a signature has two bits that decode to nothing."""
    token = signed(GOOD)
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    for other in alphabet.replace(token[-1], ""):
        with pytest.raises(BadToken):
            check_token(SECRET, token[:-1] + other)


@given(st.text(max_size=300))
def test_no_text_makes_the_check_fail_otherwise(text: str) -> None:
    with pytest.raises(BadToken):
        check_token(SECRET, text)


@pytest.mark.skipif(not DATA.exists(), reason="the shared data is not there")
def test_every_wycheproof_vector_is_refused() -> None:
    vectors = 0
    for name in ("wycheproof_json_web_signature_test.json", "wycheproof_json_web_key_test.json"):
        for group in json.loads((DATA / name).read_text())["testGroups"]:
            for test in group["tests"]:
                token = test.get("jws") or test.get("jwt") or ""
                vectors += 1
                with pytest.raises(BadToken):
                    check_token(SECRET, token if isinstance(token, str) else json.dumps(token))
    assert vectors > 100


@pytest.mark.skipif(not DATA.exists(), reason="the shared data is not there")
def test_tokens_signed_with_well_known_secrets_are_refused() -> None:
    for secret in (DATA / "weak_secrets_sample.txt").read_text().splitlines():
        if len(secret.encode()) >= 32:
            with pytest.raises(BadToken):
                check_token(SECRET, signed(GOOD, secret))


# -------------------------------------------------------------------------------------------- over HTTP


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Basic YTpi"},
        {"Authorization": f"Bearer {WRONG['expired']}"},
        {"Authorization": WRONG["another key"]},
    ],
)
async def test_without_a_valid_token_a_post_is_a_401_that_says_how(
    home: Path, store: Store, headers: dict[str, str]
) -> None:
    task(store)
    async with api(home) as client:
        answer = await client.post("/api/tasks/T-1/reject", headers=headers, content=b"x" * 100)
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
    assert answer.headers["www-authenticate"] == "Bearer"


async def test_two_authorization_headers_are_refused(home: Path, store: Store) -> None:
    task(store)
    headers: Any = [*AS_APPROVER.items(), *AS_APPROVER.items()]
    async with api(home) as client:
        answer = await client.post("/api/tasks/T-1/reject", headers=headers, content=b'{"reason": "no"}')
    assert answer.status_code == 401


READS = ("/api/tasks", "/api/tasks/T-1", "/api/audit", f"/api/blobs/{'0' * 64}", "/readyz", "/metrics")


@pytest.mark.parametrize("path", READS)
async def test_reads_are_open_to_direct_requests_on_loopback_only(home: Path, store: Store, path: str) -> None:
    task(store)
    async with api(home) as client:
        assert (await client.get(path)).status_code in (200, 404)
        for name in ("X-Forwarded-For", "X-Forwarded-Anything", "Forwarded", "Via", "X-Real-IP"):
            assert (await client.get(path, headers={name: "10.0.0.1"})).status_code == 401, name
    async with api(home, read_auth=True) as client:
        assert (await client.get(path)).status_code == 401
        assert (await client.get(path, headers=bearer("v", "viewer"))).status_code in (200, 404)
        assert (await client.get(path, headers=bearer("e", "executor"))).status_code in (200, 404), "any role reads"
    async with api(home, host="192.0.2.7", allowed_hosts=("localhost",)) as client:
        assert (await client.get(path)).status_code == 401


async def test_health_is_open_to_everybody(home: Path, store: Store) -> None:
    async with api(home, read_auth=True) as client:
        answer = await client.get("/healthz", headers={"X-Forwarded-For": "10.0.0.1"})
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


async def test_a_token_without_roles_reads_nothing(home: Path, store: Store) -> None:
    async with api(home, read_auth=True) as client:
        answer = await client.get("/api/tasks", headers={"Authorization": f"Bearer {signed({**GOOD, 'roles': []})}"})
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost", 200), ("LOCALHOST:8000", 200), ("127.0.0.1:1", 200), ("[::1]:8000", 200), ("[::1]", 200),
     ("evil.example", 421), ("localhost.evil.example", 421), ("localhost:80@evil.example", 421), ("", 421),
     ("127.0.0.1.nip.io", 421), ("[::1].evil", 421)],
)  # fmt: skip
async def test_other_hosts_are_not_served(home: Path, store: Store, host: str, status: int) -> None:
    async with api(home) as client:
        for path in ("/api/tasks", "/healthz", "/", "/openapi.json"):
            answer = await client.get(path, headers={"Host": host})
            assert answer.status_code == status, path
            if status == 421:
                assert answer.json()["code"] == "misdirected"


def test_a_missing_or_doubled_host_is_a_bad_request() -> None:
    hosts = Hosts(["localhost"])
    for headers in ([], [(b"host", b"localhost")] * 2):
        with pytest.raises(Problem) as raised:
            hosts.check(Head(headers), "1.1")
        assert raised.value.status == 400
    hosts.check(Head([]), "1.0")


async def test_the_address_it_is_bound_to_is_a_host(home: Path, store: Store) -> None:
    async with api(home, host="192.0.2.7") as client:
        assert (await client.get("/healthz", headers={"Host": "192.0.2.7:8000"})).status_code == 200
    async with api(home, host="0.0.0.0") as client:
        assert (await client.get("/healthz", headers={"Host": "0.0.0.0"})).status_code == 421


def test_names_keep_nothing_of_their_port() -> None:
    assert [name_of(h) for h in (b"a:1", b"a", b"[::1]:1", b"[::1]", b"a:b")] == [
        b"a",
        b"a",
        b"[::1]",
        b"[::1]",
        b"a:b",
    ]


def test_loopback_is_told_from_the_rest() -> None:
    assert [is_loopback(h) for h in ("127.0.0.1", "::1", "localhost", "127.9.9.9")] == [True] * 4
    assert [is_loopback(h) for h in ("0.0.0.0", "::", "10.0.0.1", "example.org")] == [False] * 4
