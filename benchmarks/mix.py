"""People and pollers at once, unhurried: 200 GET/s on 100 connections and 10 decisions/s on 1,000 tasks."""

from __future__ import annotations

from benchmarks import Row, at_most, bulk, for_information, places, servers
from benchmarks.lists import CONNECTIONS, WHOLE
from benchmarks.load import Plan, carry_out

READS, DECISIONS = 200.0, 10.0
READ_P95_MS, DECISION_P95_MS = 20.0, 50.0
"""Of the order that a tuned server showed on such a machine (4 and 9 ms); promised to users are 200 and 500 ms."""


def run(quick: bool) -> list[Row]:
    """About 35 s; quick about 10 s."""
    seconds = 6.0 if quick else 30.0
    with places.folder("mix") as folder:
        home = folder / "home"
        bulk.make_workspace(home, 1_000, 5_000)
        with servers.api(home) as port:
            posts = [f"/api/tasks/T-{number:06}/approve" for number in range(int(seconds * DECISIONS))]
            times = carry_out(
                Plan(port, seconds, WHOLE, CONNECTIONS, READS, posts, DECISIONS, 4, '{"reason": "ok"}', servers.token())
            )
    get, post = times["get"], times["post"]
    return [
        at_most("GET of the whole list, P95 from the intended start", get.p95_ms, "ms", "", get.p95_ms, READ_P95_MS),
        for_information("its median and worst", get.p50_ms, "ms", f"worst {get.max_ms:.1f} ms"),
        at_most("decision, P95 from the intended start", post.p95_ms, "ms", "", post.p95_ms, DECISION_P95_MS),
        for_information("its median and worst", post.p50_ms, "ms", f"worst {post.max_ms:.1f} ms"),
        at_most("answers that were not 2xx", get.errors + post.errors, "", "", get.errors + post.errors, 0),
        for_information("achieved reads and decisions", get.per_second, "1/s", f"and {post.per_second:.1f}/s"),
    ]
