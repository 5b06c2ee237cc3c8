"""Kept deliveries: private and durable, tried later and later, never taken twice, at last left to a person."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from audit.files import Busy, FileLock, StorageFailed
from ssot import inbox as inboxes
from ssot import replay
from ssot.inbox import TRIES, Inbox, InboxFull, Tries
from ssot.ingest.parcel import Parcel
from ssot.intents import Create
from ssot.store import Store
from tests import builders
from tests.builders import a_store

GH = "gh-octo-org_hello.world-7"
BROKEN = StorageFailed("the log could not be written (No space left on device)", full=True)


def a_parcel(delivery_id: str = "d-1", number: int = 7) -> Parcel:
    headers = {"x-github-event": "issues", "x-github-delivery": delivery_id}
    return Parcel("github", orjson.dumps(builders.issue_payload(number=number)), headers)


def keep(inbox: Inbox, parcel: Parcel) -> str:
    """Keep a parcel; gives its key. It is due at once."""
    kept, delivery = parcel.opened()
    inbox.keep(kept, delivery, BROKEN)
    make_due(inbox, delivery.key)
    return delivery.key


def make_due(inbox: Inbox, key: str) -> None:
    path = inbox.folder / f"{key}.tries"
    path.write_bytes(orjson.dumps({**orjson.loads(path.read_bytes()), "due": 0.0}))


def alarming(inbox: Inbox) -> set[str]:
    return {one.alarm for one in inbox.readings() if one.is_bad}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = a_store(tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def inbox(tmp_path: Path, store: Store) -> Inbox:
    return Inbox(tmp_path)


def test_a_kept_delivery_is_private_and_tells_what_it_needs(inbox: Inbox) -> None:
    key = keep(inbox, a_parcel())
    path = inbox.folder / f"{key}.json"
    assert stat.S_IMODE(inbox.folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(one.stat().st_mode) for one in inbox.folder.iterdir() if one.name != ".lock"} == {0o600}
    told = orjson.loads(path.read_bytes())
    assert told["headers"] == {"x-github-event": "issues", "x-github-delivery": "d-1"}
    assert (told["sender"], told["task_id"], orjson.loads(told["body"])) == ("github", GH, builders.issue_payload())
    assert "No space left" in told["error"]


def test_what_is_due_gets_its_effect_in_one_event_and_leaves_the_inbox(inbox: Inbox, store: Store) -> None:
    keep(inbox, a_parcel())
    (tried,) = inbox.drain(store)
    assert (tried.came, tried.delivered and tried.delivered.effect) == ("delivered", "created")
    assert builders.types(store.home) == ["task_created"]
    assert inbox.standings() == []
    assert [one.name for one in inbox.folder.iterdir()] == [".lock"]
    assert replay.check(store.home).ok


@pytest.mark.parametrize("sender", ["github", "xcode", "telegram"])
def test_every_sender_is_read_again_as_it_was(inbox: Inbox, store: Store, sender: str) -> None:
    parcel = {
        "github": a_parcel(),
        "xcode": Parcel("xcode", orjson.dumps(builders.build_payload("COMPLETE", "FAILED"))),
        "telegram": Parcel("telegram", orjson.dumps(builders.update_payload())),
    }[sender]
    key = keep(inbox, parcel)
    (tried,) = inbox.drain(store)
    assert tried.delivered is not None
    assert (tried.delivered.delivery.key, tried.delivered.effect) == (key, "created")


def test_a_delivery_that_came_again_meanwhile_is_taken_once(inbox: Inbox, store: Store) -> None:
    keep(inbox, a_parcel())
    store.deliver(a_parcel().opened()[1])
    (tried,) = inbox.drain(store)
    assert tried.came == "known"
    assert builders.types(store.home) == ["task_created"]
    assert inbox.standings() == []


def test_a_crash_behind_the_commit_takes_nothing_twice(inbox: Inbox, store: Store) -> None:
    key = keep(inbox, a_parcel())
    raw = (inbox.folder / f"{key}.json").read_bytes()
    inbox.drain(store)
    (inbox.folder / f"{key}.json").write_bytes(raw)  # as if the process had died before it removed the file
    assert [one.came for one in inbox.drain(store)] == ["known"]
    assert builders.types(store.home) == ["task_created"]


def test_keeping_the_same_again_changes_nothing(inbox: Inbox) -> None:
    key = keep(inbox, a_parcel())
    before = (inbox.folder / f"{key}.json").read_bytes()
    keep(inbox, a_parcel())
    assert (inbox.folder / f"{key}.json").read_bytes() == before
    assert len(inbox.standings()) == 1


def test_what_fails_is_tried_later_and_later_and_then_left_to_a_person(inbox: Inbox, tmp_path: Path) -> None:
    key = keep(inbox, a_parcel())
    store = a_store(tmp_path)
    pauses = []
    with FileLock(tmp_path / "audit" / ".lock").hold():  # the workspace is busy
        for _ in range(TRIES - 1):  # keeping it was the first
            (tried,) = inbox.drain(store, timeout_s=0.0)
            tries = inbox.standings()[0].tries
            pauses.append(tries.due - os.stat(inbox.folder / f"{key}.tries").st_mtime)
            make_due(inbox, key)
    assert tried.came == "failed"
    assert [round(pause) for pause in pauses[:4]] == [8, 32, 128, 512]
    assert max(pauses) < inboxes.LONGEST_PAUSE_S + 1
    assert inbox.drain(store) == []
    (standing,) = inbox.standings()
    assert (standing.state, standing.tries.count) == ("failed", TRIES)
    assert "was not free" in standing.why
    assert [one.came for one in inbox.replay(store, [key])] == ["delivered"]
    store.close()


def test_the_first_that_finds_the_workspace_busy_spares_the_others_the_try(inbox: Inbox, store: Store) -> None:
    keys = [keep(inbox, a_parcel(f"d-{number}", number)) for number in (1, 2, 3)]
    with FileLock(store.audit_folder / ".lock").hold():
        tried = inbox.drain(store, timeout_s=0.0)
    assert [one.key for one in tried] == keys[:1]
    assert [one.tries.count for one in inbox.standings()] == [2, 1, 1]


def test_what_no_repetition_mends_is_given_up_at_once_and_alarms(inbox: Inbox, store: Store) -> None:
    kept, delivery = a_parcel().opened()
    inbox.keep(kept, delivery, BROKEN)
    path = inbox.folder / f"{delivery.key}.json"
    broken = {**orjson.loads(path.read_bytes()), "body": '{"action": "opened", "issue": {}}'}
    path.write_bytes(orjson.dumps(broken))
    make_due(inbox, delivery.key)
    assert alarming(inbox) == set()
    assert [one.came for one in inbox.drain(store)] == ["failed"]
    assert alarming(inbox) == {"deliveries_failed"}
    assert [one.came for one in inbox.replay(store, [delivery.key])] == ["failed"]
    assert inbox.standings()[0].state == "failed"


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"\x00" * 64, b'{"version": 2}', b'{"key": "../../x"}'])
def test_a_damaged_file_is_told_left_alone_and_stops_nobody(inbox: Inbox, store: Store, raw: bytes) -> None:
    good = keep(inbox, a_parcel())
    damaged = inbox.folder / f"{'0' * 32}.json"
    damaged.write_bytes(raw)
    assert {one.key: one.came for one in inbox.drain(store)} == {good: "delivered", "0" * 32: "damaged"}
    assert damaged.read_bytes() == raw
    assert [one.state for one in inbox.standings()] == ["damaged"]
    assert inbox.drain(store) == []


def test_a_file_under_another_deliverys_name_is_damaged(inbox: Inbox, store: Store) -> None:
    key = keep(inbox, a_parcel())
    (inbox.folder / f"{key}.json").rename(inbox.folder / f"{'f' * 32}.json")
    assert [one.came for one in inbox.drain(store)] == ["damaged"]
    assert builders.types(store.home) == []


def test_a_full_inbox_keeps_no_more_and_says_the_way_out(inbox: Inbox) -> None:
    keep(inbox, a_parcel())
    for number in range(inboxes.MAX_DELIVERIES - 1):
        (inbox.folder / f"{number:032x}.json").touch()
    with pytest.raises(InboxFull, match="webhook replay --all"):
        keep(inbox, a_parcel("d-2", 2))
    assert alarming(inbox) == {"inbox_full"}


def test_an_inbox_full_of_bytes_keeps_no_more(inbox: Inbox) -> None:
    keep(inbox, a_parcel())
    with (inbox.folder / f"{'0' * 32}.json").open("wb") as large:
        large.truncate(inboxes.MAX_BYTES)
    with pytest.raises(InboxFull):
        keep(inbox, a_parcel("d-2", 2))


def test_two_that_drain_at_once_do_not_meet(inbox: Inbox, store: Store, tmp_path: Path) -> None:
    keep(inbox, a_parcel())
    with FileLock(inbox.folder / ".lock").hold():
        assert Inbox(tmp_path).drain(store) == []
    assert len(inbox.drain(store)) == 1


def test_a_person_who_replays_is_told_when_another_process_is_at_it(tmp_path: Path, inbox: Inbox, store: Store) -> None:
    key = keep(inbox, a_parcel())
    with FileLock(inbox.folder / ".lock").hold(), pytest.raises(Busy):
        Inbox(tmp_path).replay(store, [key], patience_s=0.05)


def test_a_lost_count_of_tries_only_means_an_earlier_try(inbox: Inbox, store: Store) -> None:
    key = keep(inbox, a_parcel())
    for left in (b"", b"[]", b'{"count": "x", "due": []}'):
        (inbox.folder / f"{key}.tries").write_bytes(left)
        assert inbox.standing(key) is not None
    (inbox.folder / f"{key}.tries").unlink()
    assert [one.came for one in inbox.drain(store)] == ["delivered"]


def test_a_delivery_that_grew_old_does_not_move_what_is_newer(inbox: Inbox, store: Store) -> None:
    keep(inbox, a_parcel())
    newer = builders.issue_payload("- [ ] quicker", "2026-02-01T00:00:00Z", action="edited")
    headers = {"x-github-event": "issues", "x-github-delivery": "d-2"}
    store.deliver(Parcel("github", orjson.dumps(newer), headers).opened()[1])
    (tried,) = inbox.drain(store)
    assert tried.delivered is not None
    assert tried.delivered.effect == "out_of_order"
    assert store.task(GH).acceptance_criteria[0].text == "quicker"


def test_a_task_that_stands_in_the_way_is_no_reason_to_keep_on(inbox: Inbox, store: Store) -> None:
    store.commit(GH, Create("mine"), actor="alice")
    keep(inbox, a_parcel())
    (tried,) = inbox.drain(store)
    assert tried.delivered is not None
    assert tried.delivered.effect == "ignored"


def test_pauses_grow_to_an_hour() -> None:
    tries, pauses = Tries(), []
    for _ in range(TRIES):
        tries = tries.after("", 0.0, for_good=False)
        pauses.append(tries.due)
    assert pauses == [2, 8, 32, 128, 512, 2048, 3600, 3600, 3600, 3600]
