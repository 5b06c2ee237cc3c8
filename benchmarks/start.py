"""Opening a big workspace against a plain read and parse of its files; memory; and the speed of verify.

Each measurement runs in a fresh process: `python -m benchmarks.start WHAT HOME [SEQ]` prints seconds and MiB.
"""

from __future__ import annotations

import gc
import hashlib
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import orjson

from audit.reader import read_events
from audit.segments import segments
from audit.verify import verify
from benchmarks import Row, at_most, bulk, for_information, places
from benchmarks.places import CHECKOUT
from ssot import intents
from ssot.store import Store
from ssot.watch import CHECKPOINT_EVERY

TAIL_SHARE = 50
"""One in so many events lies behind the checkpoint in the second figure, at most as many as a running API lets be."""


def run(quick: bool) -> list[Row]:
    """About 6 minutes, mostly to make the files; quick about 30 s on a tenth."""
    tasks, events = (10_000, 100_000) if quick else (100_000, 1_000_000)
    rounds = 3
    with places.folder("start") as folder:
        home = folder / "home"
        _say(f"makes {tasks:,} task files and {events:,} events")
        bulk.make_workspace(home, tasks, events)
        _say("opens without a checkpoint")
        whole_s, whole_mib = measured("open-and-checkpoint", home)
        rows = against_plain("from its checkpoint", home, tasks, events, rounds)
        tail = min(CHECKPOINT_EVERY, events // TAIL_SHARE)
        _say(f"{tail:,} more events behind the checkpoint")
        _decide(home, tail)
        rows += against_plain(f"with {tail:,} events behind its checkpoint", home, tasks, events, rounds)
        rows += [
            for_information("the same without a checkpoint", whole_s, "s", f"{whole_mib:,.0f} MiB"),
            *verify_speed(home, rounds),
        ]
    return rows


def _say(text: str) -> None:
    sys.stderr.write(f"start: {text}\n")


def against_plain(how: str, home: Path, tasks: int, events: int, rounds: int) -> list[Row]:
    """Opening the store and reading plainly, in turns, both warm."""
    seq = int(orjson.loads((home / ".kircerta" / "checkpoint.json").open("rb").readline())["place"]["seq"])
    opened, plain = list[tuple[float, float]](), list[tuple[float, float]]()
    for _ in range(rounds):
        plain.append(measured("plain", home, seq))
        opened.append(measured("open", home))
    seconds, plain_s = (statistics.median(s for s, _ in runs) for runs in (opened, plain))
    name = f"opening {tasks:,} tasks and a log of {events:,} events {how}"
    return [
        at_most(name, seconds, "s", f"plain read and parse, {plain_s:.2f} s", seconds / plain_s, 2),
        for_information("its memory", max(mib for _, mib in opened), "MiB",
                        f"the files as parsed objects, {max(mib for _, mib in plain):,.0f} MiB"),
    ]  # fmt: skip


def verify_speed(home: Path, rounds: int) -> list[Row]:
    """verify against sha256 of the same bytes, in turns."""
    size = sum(path.stat().st_size for _, path in segments(home / "audit")) / 1e6
    checked, hashed = list[float](), list[float]()
    for _ in range(rounds):
        hashed.append(size / measured("sha256", home)[0])
        checked.append(size / measured("verify", home)[0])
    speed, plain = statistics.median(checked), statistics.median(hashed)
    return [
        Row(
            f"verify of {size:,.0f} MB",
            speed,
            "MB/s",
            f"sha256 alone, {plain:,.0f} MB/s",
            speed / plain,
            ">= 100 MB/s",
            speed >= 100,
        )
    ]


def measured(what: str, home: Path, seq: int = 0) -> tuple[float, float]:
    """Seconds and MiB of one thing done in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.start", what, str(home), str(seq)]
    said = subprocess.run(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True, check=True).stdout
    seconds, mib = said.split()
    return float(seconds), float(mib)


# -------------------------------------------------------------------------------------- in a fresh process


def _open(home: Path, seq: int) -> object:
    return Store.open(home, source="kircerta/bench")


def _plain(home: Path, seq: int) -> object:
    """What any program would do: read and parse all task files, and the log behind the checkpoint."""
    tasks = []
    with os.scandir(home / "ssot" / "tasks") as listing:
        for item in listing:
            with open(item.path, "rb", buffering=0) as file:
                tasks.append(orjson.loads(file.read()))
    return tasks, [event.seq for event in read_events(home / "audit", seq)]


def _verify(home: Path, seq: int) -> object:
    verified = verify(home / "audit")
    assert verified.problem is None
    return verified


def _sha256(home: Path, seq: int) -> object:
    digest = hashlib.sha256()
    for _, path in segments(home / "audit"):
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def _decide(home: Path, events: int) -> None:
    """Approvals and more, that no checkpoint knows of."""
    store = Store.open(home, source="kircerta/bench")
    names = [f"T-{number:06}" for number in range(events)]
    store.commit_many([(name, intents.Approve("fine")) for name in names], actor="alice")
    store.close()


WORK: dict[str, Callable[[Path, int], object]] = {
    "open": _open,
    "open-and-checkpoint": _open,
    "plain": _plain,
    "verify": _verify,
    "sha256": _sha256,
}


def main() -> None:
    what, home, seq = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    gc.collect()
    begin = time.perf_counter()
    kept = WORK[what](home, seq)
    seconds = time.perf_counter() - begin
    mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if what == "open-and-checkpoint":
        assert isinstance(kept, Store)
        kept.save_checkpoint()
    print(seconds, mib)


if __name__ == "__main__":
    main()
