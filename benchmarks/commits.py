"""Durable approvals by 4 processes, in turns with the machine's own pair: append and sync, write aside and replace."""

from __future__ import annotations

import fcntl
import gc
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from audit import files
from audit.verify import verify
from benchmarks import Row, at_least, at_most, bulk, for_information, places
from ssot import intents
from ssot.store import Store, StoreSettings
from tests.faults import world

PROCESSES = 4
LINE, DOCUMENT = b"x" * 900 + b"\n", b"y" * 3900
"""As long as an approval's line and its document."""


def run(quick: bool) -> list[Row]:
    """About 40 s; quick about 10 s."""
    rounds, each = (3, 100) if quick else (7, 400)
    ours, raw, locked, serial, durable = (list[float]() for _ in range(5))
    with places.folder("commits") as folder:
        home = folder / "home"
        bulk.make_workspace(home, rounds * PROCESSES * each, 0)
        Store.open(home, source="kircerta/bench").save_checkpoint()
        for turn in range(rounds):
            raw.append(together(append_and_replace, folder / f"raw-{turn}", each, ""))
            ours.append(together(approve, home, each, turn))
            locked.append(together(append_and_replace, folder / f"locked-{turn}", each, "locked"))
            serial.append(together(append_and_replace, folder / f"serial-{turn}", each, "", processes=1))
            durable.append(together(append_and_replace, folder / f"durable-{turn}", each, "folder", processes=1))
        lost, problem = _lost(home, rounds * PROCESSES * each)
    rate = statistics.median(ours)

    def ratio_to(pairs: list[float]) -> float:
        return statistics.median(a / b for a, b in zip(ours, pairs, strict=True))

    def against(what: str, pairs: list[float], name: str = "the same") -> Row:
        compared = f"raw pair, {what}, {statistics.median(pairs):,.0f}/s"
        return at_least(name, rate, "1/s", compared, ratio_to(pairs), 0.5)

    unordered = f"raw pair, 4 processes at once, in no order: no log, {statistics.median(raw):,.0f}/s"

    return [
        against("4 processes under one lock", locked, "approvals through the store, 4 processes"),
        against("1 process", serial),
        against("1 process, that syncs the folder, too: what makes the new name durable", durable),
        for_information("the same", rate, "1/s", unordered, ratio_to(raw)),
        at_most("commits lost", lost, "", "", lost, 0),
        at_most("other problems: chain, replay, files", problem, "", "", problem, 0),
    ]  # fmt: skip


def together(work: Callable[..., None], where: Path, each: int, more: Any, processes: int = PROCESSES) -> float:
    """Let some processes do something `each` times at once; gives how often a second all of them did it."""
    context = multiprocessing.get_context("spawn")
    gate = context.Barrier(processes + 1)
    workers = [
        context.Process(target=work, args=(where, number, each, gate, more), daemon=True) for number in range(processes)
    ]
    for worker in workers:
        worker.start()
    gate.wait(timeout=120)
    begin = time.perf_counter()
    gate.wait(timeout=600)
    lasted = time.perf_counter() - begin
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    return processes * each / lasted


def append_and_replace(folder: Path, number: int, each: int, gate: Barrier, how: str) -> None:
    """The machine's own pair: append to one shared log and sync; write a file aside, sync it, replace one by it.

    `how`: ``locked``: one at a time; ``folder``: the folder is synced behind each replace.
    """
    folder.mkdir(exist_ok=True)
    for turn in range(each):  # as with an approval, there is a file to be replaced, and the disk has it
        (folder / f"{number}-{turn}").write_bytes(DOCUMENT)
    files.sync_filesystem(folder)
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT)
    directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    gate.wait()
    for turn in range(each):
        if how == "locked":
            fcntl.flock(lock, fcntl.LOCK_EX)
        os.write(log, LINE)
        os.fdatasync(log)
        aside = folder / f".{number}.tmp"
        file = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        os.write(file, DOCUMENT)
        os.fsync(file)
        os.close(file)
        os.rename(aside, folder / f"{number}-{turn}")
        if how == "folder":
            os.fsync(directory)
        if how == "locked":
            fcntl.flock(lock, fcntl.LOCK_UN)
    gate.wait()


def approve(home: Path, number: int, each: int, gate: Barrier, turn: int) -> None:
    store = Store.open(home, source="kircerta/bench", settings=StoreSettings(lock_timeout_s=60), scan=False)
    first = (turn * PROCESSES + number) * each
    gc.freeze()  # as the server does, once it has started
    gate.wait()
    for task in range(first, first + each):
        store.commit(f"T-{task:06}", intents.Approve("fine"), actor="alice")
    gate.wait()


def _lost(home: Path, expected: int) -> tuple[int, int]:
    problems = world.problems(home, [])
    for line in problems[:5]:
        sys.stderr.write(f"commits: {line}\n")
    store = Store.open(home, source="kircerta/bench")
    assert verify(home / "audit").problem is None
    return expected - store.view.counts().get("approved", 0), len(problems)
