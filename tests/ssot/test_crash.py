"""A process that dies at any point of a commit leaves nothing that the next one does not put right."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from collections.abc import Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest

from audit.verify import verify
from ssot import replay
from ssot.store import Store
from tests import builders
from tests.builders import Walk, minimal, task_path
from tests.ssot import dying
from tests.ssot.dying import DIED, POINTS


@pytest.fixture(scope="module")
def children() -> Iterator[ForkServerContext]:
    """Children are forked from a process of its own, which has everything imported and no threads."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.ssot.dying"])
    yield context
    from multiprocessing import forkserver, resource_tracker

    forkserver._forkserver._stop()  # type: ignore[attr-defined]
    resource_tracker._resource_tracker._stop()  # type: ignore[attr-defined]


def run(children: ForkServerContext, target: object, *arguments: object) -> int:
    child = children.Process(target=target, args=arguments)  # type: ignore[arg-type]
    child.start()
    child.join()
    code = child.exitcode
    child.close()
    assert code is not None
    return code


OWING = {"quorum": ["approval_given"], "low risk": ["verdict_received"], "expired": ["decision_overdue"]}
SCENARIOS = [
    "reject and lock",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("create", "long texts", "adopt")),
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("many", "rotate", "recover")),
    *(pytest.param(name, marks=pytest.mark.slow) for name in dying.POLICIES),
]


@pytest.fixture(scope="module", params=SCENARIOS)
def workspace(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A scenario, and a workspace as it stands before the commit that is cut short."""
    scenario = request.param
    home = tmp_path_factory.mktemp("before")
    store = dying.open_store(home)
    if scenario in dying.POLICIES:
        dying.bring_to_the_edge(store, scenario)
    elif scenario != "create":
        Walk(store).create()
    if scenario == "adopt":
        builders.drop(home, "T-1", {**builders.read(home, "T-1"), "title": "by hand"})
        builders.drop(home, "N-1", minimal("N-1", request_text="x" * 40_000))
    if scenario == "recover":
        with (home / "audit" / "events.jsonl").open("ab") as log:
            log.write(b'{"torn":')
    store.close()
    return scenario, home


def survive(home: Path, *, rebooted: bool, scenario: str = "") -> Store:
    """The next process: it commits something else, and with that puts everything right."""
    if rebooted:
        (home / "audit" / ".lock").write_bytes(b"")
    store = dying.open_store(home)
    Walk(store, "Z-1").create()
    if scenario == "adopt":
        store.scan()  # where the process died before its commit, nobody knows of the edit yet
    return store


def check(home: Path, store: Store, scenario: str) -> None:
    assert verify(home / "audit").problem is None
    found = replay.check(home)
    assert found.ok, found
    assert not [path.name for path in (home / "ssot" / "tasks").glob(".*")]
    before = store.last_seq()
    store.scan()
    assert store.last_seq() == before, "nothing is left to a scan"
    kinds = builders.types(home, "T-1")
    assert kinds.count("task_rejected") == kinds.count("reject_lock"), "the lock that is owed comes"
    for owing in OWING.get(scenario, ()):
        decided = kinds.count("task_approved") + kinds.count("task_rejected")
        assert decided == (kinds.count(owing) == (2 if scenario == "quorum" else 1)), "so does the decision, once"
    reopened = dying.open_store(home)
    for task_id in store.view.entries:
        assert reopened.document(task_id) == store.document(task_id)
    if scenario == "adopt":
        assert store.task("T-1").title == "by hand"
        assert json.loads(store.detail("N-1") or b"")["request_text"] == "x" * 40_000
        assert replay.check(home).ok
    store.close()
    reopened.close()


@pytest.mark.parametrize("rebooted", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("when", ["before", "after", "half"])
def test_death_at_any_point_of_a_commit_is_put_right(
    workspace: tuple[str, Path], tmp_path: Path, children: ForkServerContext, when: str, rebooted: bool
) -> None:
    scenario, before = workspace
    deaths = 0
    for point in POINTS if when != "half" else ["write"]:
        for nth in range(1, 30):
            home = tmp_path / f"{point} {nth}"
            shutil.copytree(before, home, copy_function=shutil.copy2)
            for path in (before / "ssot" / "tasks").iterdir():
                builders.age(home / "ssot" / "tasks" / path.name)
            segment_bytes = 1 if scenario == "rotate" else 1 << 26
            code = run(children, dying.die, str(home), scenario, point, nth, when, segment_bytes)
            assert code in (0, DIED)
            check(home, survive(home, rebooted=rebooted, scenario=scenario), scenario)
            if code == 0:
                break
            deaths += 1
            shutil.rmtree(home)
    assert deaths > (0 if when == "half" else 4)


@pytest.mark.parametrize("what", ["sync", "sync folder"])
def test_after_a_failed_sync_a_process_writes_no_more(tmp_path: Path, children: ForkServerContext, what: str) -> None:
    Walk(dying.open_store(tmp_path)).create()
    assert run(children, dying.fail_to_sync, str(tmp_path), what) == 0
    check(tmp_path, survive(tmp_path, rebooted=True), "reject")


def test_what_was_acknowledged_is_there_though_its_file_was_never_written(
    tmp_path: Path, children: ForkServerContext
) -> None:
    """The first commit of a new workspace, too."""
    assert run(children, dying.die, str(tmp_path), "create", "fill", 1, "before", 1 << 26) == DIED
    assert builders.types(tmp_path) == ["task_created"]
    assert not task_path(tmp_path, "T-1").exists()
    survive(tmp_path, rebooted=False)
    assert task_path(tmp_path, "T-1").exists()
    assert builders.events(tmp_path, "task_restored") == []
