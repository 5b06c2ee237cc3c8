"""The command: runs the benchmarks that are named (all without a name), prints a table, writes docs/PERFORMANCE.md."""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

from benchmarks import Row, kills, table

# Those that make single files come first: ext4 passes by inodes that were freed in the last minutes, one by one, so
# that after a big folder was removed every new file costs up to a millisecond.
SAYS = {
    "commits": "durable approvals by 4 processes against the machine's own appends and replaces",
    "approve": "approvals over HTTP against the bare store commit",
    "lists": "the list over HTTP against a bare route, and one page on 100 to 100,000 tasks",
    "mix": "200 reads/s on 100 connections and 10 decisions/s at once, timed from their intended start",
    "flows": "dispatch_pending against an empty flow of the same shape, and from a decision to the next flow",
    "flood": "reads of the list during 50 bad signatures a second, 1 KB and 1 MB, against reads without them",
    "stream": "the event stream against a bare asyncio loop",
    "adoption": "10,000 task files dropped at once",
    "start": "opening 100,000 task files and a log of 1,000,000 events, and verifying it",
    "kills": "1,000 kill -9 over 4 writers, and nothing acknowledged is lost",
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"one of: {', '.join(SAYS)}")
    parser.add_argument("--list", action="store_true", help="say what there is, run nothing")
    parser.add_argument("--quick", action="store_true", help="smaller and shorter; writes no page")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON instead of a table")
    parser.add_argument("--no-page", action="store_true", help="leave docs/PERFORMANCE.md as it is")
    parser.add_argument("--record", type=Path, help="write the block of a load run, reports/runs/RUN_ID; runs nothing")
    parser.add_argument("--kills", type=int, help="how many kills (default 1,000; 100 with --quick)")
    asked = parser.parse_args()
    if unknown := set(asked.names) - set(SAYS):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}; there are {', '.join(SAYS)}")
    if asked.list:
        print("\n".join(f"{name:10} {says}" for name, says in SAYS.items()))
        return 0
    if asked.record:
        return written(asked.record)
    found = {name: measured(name, asked.quick, asked.kills) for name in asked.names or SAYS}
    if asked.json:
        print(json.dumps({name: [asdict(row) for row in rows] for name, rows in found.items()}, indent=2))
    else:
        print(table.text(found))
    if not asked.quick and not asked.no_page:
        table.write_page(found, SAYS)
    return 1 if any(row.ok is False for rows in found.values() for row in rows) else 0


def written(folder: Path) -> int:
    """Put what a load run measured into the page; 1 where it did not pass."""
    from benchmarks import record

    found, rows = record.read(folder)
    table.write_block(found.kind, rows, record.head(found))
    print(table.text({found.kind: rows}))
    return 0 if found.outcome == "pass" else 1


def measured(name: str, quick: bool, kill_count: int | None) -> list[Row]:
    """The rows of one benchmark; progress goes to stderr."""
    sys.stderr.write(f"{name}: {SAYS[name]} …\n")
    begin = time.monotonic()
    if name == "kills":
        rows = kills.run(quick, kill_count)
    else:
        try:
            run = importlib.import_module(f"benchmarks.{name}").run
        except ModuleNotFoundError as error:
            if error.name != f"benchmarks.{name}":
                raise
            sys.stderr.write(f"{name}: not there\n")
            return []
        rows = run(quick) if inspect.signature(run).parameters else run()
    sys.stderr.write(f"{name}: {time.monotonic() - begin:.0f} s\n")
    return rows


if __name__ == "__main__":
    sys.exit(main())
