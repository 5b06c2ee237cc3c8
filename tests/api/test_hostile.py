"""Bodies made to break parsers, bodies that never end, and everything that the description allows."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any
from unittest import SkipTest

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS
from starlette.requests import Request

from api.bodies import BodyLimits, idempotency_key, parse_body, read_body
from api.messages import RejectBody
from api.problems import Problem
from ssot.store import Store
from ssot.task import Invalid
from tests.api.running import server
from tests.api.scene import api, at_stage, bearer, post

SUITE = Path(__file__).parents[3] / "shared" / "data" / "09_adversarial" / "json_test_suite" / "parsing"


@pytest.mark.skipif(not SUITE.exists(), reason="the shared data is not there")
async def test_no_hostile_json_is_taken_or_breaks_anything(home: Path, store: Store) -> None:
    at_stage(store, "needs_review")
    before = store.last_seq()
    async with api(home) as client:
        for path in sorted(SUITE.iterdir()):
            raw = path.read_bytes()
            for body in (raw, b'{"reason": "x", "more": ' + raw + b"}", b'{"reason": ' + raw + b', "more": 1}'):
                answer = await post(client, "reject", body)
                assert (answer.status_code, answer.json()["code"]) == (422, "invalid_body"), path.name
    store.refresh()
    assert store.last_seq() == before, "nothing was written"


@given(raw=st.binary(max_size=200) | st.text(alphabet='{}[]":,0123456789eE+-.\\uNan ', max_size=200).map(str.encode))
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_no_bytes_make_a_parser_fail_otherwise(raw: bytes) -> None:

    with pytest.raises(Invalid):
        parse_body(RejectBody, raw)


async def test_a_body_that_comes_too_slowly_is_a_408() -> None:
    async def receive() -> Any:
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b"x", "more_body": True}

    scope = {"type": "http", "method": "POST", "path": "/", "headers": [], "query_string": b""}
    begun = time.monotonic()
    with pytest.raises(Problem) as raised:
        await read_body(Request(scope, receive), BodyLimits(10**6, timeout_s=0.2))
    assert (raised.value.code, raised.value.headers) == ("body_timeout", {"Connection": "close"})
    assert time.monotonic() - begun < 1


async def test_a_client_that_goes_away_is_not_waited_for() -> None:
    async def receive() -> Any:
        return {"type": "http.disconnect"}

    scope = {"type": "http", "method": "POST", "path": "/", "headers": [], "query_string": b""}
    with pytest.raises(Problem, match="went away"):
        await read_body(Request(scope, receive), BodyLimits(10**6))


def test_keys_of_principals_and_routes_never_meet() -> None:
    def key(principal: str, path: str, value: bytes) -> str:
        headers = [(b"idempotency-key", value), (b"host", b"localhost")]
        scope = {"type": "http", "method": "POST", "path": path, "headers": headers, "query_string": b""}
        found = idempotency_key(Request(scope), principal, b"")
        assert found is not None
        return found.key

    assert len({key(p, r, v) for p in ("a", "b") for r in ("/x", "/y") for v in (b"1", b"2")}) == 8


@pytest.mark.slow
def test_everything_that_the_description_allows_is_answered_as_it_says(home: Path, store: Store) -> None:
    """Schemathesis makes the requests, right ones and wrong ones; no answer may be a surprise."""
    at_stage(store, "needs_review")
    store.close()
    # A message that fits its schema may still be refused (422): the rules judge what it says.
    named = [CHECKS.get_one(name) for name in CHECKS.get_all_names() if name not in _NOT_OURS]
    with server(home, **_WEBHOOKS) as (_, port):
        schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{port}/openapi.json").exclude(
            path_regex="events|session"
        )
        tried = 0
        headers = {**bearer("root", "admin"), "X-Telegram-Bot-Api-Secret-Token": "t"}

        for result, mode in product(schema.get_all_operations(), GenerationMode):
            operation = result.ok()

            @given(case=operation.as_strategy(generation_mode=mode))
            @settings(max_examples=15, deadline=None, database=None, suppress_health_check=list(HealthCheck))
            def tried_out(case: schemathesis.Case) -> None:
                nonlocal tried
                tried += 1
                case.call_and_validate(headers=headers, checks=named)

            with suppress(Unsatisfiable, SkipTest):  # nothing can be wrong about a route without parameters
                tried_out()
    assert tried > 200


_WEBHOOKS = {f"KIRCERTA_{name}_SECRET": name[0].lower() for name in ("GITHUB", "XCODE", "TELEGRAM")}
_NOT_OURS = frozenset({"positive_data_acceptance"})
