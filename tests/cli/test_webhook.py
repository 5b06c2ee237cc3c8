"""`kircerta webhook`, and what doctor says of endpoints, kept deliveries and the projects file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from audit.event import Event
from audit.files import StorageFailed
from audit.reader import read_events
from flows.turn import only_one
from ssot.inbox import Inbox
from ssot.ingest.parcel import Parcel
from ssot.store import Store
from tests import builders
from tests.cli.conftest import Ran, Run
from tests.flows.githubserver import TOKEN, GitHubServer, github_server

GH = "gh-octo-org_hello.world-7"
HOOK = "octo-org/hello.world/12"
HOOK_PATH = "/repos/octo-org/hello.world/hooks/12"


def a_parcel(delivery_id: str = "d-1", number: int = 7) -> Parcel:
    headers = {"x-github-event": "issues", "x-github-delivery": delivery_id}
    return Parcel("github", orjson.dumps(builders.issue_payload(number=number)), headers)


def keep(home: Path, parcel: Parcel) -> str:
    kept, delivery = parcel.opened()
    Inbox(home).keep(kept, delivery, StorageFailed("the log could not be written"))
    return delivery.key


@pytest.fixture
def delivered(home: Path) -> Path:
    """A workspace with an issue that came twice, a chat message, and an event that nobody follows."""
    store = Store.open(home, source="kircerta/tests")
    for parcel in (
        a_parcel(),
        a_parcel(),
        Parcel("telegram", orjson.dumps(builders.update_payload())),
        Parcel("github", b"{}", {"x-github-event": "star", "x-github-delivery": "d-star"}),
    ):
        store.deliver(parcel.opened()[1])
    store.close()
    return home


def effects(ran: Ran) -> list[tuple[str, str]]:
    return [(one["delivery_id"], one["effect"]) for one in ran.json["deliveries"]]


def test_list_tells_what_became_of_each_delivery(run: Run, delivered: Path) -> None:
    ran = run("webhook", "list", "--json")
    assert effects(ran) == [("d-1", "created"), ("d-1", "duplicate"), ("1", "created"), ("d-star", "ignored")]
    first = ran.json["deliveries"][0]
    assert (first["seq"], first["sender"], first["kind"], first["task_id"]) == (1, "github", "issues.opened", GH)
    assert first["time"].endswith("Z")
    assert ran.json["kept"] == []
    assert effects(run("webhook", "list", "--limit", "2", "--json")) == [("1", "created"), ("d-star", "ignored")]
    assert effects(run("webhook", "list", "--sender", "telegram", "--json")) == [("1", "created")]
    assert GH in run("webhook", "list").out


def test_an_empty_workspace_has_no_deliveries_and_stays_empty(run: Run, home: Path) -> None:
    assert "no deliveries yet" in run("webhook", "list").out
    assert "no delivery is kept" in run("webhook", "list", "--failed").out
    assert run("webhook", "replay", "--all").code == 0
    assert list(home.iterdir()) == []


def test_kept_deliveries_are_listed_apart_with_the_reason(run: Run, delivered: Path) -> None:
    keep(delivered, a_parcel("d-2", 8))
    ran = run("webhook", "list", "--failed", "--json")
    assert ran.json["deliveries"] == []
    (one,) = ran.json["kept"]
    assert (one["delivery_id"], one["effect"], one["seq"]) == ("d-2", "waiting", None)
    assert "could not be written" in one["error"]
    shown = run("webhook", "list").out
    assert "could not be written" in shown
    assert "replay" in shown


def test_show_gives_every_event_of_a_delivery(run: Run, delivered: Path) -> None:
    ran = run("webhook", "show", "d-1", "--json")
    assert [one["type"] for one in ran.json["events"]] == ["task_created", "webhook_duplicate"]
    key = ran.json["events"][0]["data"]["delivery_key"]
    assert run("webhook", "show", key, "--json").json == ran.json
    assert "created" in run("webhook", "show", "d-1").out


def test_show_gives_the_body_of_a_kept_delivery(run: Run, home: Path) -> None:
    key = keep(home, a_parcel())
    for name in ("d-1", key):
        kept = run("webhook", "show", name, "--json").json["kept"]
        assert (kept["state"], orjson.loads(kept["delivery"]["body"])) == ("waiting", builders.issue_payload())
    assert "x-github-event: issues" in run("webhook", "show", "d-1").out


def test_replay_brings_one_or_all_to_their_effect(run: Run, home: Path) -> None:
    for number in (1, 2, 3):
        keep(home, a_parcel(f"d-{number}", number))
    one = run("webhook", "replay", "d-2", "--json")
    assert (one.code, one.json["ok"]) == (0, True)
    assert [(row["delivery_id"], row["came"], row["effect"]) for row in one.json["replayed"]] == [
        ("d-2", "delivered", "created")
    ]
    assert "d-3" in run("webhook", "replay", "--all").out
    assert run("webhook", "list", "--failed", "--json").json["kept"] == []
    assert sorted(event.data["delivery_id"] for event in builders.events(home)) == ["d-1", "d-2", "d-3"]


def test_replaying_what_the_log_knows_takes_nothing_twice(run: Run, delivered: Path) -> None:
    before = len(builders.events(delivered))
    keep(delivered, a_parcel())
    ran = run("webhook", "replay", "d-1", "--json")
    assert (ran.code, ran.json["replayed"][0]["came"]) == (0, "known")
    assert len(builders.events(delivered)) == before


def test_what_is_not_kept_cannot_be_replayed_and_the_line_says_where_it_is(run: Run, delivered: Path) -> None:
    ran = run("webhook", "replay", "d-1")
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert "seq 1" in ran.err
    assert GH in ran.err
    for name in ("replay", "show"):
        assert run("webhook", name, "d-unknown").code == 1


def test_a_replay_that_fails_exits_1_and_keeps_the_delivery(run: Run, home: Path) -> None:
    key = keep(home, a_parcel())
    path = home / ".kircerta/inbox" / f"{key}.json"
    path.write_bytes(orjson.dumps({**orjson.loads(path.read_bytes()), "body": "[]"}))
    ran = run("webhook", "replay", "--all", "--json")
    assert (ran.code, ran.json["ok"], ran.json["replayed"][0]["came"]) == (1, False, "failed")
    assert run("webhook", "list", "--failed", "--json").json["kept"][0]["effect"] == "failed"


@pytest.mark.parametrize(
    "arguments", [("replay",), ("replay", "d-1", "--all"), ("list", "--sender", "gitlab"), ("show",)]
)
def test_wrong_use_is_one_line_and_exit_code_2(run: Run, arguments: tuple[str, ...]) -> None:
    ran = run("webhook", *arguments)
    assert (ran.code, ran.err.count("\n")) == (2, 1)


# ------------------------------------------------------------------------------------------------ doctor


def findings(run: Run) -> tuple[int, dict[str, dict[str, Any]]]:
    ran = run("doctor", "--json")
    return ran.code, {finding["check"]: finding for finding in ran.json["findings"]}


def test_doctor_names_the_endpoints_that_are_open_and_no_secret(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "none is configured" in findings(run)[1]["webhooks"]["what"]
    monkeypatch.setenv("KIRCERTA_GITHUB_SECRET", "hush-hush")
    monkeypatch.setenv("KIRCERTA_XCODE_SECRET", " , ")
    told = findings(run)[1]["webhooks"]
    assert told["what"] == "configured: github"
    assert "hush" not in run("doctor").out


def test_doctor_lists_kept_deliveries_and_what_was_given_up_is_a_failure(run: Run, home: Path) -> None:
    key = keep(home, a_parcel())
    code, found = findings(run)
    assert (code, found["delivery"]["level"]) == (0, "warn")
    path = home / ".kircerta/inbox" / f"{key}.json"
    path.write_bytes(orjson.dumps({**orjson.loads(path.read_bytes()), "body": "[]"}))
    run("webhook", "replay", "--all")
    code, found = findings(run)
    assert (code, found["delivery"]["level"]) == (1, "fail")
    assert f"kircerta webhook replay {key}" in found["delivery"]["way_out"]


def test_doctor_says_whether_the_projects_file_can_be_used(run: Run, home: Path) -> None:
    assert "wait for a person" in findings(run)[1]["projects"]["what"]
    path = home / "config" / "projects.toml"
    path.parent.mkdir()
    path.write_text('[project.shop]\n[[project.shop.auto_dispatch]]\nsource = "github"\n')
    assert findings(run)[1]["projects"]["what"].startswith("shop; 1 rule lets tasks")
    path.write_text("[project.shop]\nquorums = 2\n")
    code, found = findings(run)
    assert (code, found["projects"]["level"]) == (1, "fail")
    assert "quorums" in found["projects"]["what"]


@pytest.fixture
def github(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GitHubServer]:
    """A GitHub that the settings name, with one webhook."""
    with github_server() as running:
        running.hooks[HOOK_PATH] = []
        monkeypatch.setenv("KIRCERTA_GITHUB_TOKEN", TOKEN)
        monkeypatch.setenv("KIRCERTA_GITHUB_API", running.url)
        monkeypatch.setenv("KIRCERTA_GITHUB_HOOKS", HOOK)
        yield running


def test_backfill_asks_for_what_failed_and_says_what_became_of_each(
    run: Run, delivered: Path, github: GitHubServer
) -> None:
    for delivery_id, status in (("d-1", 502), ("d-lost", 504), ("d-fine", 200)):
        github.attempt(HOOK_PATH, delivery_id, status)
    ran = run("webhook", "backfill", "--json")
    assert (ran.code, ran.json["outcome"], ran.json["ok"], github.redelivered) == (0, "Asked", True, ["d-lost"])
    assert [(one["delivery_id"], one["fate"]) for one in ran.json["failed"]] == [("d-1", "known"), ("d-lost", "asked")]
    assert ran.json["failed"][1] | {"attempt": 0, "delivered_at": ""} == {
        "hook": HOOK, "delivery_id": "d-lost", "event": "issues.opened", "attempt": 0, "delivered_at": "",
        "status_code": 504, "tries": 1, "fate": "asked", "detail": "",
    }  # fmt: skip
    assert [one.data["guid"] for one in events_of(delivered, "redelivery_requested")] == ["d-lost"]
    again = run("webhook", "backfill")
    assert (again.code, "nothing failed" in again.out.lower(), github.redelivered) == (0, False, ["d-lost"])
    assert "d-1" in again.out
    assert TOKEN not in ran.out + ran.err + again.out + again.err


def test_backfill_looks_no_further_than_it_is_asked_to(run: Run, github: GitHubServer) -> None:
    github.attempt(HOOK_PATH, "d-old", 502, age_s=7200)
    github.attempt(HOOK_PATH, "d-often", 502)
    github.attempt(HOOK_PATH, "d-often", 502)
    ran = run("webhook", "backfill", HOOK, "--hours", "1", "--most-tries", "2", "--json")
    assert (ran.code, ran.json["outcome"]) == (1, "SomeLeft")
    assert [(one["delivery_id"], one["fate"]) for one in ran.json["failed"]] == [("d-often", "given up")]
    ran = run("webhook", "backfill", HOOK, "--hours", "1", "--most-tries", "2", "--again")
    assert (ran.code, github.redelivered) == (0, ["d-often"])
    assert run("webhook", "backfill", "--hours", "1", "--limit", "0").code == 2


def test_backfill_with_nothing_to_ask_for_says_so(run: Run, github: GitHubServer) -> None:
    assert run("webhook", "backfill").out == "NothingFailed: 0 deliveries failed\n"


@pytest.mark.parametrize(
    ("change", "code", "told"),
    [
        ({"KIRCERTA_GITHUB_TOKEN": ""}, 2, "KIRCERTA_GITHUB_TOKEN"),
        ({"KIRCERTA_GITHUB_HOOKS": ""}, 2, "KIRCERTA_GITHUB_HOOKS"),
        ({"KIRCERTA_GITHUB_HOOKS": "octo-org"}, 2, "owner/repo/ID"),
        ({"KIRCERTA_GITHUB_API": "nowhere"}, 2, "KIRCERTA_GITHUB_API"),
        ({"KIRCERTA_GITHUB_TOKEN": "wrong"}, 1, "KIRCERTA_GITHUB_TOKEN"),
        ({"KIRCERTA_GITHUB_HOOKS": "octo-org/other/1"}, 1, "octo-org/other/1"),
    ],
)
def test_backfill_says_what_keeps_it_from_asking(
    run: Run, github: GitHubServer, monkeypatch: pytest.MonkeyPatch, change: dict[str, str], code: int, told: str
) -> None:
    for name, value in change.items():
        monkeypatch.setenv(name, value)
    ran = run("webhook", "backfill")
    assert (ran.code, told in ran.err, ran.err.count("\n")) == (code, True, 1), ran.err


def test_backfill_waits_for_nobody_who_asks_with_the_same_token(run: Run, home: Path, github: GitHubServer) -> None:
    with only_one(home, "github", TOKEN):
        ran = run("webhook", "backfill")
    assert (ran.code, "one is enough" in ran.err, github.asked) == (1, True, [])


def events_of(home: Path, kind: str) -> list[Event]:
    return [event for event in read_events(home / "audit") if event.type == kind]
