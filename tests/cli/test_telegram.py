"""`kircerta telegram poll` where something is missing; the poller itself is tried in tests/flows."""

from __future__ import annotations

import pytest

from tests.cli.conftest import Run


def test_without_a_token_or_a_secret_it_says_which(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = run("telegram", "poll")
    assert (ran.code, "KIRCERTA_TELEGRAM_TOKEN" in ran.err) == (2, True)
    monkeypatch.setenv("KIRCERTA_TELEGRAM_TOKEN", "123:abc")
    ran = run("telegram", "poll")
    assert (ran.code, "KIRCERTA_TELEGRAM_SECRET" in ran.err) == (2, True)
    assert "123:abc" not in ran.out + ran.err
