"""Approvals over HTTP against the same commits through the store, in turns; both from one process at a time."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import Row, at_least, bulk, for_information, places, servers
from benchmarks.load import Plan, carry_out
from benchmarks.places import CHECKOUT
from ssot import intents
from ssot.store import Store

CONNECTIONS = 8


def run(quick: bool) -> list[Row]:
    """About 30 s; quick about 10 s."""
    rounds, each = (3, 150) if quick else (5, 500)
    http, alone, slowest = list[float](), list[float](), list[float]()
    errors = 0
    with places.folder("approve") as folder:
        served, direct = folder / "served", folder / "direct"
        for home in (served, direct):
            bulk.make_workspace(home, rounds * each, 0)
        with servers.api(served) as port:
            token = servers.token()
            for turn in range(rounds):
                names = [f"T-{number:06}" for number in range(turn * each, (turn + 1) * each)]
                posts = [f"/api/tasks/{name}/approve" for name in names]
                times = carry_out(
                    Plan(port, 60, posts=posts, post_connections=CONNECTIONS, token=token, body='{"reason": "fine"}')
                )["post"]
                http.append(times.per_second)
                slowest.append(times.p95_ms)
                errors += times.errors
                alone.append(committed_alone(direct, turn * each, each))
        approved = Store.open(served, source="kircerta/bench").view.counts().get("approved", 0)
    ratio = statistics.median(a / b for a, b in zip(http, alone, strict=True))
    return [
        at_least(f"approvals over HTTP, {CONNECTIONS} connections", statistics.median(http), "1/s",
                 f"bare store commit, 1 process, {statistics.median(alone):,.0f}/s", ratio, 0.5),
        for_information("its P95", statistics.median(slowest), "ms"),
        for_information("refused or failed", errors + rounds * each - approved, ""),
    ]  # fmt: skip


def committed_alone(home: Path, first: int, each: int) -> float:
    """The same commits by a process that does nothing else; gives commits a second."""
    command = [sys.executable, "-m", "benchmarks.approve", str(home), str(first), str(each)]
    return float(subprocess.run(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True, check=True).stdout)


def _commit_alone(home: Path, first: int, each: int) -> float:
    store = Store.open(home, source="kircerta/bench", scan=False)
    begin = time.perf_counter()
    for number in range(first, first + each):
        store.commit(f"T-{number:06}", intents.Approve("fine"), actor="alice")
    rate = each / (time.perf_counter() - begin)
    store.save_checkpoint()
    return rate


if __name__ == "__main__":
    print(_commit_alone(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
