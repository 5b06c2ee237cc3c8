"""kill -9 over 4 writers: no acknowledged decision is lost, the log is valid, replaying it gives the files."""

from __future__ import annotations

import sys

from benchmarks import Row, at_most, for_information, places
from tests.faults import world
from tests.faults.killing import kill_writers


def run(quick: bool, kills: int | None = None) -> list[Row]:
    """About 90 s; quick about 10 s."""
    wanted = kills or (100 if quick else 1_000)

    def show(done: int) -> None:
        if done % 100 == 0:
            sys.stderr.write(f"kills: {done} of {wanted}\n")

    with places.folder("kills") as home:
        drill = kill_writers(home, kills=wanted, seed=1, progress=show)
        world.settle(home)
        problems = world.problems(home, drill.promises)
    for line in [*drill.died, *problems]:
        sys.stderr.write(f"kills: {line}\n")
    lost = sum(line.startswith("lost") for line in problems)
    return [
        for_information("writers killed", drill.kills, ""),
        for_information("commits acknowledged meanwhile", len(drill.promises), ""),
        at_most("acknowledged commits lost", lost, "", "", lost, 0),
        at_most(
            "anything else wrong: chain, replay, leftovers, errors",
            len(problems) - lost,
            "",
            "",
            len(problems) - lost + len(drill.died),
            0,
        ),
    ]
