"""A disk that is full, read-only or somebody else's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from audit.files import StorageFailed
from audit.verify import verify
from ssot import intents
from ssot.store import Store
from tests.faults import world
from tests.faults.conftest import SmallDisk
from tests.faults.killing import HERE
from tests.faults.world import Promise


def create_until_refused(store: Store, prefix: str) -> tuple[list[Promise], StorageFailed]:
    promises: list[Promise] = []
    for number in range(2000):
        create = intents.Create(request_text="word " * 100)
        try:
            promises += world.promises_of(store.commit(f"{prefix}-{number}", create, actor="importer"))
        except StorageFailed as error:
            return promises, error
    raise AssertionError("the disk never filled up")


@pytest.mark.parametrize("leave", [0, 1000, 30_000])
def test_a_full_disk_refuses_with_a_name_and_everything_goes_on_once_there_is_room(
    small_disk: SmallDisk, leave: int
) -> None:
    home = small_disk.folder
    store = Store.open(home, source="kircerta/test")
    world.walk_to(store, "before", "needs_review")
    small_disk.fill(leave=leave)
    promises, error = create_until_refused(store, "full")
    assert error.full
    assert verify(home / "audit").problem is None
    assert verify(home / "audit").torn_bytes == 0
    with pytest.raises(StorageFailed) as again:
        store.commit("again", intents.Create(request_text="word " * 1000), actor="importer")
    assert again.value.full
    assert store.task("before").status == "needs_review"
    small_disk.free()
    promises += world.promises_of(store.commit("before", intents.Approve("fine"), actor="alice"))
    store.close()
    world.settle(home)
    assert world.problems(home, promises) == []


def test_a_text_that_does_not_fit_the_disk_leaves_neither_blob_nor_event(small_disk: SmallDisk) -> None:
    home = small_disk.folder
    store = Store.open(home, source="kircerta/test")
    world.walk_to(store, "T", "acknowledged")
    small_disk.fill(leave=60_000)
    last = store.last_seq()
    with pytest.raises(StorageFailed) as error:
        store.commit("T", intents.SendResult(world.result_of(store.task("T"), "x" * 200_000)), actor="executor")
    assert error.value.full
    assert store.last_seq() == last
    assert list((home / "ssot" / "blobs").iterdir()) == []
    small_disk.free()
    store.commit("T", intents.SendResult(world.result_of(store.task("T"), "x" * 200_000)), actor="executor")
    store.close()
    world.settle(home)
    assert world.problems(home, []) == []


def test_a_disk_that_turns_read_only_is_read_on_and_refuses_writes_without_asking_for_room(
    small_disk: SmallDisk,
) -> None:
    home = small_disk.folder
    store = Store.open(home, source="kircerta/test")
    world.walk_to(store, "T", "needs_review")
    small_disk.remount("ro")
    with pytest.raises(StorageFailed, match="Read-only") as error:
        store.commit("T", intents.Approve("fine"), actor="alice")
    assert not error.value.full
    assert store.task("T").status == "needs_review"
    small_disk.remount("rw")
    promises = world.promises_of(store.commit("T", intents.Approve("fine"), actor="alice"))
    store.close()
    world.settle(home)
    assert world.problems(home, promises) == []


@pytest.fixture
def shown_folder() -> Iterator[Path]:
    """A folder that other users may read."""
    folder = Path(tempfile.mkdtemp(prefix="kircerta-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_a_workspace_of_another_user_is_refused_with_a_reason_and_left_as_it_is(shown_folder: Path) -> None:
    store = Store.open(shown_folder, source="kircerta/test")
    world.walk_to(store, "T", "needs_review")
    store.close()
    before = {path: path.stat().st_mtime_ns for path in shown_folder.rglob("*")}
    if os.getuid() == 0:
        command = [sys.executable, "-m", "tests.faults.stranger", str(shown_folder)]
        said = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=True).stdout
    else:
        pytest.skip("only root can become another user")
    assert "StorageFailed" in said
    assert "Permission denied" in said
    assert str(shown_folder) in said
    assert {path: path.stat().st_mtime_ns for path in shown_folder.rglob("*")} == before
