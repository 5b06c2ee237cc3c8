"""The list over HTTP: 100 busy connections on 1,000 tasks against a bare route; one page on 100 to 100,000 tasks."""

from __future__ import annotations

import statistics
import sys
import urllib.request
from pathlib import Path

from benchmarks import Row, at_least, bulk, for_information, places, servers
from benchmarks.load import Plan, Times, carry_out

WHOLE = "/api/tasks?limit=1000"
ONE_PAGE = "/api/tasks?limit=100"
CONNECTIONS = 100


def run(quick: bool) -> list[Row]:
    """About 3 minutes; quick about 40 s, up to 10,000 tasks."""
    with places.folder("lists") as folder:
        return [*against_bare(folder, quick), *page_sizes(folder, quick)]


def against_bare(folder: Path, quick: bool) -> list[Row]:
    """The same bytes from both servers, in turns."""
    rounds, seconds = (2, 2.0) if quick else (5, 4.0)
    home, body = folder / "thousand", folder / "body.json"
    bulk.make_workspace(home, 1_000, 5_000)
    ours: list[Times] = []
    bare: list[Times] = []
    with servers.api(home) as port:
        body.write_bytes(fetch(port, WHOLE))
        with servers.bare(body) as bare_port:
            for _ in range(rounds):
                bare.append(carry_out(Plan(bare_port, seconds, WHOLE, CONNECTIONS))["get"])
                ours.append(carry_out(Plan(port, seconds, WHOLE, CONNECTIONS))["get"])
    rate, bare_rate = middle(ours, "per_second"), middle(bare, "per_second")
    against = f"bare route, {bare_rate:,.0f}/s"
    p95, bare_p95 = middle(ours, "p95_ms"), middle(bare, "p95_ms")
    ratio = statistics.median(a.per_second / b.per_second for a, b in zip(ours, bare, strict=True))
    errors = sum(times.errors for times in (*ours, *bare))
    return [
        at_least(f"list of 1,000 tasks ({body.stat().st_size:,} bytes), 100 connections", rate, "1/s", against,
                 ratio, 0.7),
        for_information("its P95, always busy", p95, "ms", f"bare route, {bare_p95:.0f} ms", p95 / bare_p95),
        for_information("answers that were not 2xx", errors, ""),
    ]  # fmt: skip


def page_sizes(folder: Path, quick: bool) -> list[Row]:
    """One page of 100 tasks, with ever more tasks behind it; each size against the smallest one, in turns."""
    counts = (100, 1_000, 10_000) if quick else (100, 1_000, 10_000, 100_000)
    seconds, rounds = (1.5, 2) if quick else (3.0, 3)
    rows, smallest = list[Row](), folder / "100"
    bulk.make_workspace(smallest, 100, 100)
    for count in counts[1:]:
        home = folder / str(count)
        sys.stderr.write(f"lists: {count:,} tasks\n")
        bulk.make_workspace(home, count, count * len(bulk.STEPS))
        with servers.api(smallest) as small_port, servers.api(home) as port:
            small, large = list[Times](), list[Times]()
            for _ in range(rounds):
                small.append(carry_out(Plan(small_port, seconds, ONE_PAGE, CONNECTIONS))["get"])
                large.append(carry_out(Plan(port, seconds, ONE_PAGE, CONNECTIONS))["get"])
        rate, small_rate = middle(large, "per_second"), middle(small, "per_second")
        ratio = statistics.median(a.per_second / b.per_second for a, b in zip(large, small, strict=True))
        rows.append(
            at_least(f"one page of 100, {count:,} tasks", rate, "1/s", f"100 tasks, {small_rate:,.0f}/s",
                     ratio, 0.8)
        )  # fmt: skip
    return rows


def middle(rounds: list[Times], name: str) -> float:
    """The median over the rounds."""
    return float(statistics.median(getattr(times, name) for times in rounds))


def fetch(port: int, path: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}") as answer:
        found: bytes = answer.read()
    return found
