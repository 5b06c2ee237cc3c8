"""Writers, an editor, and git checkouts on one workspace at the same time, beside a process that adopts."""

from __future__ import annotations

import os
import random
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from audit.files import Busy
from audit.reader import LogReader, event_at, events_of
from audit.segments import segments
from ssot.store import Refused, Store, StoreSettings
from ssot.watch import Watcher
from tests.faults import world
from tests.faults.killing import kill_writers

EDITED = ("E-0", "E-1", "E-2")


class Editor:
    """A person who gives tasks new titles, and saves as editors do: a new file moved over the old one."""

    def __init__(self, home: Path) -> None:
        self._tasks = home / "ssot" / "tasks"
        self._last: dict[Path, bytes] = {}
        self.saved: list[str] = []

    def turn(self, number: int) -> None:
        path = self._tasks / f"{EDITED[number % len(EDITED)]}.json"
        time.sleep(0.02)
        found = path.read_bytes() if path.exists() else b""
        if not found or found == self._last.get(path):  # not taken over yet: another save would replace this one
            return
        document = orjson.loads(found) | {"title": f"Title number {number}"}
        draft = self._tasks / f".{path.name}.swp"
        self._last[path] = orjson.dumps(document, option=orjson.OPT_INDENT_2)
        draft.write_bytes(self._last[path])
        os.rename(draft, path)
        self.saved.append(document["title"])


class Checkouts:
    """Versions of the task files are committed, and older ones checked out; the editor's files are not git's."""

    def __init__(self, home: Path) -> None:
        self._tasks = home / "ssot" / "tasks"
        self._git("init", "-q")
        (self._tasks / ".gitignore").write_text("E-*\n.*.tmp\n.*.swp\n")
        self._commit()

    def _git(self, *arguments: str) -> str:
        names = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "gc.auto=0")
        run = subprocess.run(["git", *names, *arguments], cwd=self._tasks, capture_output=True, text=True, check=False)
        return run.stdout.strip()

    def _commit(self) -> None:
        self._git("add", "-A")
        self._git("commit", "-qm", "as it stands", "--allow-empty")

    def turn(self, number: int) -> None:
        self._commit()
        versions = self._git("log", "--all", "--format=%H").split()
        self._git("checkout", "-qf", versions[(number * 7) % len(versions)])
        time.sleep(0.1)


class Committers:
    """Somebody moves the very tasks that are being edited."""

    def __init__(self, home: Path) -> None:
        self._store = Store.open(home, source="kircerta/mover")
        self._dice = random.Random(5)
        self.promises: list[world.Promise] = []

    def turn(self, number: int) -> None:
        task_id = EDITED[number % len(EDITED)]
        try:
            actor, intent = world.forward(self._store.task(task_id), self._dice)
            self.promises += world.promises_of(self._store.commit(task_id, intent, actor=actor))
        except (Refused, Busy):
            pass
        time.sleep(0.005)


def again_and_again(turn: Callable[[int], None], stop: threading.Event, failures: list[BaseException]) -> None:
    number = 0
    while not stop.is_set():
        try:
            turn(number)
        except BaseException as error:
            failures.append(error)
            return
        number += 1


@pytest.mark.slow
def test_nothing_acknowledged_and_no_save_is_lost_and_the_files_converge_to_the_log(tmp_path: Path) -> None:
    store = Store.open(tmp_path, source="kircerta/api", settings=StoreSettings(lock_timeout_s=30))
    for task_id in EDITED:
        world.walk_to(store, task_id, "new")
    editor, git, committers = Editor(tmp_path), Checkouts(tmp_path), Committers(tmp_path)
    watcher = Watcher(store).start()
    stop, failures = threading.Event(), list[BaseException]()
    turns = (editor.turn, git.turn, committers.turn)
    threads = [threading.Thread(target=again_and_again, args=(turn, stop, failures)) for turn in turns]
    for thread in threads:
        thread.start()
    drill = kill_writers(tmp_path, kills=40, seed=3, writers=2)
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert drill.died == []
    assert settles(store, [*drill.promises, *committers.promises]) == []
    watcher.stop()
    assert watcher.problem is None
    adopted = {event.data["task"].get("title") for event in store.events() if event.type == "task_adopted"}
    assert len(editor.saved) > 10
    assert set(editor.saved) - adopted == set()


def settles(store: Store, promises: list[world.Promise]) -> list[str]:
    """What is still wrong when everybody has stopped and the adopting process has had its time.

    `git add` may store a file that is replaced under it cut short, and check it out so: such a file is held, and
    removed here, as a person would do it.
    """
    deadline = time.monotonic() + 10
    while True:
        found = [line for line in world.problems(store.home, promises) if ".git" not in line]
        if not found or time.monotonic() > deadline:
            return found
        for held in store.held_files():
            assert held.reason == "not_json", held
            (store.tasks_folder / held.file).unlink()
        time.sleep(0.3)


def test_readers_find_every_line_while_segments_are_closed_under_them(tmp_path: Path) -> None:
    writer = Store.open(tmp_path, source="kircerta/test", settings=StoreSettings(segment_bytes=2_000))
    world.walk_to(writer, "first", "new")
    folder, done, failures = tmp_path / "audit", threading.Event(), list[BaseException]()

    def look(number: int) -> None:
        last = writer.last_seq()
        firsts = [first for first, _ in segments(folder)]
        assert firsts == sorted(set(firsts))
        found = event_at(folder, 1 + number % last)
        assert found
        assert found.seq == 1 + number % last
        assert next(events_of(folder, "first")).seq == 1
        reader = LogReader.after(folder, last // 2)
        assert len(reader.read()) >= last - last // 2
        reader.close()

    threads = [threading.Thread(target=again_and_again, args=(look, done, failures)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in range(60):
        world.walk_to(writer, f"T-{number}", "dispatched")
    done.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(segments(folder)) > 20
