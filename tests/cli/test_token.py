"""`kircerta token`."""

from __future__ import annotations

import pytest

from api.auth import check_token
from cli.failures import WrongUse
from cli.token import seconds
from tests.cli.conftest import Run

SECRET = "0123456789abcdef" * 3


def test_a_token_is_printed_and_nothing_else(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIRCERTA_JWT_SECRET", SECRET)
    ran = run("token", "--sub", "alice", "--role", "approver", "--role", "viewer")
    assert (ran.code, ran.err) == (0, "")
    principal = check_token(SECRET, ran.out.removesuffix("\n"))
    assert (principal.name, principal.roles) == ("alice", frozenset({"approver", "viewer"}))
    assert SECRET not in ran.out


def test_without_a_key_the_way_to_one_is_told(run: Run) -> None:
    ran = run("token", "--sub", "alice", "--role", "approver")
    assert ran.code == 2
    assert "kircerta up" in ran.err


@pytest.mark.parametrize(
    "more", [("--sub", "Alice"), ("--role", "king"), ("--ttl", "8"), ("--ttl", "0h"), ("--ttl", "900d")]
)
def test_what_no_token_can_say_is_refused(more: tuple[str, str], run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIRCERTA_JWT_SECRET", SECRET)
    ran = run("token", "--sub", "alice", "--role", "viewer", *more)
    assert (ran.code, ran.out) == (2, "")


def test_durations_are_numbers_with_a_unit() -> None:
    assert [seconds(text) for text in ("90s", "15m", "8h", "7d")] == [90, 900, 28_800, 604_800]
    with pytest.raises(WrongUse):
        seconds("8 hours")
