"""Bad signatures by the dozen, and what people who read the list notice of it: nothing, if the target is met.

The flood comes from a process of its own (`python -m benchmarks.flood PLAN`), the reads from another; windows with and
without it take turns. From one address, whose budget is soon spent, and from many, none of which spends its own.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import uvloop

from audit.reader import read_events
from benchmarks import Row, at_most, bulk, for_information, places, servers
from benchmarks.load import Connection, Plan, Times, carry_out
from benchmarks.places import CHECKOUT

RATE = 50.0
SIZES = (1024, 1024 * 1024)
READS, READERS = 200.0, 20
LIST = "/api/tasks"
MANY = 64
TARGET = 1.5
_MOST_OPEN = 256
"""What is not answered yet; a server that holds answers back has that many at once."""


def run(quick: bool) -> list[Row]:
    """About 3 minutes; quick about 40 s."""
    rounds, seconds = (3, 3.0) if quick else (12, 3.0)
    with places.folder("flood") as folder:
        home = folder / "home"
        bulk.make_workspace(home, 1_000, 5_000)
        floods, rows = list[Counter[str]](), list[Row]()
        with servers.api(home, KIRCERTA_GITHUB_SECRET="the right one") as port:
            carry_out(Plan(port, 2.0, LIST, READERS, READS))  # caches are filled, code is warm
            for addresses in (1, MANY):
                rows += _compared(port, addresses, rounds, seconds, floods)
        return [*rows, *_accounts(home, sum(floods, Counter()))]


def _compared(port: int, addresses: int, rounds: int, seconds: float, floods: list[Counter[str]]) -> list[Row]:
    quiet, flooded = list[Times](), list[Times]()
    before = len(floods)
    for _ in range(rounds):
        quiet.append(_read(port, seconds))
        with flood(port, addresses, floods):
            flooded.append(_read(port, seconds))
    p95, quiet_p95 = _middle(flooded, "p95_ms"), _middle(quiet, "p95_ms")
    ratio = statistics.median(a.p95_ms / b.p95_ms for a, b in zip(flooded, quiet, strict=True))
    whence = "one address" if addresses == 1 else f"{addresses} addresses"
    sent = sum(floods[before:], Counter())
    errors = sum(times.errors for times in (*quiet, *flooded))
    return [
        at_most(f"P95 of GET {LIST} during {RATE:.0f} bad signatures/s from {whence}", p95, "ms",
                f"without them, {quiet_p95:.2f} ms", ratio, TARGET),
        for_information("its P99", _middle(flooded, "p99_ms"), "ms",
                        f"without them, {_middle(quiet, 'p99_ms'):.2f} ms"),
        for_information("bad signatures answered", sent["401"] / (rounds * seconds), "1/s", f"sent {sent['sent']:,}"),
        for_information("reads that were not answered with 2xx", errors, ""),
    ]  # fmt: skip


def _read(port: int, seconds: float) -> Times:
    return carry_out(Plan(port, seconds, LIST, READERS, READS))["get"]


def _middle(times: list[Times], name: str) -> float:
    return statistics.median(getattr(one, name) for one in times)


def _accounts(home: Path, sent: Counter[str]) -> list[Row]:
    """What the log says of all of it."""
    events = [event for event in read_events(home / "audit") if event.type == "webhook_rejected"]
    counted = sum(event.data["codes"].get("bad_signature", 0) for event in events)
    missing = abs(counted - sent["401"])
    return [
        at_most("refusals that the log does not count", missing, "", "", missing, 0),
        for_information("events that count them", len(events), "", f"{counted:,} refusals"),
    ]


# ------------------------------------------------------------------------------------------------ the flood


@dataclass(frozen=True, slots=True)
class FloodPlan:
    """Where to, from how many addresses, and how many a second; until the input is closed."""

    port: int
    addresses: int
    rate: float = RATE


@contextmanager
def flood(port: int, addresses: int, floods: list[Counter[str]]) -> Iterator[None]:
    """A flood in a process of its own; behind it `floods` has one more: what was sent, and answers by status."""
    command = [sys.executable, "-m", "benchmarks.flood", json.dumps(asdict(FloodPlan(port, addresses)))]
    with subprocess.Popen(command, cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        process.stdout.readline()  # it has begun
        try:
            yield
        finally:
            process.stdin.close()
            floods.append(Counter(json.loads(process.stdout.readline())))


class _Flood:
    def __init__(self, plan: FloodPlan) -> None:
        self._plan = plan
        self._requests = [_request(plan.port, size) for size in SIZES]
        self._free: dict[str, list[Connection]] = {}
        self.told: Counter[str] = Counter()

    async def run(self, over: asyncio.Event) -> None:
        """Begin a request at each of its moments, whatever became of the ones before, until `over`."""
        loop = asyncio.get_running_loop()
        begun, number, under_way = loop.time(), 0, set[asyncio.Task[None]]()
        while not over.is_set():
            await asyncio.sleep(begun + number / self._plan.rate - loop.time())
            if len(under_way) < _MOST_OPEN:
                under_way.add(task := asyncio.create_task(self._one(number)))
                task.add_done_callback(under_way.discard)
            number += 1
        await asyncio.gather(*under_way)

    async def _one(self, number: int) -> None:
        address = f"127.0.1.{1 + number % self._plan.addresses}"
        free = self._free.setdefault(address, [])
        connection = free.pop() if free else await Connection.open(self._plan.port, address)
        self.told["sent"] += 1
        status = await connection.ask(self._requests[number % len(self._requests)])
        self.told[str(status)] += 1
        free.append(connection) if status else None


def _request(port: int, size: int) -> bytes:
    head = (
        f"POST /webhooks/github HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        f"X-Hub-Signature-256: sha256={'0' * 64}\r\nX-GitHub-Event: issues\r\nX-GitHub-Delivery: flood\r\n"
        f"Content-Length: {size}\r\n\r\n"
    )
    return head.encode() + b"x" * size


async def _until_closed(over: asyncio.Event) -> None:
    await asyncio.to_thread(sys.stdin.buffer.read)
    over.set()


async def main(plan: FloodPlan) -> None:
    over, one = asyncio.Event(), _Flood(plan)
    closing = asyncio.create_task(_until_closed(over))
    print("begun", flush=True)
    await one.run(over)
    await closing
    print(json.dumps(one.told), flush=True)


if __name__ == "__main__":
    uvloop.run(main(FloodPlan(**json.loads(sys.argv[1]))))
