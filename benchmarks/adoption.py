"""10,000 task files dropped into a watched workspace at once: how fast all of them are checked, logged and served."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import orjson

from benchmarks import Row, for_information, places
from ssot.store import Store
from ssot.watch import Watcher


def run(quick: bool) -> list[Row]:
    """About 30 s; quick about 5 s."""
    count = 1_000 if quick else 10_000
    with places.folder("adoption") as folder:
        home, aside = folder / "home", folder / "aside"
        aside.mkdir()
        contents = [_file(number) for number in range(count)]
        store = Store.open(home, source="kircerta/bench")
        watcher = Watcher(store).start()
        parsed = _plain(aside, contents)
        begin = time.perf_counter()
        for number, content in enumerate(contents):
            (store.tasks_folder / f"T-{number:05}.json").write_bytes(content)
        dropped = time.perf_counter() - begin
        while len(store.view.entries) < count and time.perf_counter() - begin < 300:
            time.sleep(0.01)
        lasted = time.perf_counter() - begin
        begin = time.perf_counter()
        (store.tasks_folder / "one-more.json").write_bytes(_file(count).replace(f"T-{count:05}".encode(), b"one-more"))
        while "one-more" not in store.view.entries and time.perf_counter() - begin < 10:
            time.sleep(0.001)
        single = time.perf_counter() - begin
        watcher.stop()
        adopted = len(store.view.entries) - 1
        if watcher.problem:
            sys.stderr.write(f"adoption: {watcher.problem}\n")
    return [
        for_information(f"adoption of {count:,} files", count / lasted, "1/s",
                        f"writing, reading and parsing them plainly, {count / parsed:,.0f}/s", parsed / lasted),
        for_information("from the first file dropped to the last one served", lasted, "s",
                        f"dropping them took {dropped:.2f} s"),
        for_information("files not adopted", count - adopted, ""),
        Row("one more file, from its save to its being served", single * 1000, "ms", "", None, "<= 1000", single <= 1),
    ]  # fmt: skip


def _file(number: int) -> bytes:
    return orjson.dumps(
        {
            "task_id": f"T-{number:05}",
            "source": "manual",
            "request_text": f"Make the parser of format {number} forgiving.\n" * 5,
            "created_at": "2026-01-31T09:00:00Z",
            "acceptance_criteria": [{"id": "AC-1", "text": "It goes on after a bad line."}],
        }
    )


def _plain(folder: Path, contents: list[bytes]) -> float:
    """Seconds to write files, and to read and parse them."""
    begin = time.perf_counter()
    for number, content in enumerate(contents):
        (folder / f"{number}.json").write_bytes(content)
    for number in range(len(contents)):
        orjson.loads((folder / f"{number}.json").read_bytes())
    return time.perf_counter() - begin
