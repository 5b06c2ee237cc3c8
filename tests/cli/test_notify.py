"""`kircerta notify`: targets, tests of them, and no URL anywhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from audit.reader import read_events
from tests.cli.conftest import Run
from tests.flows.chatserver import Chat

FILE = '[target.team]\nurl_env = "CHAT_URL"\nkinds = ["alert"]\n[target.console]\nurl = "log://"\n'


def configure(home: Path, text: str = FILE) -> None:
    (home / "config").mkdir()
    (home / "config" / "notifications.toml").write_text(text)


def test_without_a_file_nobody_is_told_and_there_is_nothing_to_test(run: Run) -> None:
    assert "nobody is told anything" in run("notify", "list").out
    assert run("notify", "test").code == 2


def test_targets_are_listed_with_what_is_missing(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configure(home)
    ran = run("notify", "list")
    assert ran.code == 1
    assert "the environment variable CHAT_URL is not set" in ran.out
    monkeypatch.setenv("CHAT_URL", "json://robot:sesame@127.0.0.1:1/x")
    ran = run("notify", "list", "--json")
    assert (ran.code, "sesame" in ran.out) == (0, False)
    team = ran.json["targets"][0]
    assert (team["source"], team["kinds"], team["projects"], team["last"]) == ("$CHAT_URL", ["alert"], [], None)


def test_a_test_goes_out_and_is_logged_and_a_dry_run_is_neither(
    run: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(home)
    with Chat().open() as chat:
        monkeypatch.setenv("CHAT_URL", chat.url)
        ran = run("notify", "test", "team", "--dry-run")
        assert (ran.code, chat.asked) == (0, 0)
        assert "team: would be told: kircerta: a test" in ran.out
        assert not (home / "audit").exists()
        ran = run("notify", "test", "team")
        assert (ran.code, ran.out.strip(), chat.titles) == (0, "team: sent", ["kircerta: a test"])
        chat.status = 500
        ran = run("notify", "test", "team", "--json")
        assert (ran.code, json.loads(ran.out)["targets"][0]["problem"]) == (1, "the service did not take it")
        assert run("notify", "list").out.count("failed (the service did not take it)") == 1
    told = [(event.type, event.data["kind"], event.data["target"]) for event in read_events(home / "audit")]
    assert told == [("notification_sent", "test", "team"), ("notification_failed", "test", "team")]
    assert b"sesame" not in (home / "audit" / "events.jsonl").read_bytes()


def test_an_unknown_target_and_a_broken_file_are_named(run: Run, home: Path) -> None:
    configure(home)
    ran = run("notify", "test", "nobody")
    assert (ran.code, "team, console" in ran.err) == (2, True)
    (home / "config" / "notifications.toml").write_text("[target.team]\n")
    ran = run("notify", "list")
    assert (ran.code, "config/notifications.toml: target.team: exactly one" in ran.err) == (1, True)
