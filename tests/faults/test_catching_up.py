"""Reading much of the log at once: files that are ahead of what was read save work, and never mislead."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from ssot import intents
from ssot.store import Store
from tests.faults import world


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A workspace with a checkpoint early in its history, and tasks at all sorts of stages since."""
    store = Store.open(tmp_path, source="kircerta/test")
    world.walk_to(store, "T-1", "dispatched")
    world.walk_to(store, "T-2", "needs_review")
    store.save_checkpoint()
    store.commit("T-1", intents.SendAck(world.ack_of(store.task("T-1"))), actor="executor")
    store.commit("T-1", intents.SendHeartbeat("d-T-1", "working"), actor="executor")
    store.commit("T-2", intents.Approve("fine"), actor="alice")
    world.walk_to(store, "T-3", "acknowledged")
    store.commit("T-3", intents.SendHeartbeat("d-T-3", "working"), actor="executor")
    store.commit("T-3", intents.SendResult(world.result_of(store.task("T-3"))), actor="executor")
    for number in range(4, 9):
        world.walk_to(store, f"T-{number}", "needs_review")
    store.close()
    return tmp_path


def seen(home: Path) -> tuple[dict[str, object], dict[str, object]]:
    """What a new process sees before it looks at the files."""
    store = Store(home, source="kircerta/test")
    store._load()
    found: dict[str, object] = {task_id: (entry.digest, entry.summary) for task_id, entry in store.view.entries.items()}
    return found, dict(store.view.opened)


def without_files(home: Path) -> tuple[dict[str, object], dict[str, object]]:
    """The same from the log alone."""
    (home / "ssot" / "tasks").rename(home / "aside")
    (home / ".kircerta" / "checkpoint.json").rename(home / "aside.json")
    try:
        return seen(home)
    finally:
        (home / "ssot" / "tasks").rmdir()
        (home / "aside").rename(home / "ssot" / "tasks")
        (home / "aside.json").rename(home / ".kircerta" / "checkpoint.json")


@pytest.mark.parametrize("checkpoint", [True, False])
def test_with_and_without_files_that_are_ahead_the_view_is_the_same(home: Path, checkpoint: bool) -> None:
    expected = without_files(home)
    if not checkpoint:
        (home / ".kircerta" / "checkpoint.json").unlink()
    assert seen(home) == expected
    assert expected[1]["T-1"].signs.last_heartbeat_event > 0  # type: ignore[attr-defined]
    assert expected[1]["T-3"].signs.last_heartbeat_event > 0  # type: ignore[attr-defined]


@pytest.mark.parametrize("checkpoint", [True, False])
@pytest.mark.parametrize("tasks", [["T-3"], ["T-1", "T-2", "T-4", "T-5", "T-6"]])
@pytest.mark.parametrize("claim", [0, 1, 10**6])
def test_a_file_that_claims_more_than_the_log_says_is_not_believed(
    home: Path, checkpoint: bool, tasks: list[str], claim: int
) -> None:
    expected = without_files(home)
    if not checkpoint:
        (home / ".kircerta" / "checkpoint.json").unlink()
    for task_id in tasks:
        path = home / "ssot" / "tasks" / f"{task_id}.json"
        document = orjson.loads(path.read_bytes())
        forged = document | {"seq": document["seq"] + claim, "title": "forged", "status": "approved"}
        path.write_bytes(orjson.dumps(forged, option=orjson.OPT_INDENT_2))
    assert seen(home) == expected
