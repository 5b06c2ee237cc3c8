"""What each event looks like in the log, for good: a form that changes gets a number, the old one keeps its reader."""

from __future__ import annotations

from pathlib import Path

import pytest

from audit.event import KINDS, decode
from audit.verify import verify
from ssot import replay
from tests.ssot.scenario import everything

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    home = tmp_path_factory.mktemp("everything")
    found = everything(home)
    assert verify(home / "audit").problem is None
    assert replay.check(home).problem is None
    return found


def test_every_type_of_the_catalogue_happens(lines: dict[str, bytes]) -> None:
    assert set(lines) == set(KINDS)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_line_of_each_type_stays_as_it_is(kind: str, lines: dict[str, bytes]) -> None:
    assert lines[kind] + b"\n" == (GOLDEN / f"event-{kind}.json").read_bytes()


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_each_line_is_a_cloud_event(kind: str, lines: dict[str, bytes]) -> None:
    event = decode(lines[kind])
    assert lines[kind].startswith(b'{"specversion":"1.0","id":"')
    assert b'"datacontenttype":"application/json"' in lines[kind]
    assert event.source == "kircerta/test"
    assert KINDS[kind].changes_task == ("document_sha256" in event.data)
    without = (
        "projects_changed",
        "redelivery_requested",
        "run_started",
        "run_finished",
        "run_removed",
        "auth_denied",
        "alert",
        "log_recovered",
        "webhook_ignored",
        "webhook_duplicate",
        "webhook_rejected",
    )
    assert kind in without or event.subject is not None
