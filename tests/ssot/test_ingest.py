"""Deliveries at the store: one commit each, whatever else is going on with the task."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import pytest

from ssot import replay
from ssot.ingest import github, telegram, xcode
from ssot.ingest.delivery import BadPayload
from ssot.ingest.payload import moment
from ssot.rules import build_rank
from ssot.task import Build
from tests import builders
from tests.builders import a_store

GH = "gh-octo-org_hello.world-7"


def test_an_edit_by_hand_is_taken_over_before_a_newer_version_comes(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    store.deliver(github.read("issues", "d-1", builders.issue_payload()))
    path = builders.task_path(tmp_path, GH)
    path.write_bytes(path.read_bytes().replace(b'"scope": []', b'"scope": ["src/**"]'))
    newer = builders.issue_payload("- [ ] quicker", "2026-02-01T00:00:00Z", action="edited")
    assert store.deliver(github.read("issues", "d-2", newer)).effect == "refreshed"
    task = store.task(GH)
    assert (task.scope, task.acceptance_criteria[0].text) == (("src/**",), "quicker")
    assert builders.types(tmp_path) == ["task_created", "task_adopted", "task_refreshed"]
    assert replay.check(tmp_path).ok


def test_a_held_file_does_not_keep_deliveries_out(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    store.deliver(xcode.read(builders.build_payload("PENDING")))
    builders.drop(tmp_path, "xcode-0ab1-cd", b"{broken")
    store.scan()
    assert store.deliver(xcode.read(builders.build_payload("RUNNING"))).effect == "build_updated"
    build = store.task("xcode-0ab1-cd").build
    assert build is not None
    assert build.progress == "RUNNING"
    assert builders.task_path(tmp_path, "xcode-0ab1-cd").read_bytes() == b"{broken"


def test_two_stores_recognise_each_others_deliveries(tmp_path: Path) -> None:
    one, other = a_store(tmp_path), a_store(tmp_path)
    update = builders.update_payload("poll", kind="poll_answer")
    assert not one.deliver(telegram.read(update)).duplicate
    again = other.deliver(telegram.read(update))
    assert (again.duplicate, again.event.type, again.event.data["first_seq"]) == (True, "webhook_duplicate", 1)


def test_the_log_alone_gives_the_same_tasks_and_the_same_memory(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    for number in range(5):
        store.deliver(github.read("issues", f"d-{number}", builders.issue_payload(number=number + 1)))
        store.deliver(telegram.read(builders.update_payload("x" * 40_000, number, message_id=number)))
    store.save_checkpoint()
    by_checkpoint = a_store(tmp_path)
    (tmp_path / ".kircerta" / "checkpoint.json").unlink()
    by_log = a_store(tmp_path)
    assert store.view.deliveries == by_checkpoint.view.deliveries == by_log.view.deliveries
    assert len(by_log.view.deliveries) == 10


STATES = [
    Build(progress=progress, status=status, number=1, payload={"metadata": {"attributes": {"eventType": event}}})
    for progress, status, event in [
        ("PENDING", None, "BUILD_CREATED"), ("PENDING", None, "BUILD_STARTED"), ("RUNNING", None, "BUILD_STARTED"),
        ("COMPLETE", None, "BUILD_COMPLETED"), ("COMPLETE", "FAILED", "BUILD_COMPLETED"),
    ]
]  # fmt: skip


def test_states_of_a_build_have_one_order() -> None:
    ranks = [build_rank(build) for build in STATES]
    assert ranks == sorted(set(ranks))
    for order in permutations(ranks):
        highest = order[0]
        for rank in order:
            highest = rank if rank >= highest else highest
        assert highest == ranks[-1]


def test_states_of_a_build_in_all_orders_come_to_the_same(tmp_path: Path) -> None:
    """Every order of all five states: never backwards, each older one told once, each repeat too."""
    store = a_store(tmp_path)
    for number, order in enumerate(permutations(range(len(STATES)))):
        highest = -1
        for at in (*order, order[0]):
            effect = store.deliver(xcode.read(payload_of(STATES[at], f"run-{number}"))).effect
            if highest < 0:
                assert effect == "created"
            elif at == order[0]:
                assert effect == "duplicate"
            else:
                assert effect == ("build_updated" if at > highest else "out_of_order"), order
            highest = max(highest, at)
        build = store.task(f"xcode-run-{number}").build
        assert build is not None
        assert (build.progress, build.status) == ("COMPLETE", "FAILED")
    types = builders.types(tmp_path)
    assert len(types) == 120 * 6
    assert (types.count("task_created"), types.count("webhook_duplicate")) == (120, 120)
    assert replay.check(tmp_path).ok


def payload_of(build: Build, run_id: str) -> dict[str, object]:
    """A delivery that tells of a state."""
    event = build.payload["metadata"]["attributes"]["eventType"]
    return builders.build_payload(build.progress, build.status, event, run_id)


@pytest.mark.parametrize("payload", [None, [], "x", 7, {"update_id": True}, {"update_id": 1, "message": []},
                                     {"update_id": 1, "message": {"chat": {"id": 1.5}, "message_id": 1}},
                                     {"update_id": 1, "message": {"chat": {"id": 1}, "message_id": -1}}])  # fmt: skip
def test_what_is_no_update_is_refused(payload: object) -> None:
    with pytest.raises(BadPayload):
        telegram.read(payload)


@pytest.mark.parametrize(
    ("told", "read"),
    [
        ("2024-05-28T08:24:09.768203493Z", "2024-05-28T08:24:09.768203Z"),
        ("2024-05-28T06:44:42.91Z", "2024-05-28T06:44:42.910000Z"),
        ("2021-06-07T10:00:00.000000-07:00", "2021-06-07T17:00:00.000000Z"),
        ("2021-06-07T10:00:00", None), ("0001-01-01T00:00:00+14:00", None), ("yesterday", None), (7, None),
        ("9999-12-31T23:59:59-14:00", None), ("0512-01-01T00:00:00Z", None),
    ],
)  # fmt: skip
def test_times_of_every_sender_are_read(told: object, read: str | None) -> None:
    assert moment(told) == read
