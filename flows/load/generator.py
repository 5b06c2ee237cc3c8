"""The generator, a process of its own: sends what the plan says and measures it. aiohttp on uvloop.

`python -m flows.load.generator` reads lines of JSON from stdin (first its `Brief`, then orders) and tells on stdout, in
lines of JSON, how far it is. It decides nothing: what its samples mean is judged elsewhere. With stdin's end it ends.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import hmac
import secrets
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final

import aiohttp
import orjson
import uvloop

from flows.load.arrivals import Answered, Arrivals, NotPrepared, Pacer, Timeline, histogram
from flows.load.plan import US, Plan, Window
from flows.load.samples import Recorder
from flows.load.streams import Sightings, Streams
from ssot.runs import task_prefix
from ssot.task import Part

REQUEST_S: Final = 30.0
CONNECT_S: Final = 8.0
CATCH_UP_S: Final = 3.0
_TELL_S: Final = 0.5
_CALLED_OFF: Final = -1
_KEEP_ALIVE_S: Final = 4.0
"""Shorter than the server's: a connection that it is about to close is not used once more."""
_LEAST_CALIBRATION, _MOST_CALIBRATION = 20.0, 1000.0


class Brief(Part):
    """What the generator is told at first. The token comes here, never as an argument that everybody can read."""

    run_id: str
    folder: str
    plan: Plan
    origin_ns: int
    wall_origin_s: float
    after_seq: int
    token: str
    report_acks: bool = False


class Generator:
    """One run, seen from the sender's side."""

    def __init__(self, brief: Brief) -> None:
        self.brief = brief
        self.plan = brief.plan
        self.timeline = Timeline(brief.origin_ns)
        self.recorder = Recorder(Path(brief.folder))
        self.pacer = Pacer(self.timeline)
        sightings = Sightings(brief.run_id, self.timeline, brief.wall_origin_s)
        self.streams = Streams(self.plan.base_url, self.plan.streams, brief.after_seq, sightings, self.recorder)
        self.ready: deque[tuple[str, str]] = deque()
        self.failed: list[str] = []
        self.acked: list[tuple[str, str, int]] = []
        self.known = ""
        self.arrivals: list[Arrivals] = []
        self._headers = {"Authorization": f"Bearer {brief.token}"} if brief.token else {}
        self._go: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._drain: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._is_called_off = False
        self._bodies = [_body(size) for size in self.plan.flood_bytes]

    # ---------------------------------------------------------------------------------------------- orders

    def obey(self, order: dict[str, Any]) -> None:
        """One line from stdin."""
        for task_id, decision in order.get("tasks", ()):
            if not task_id.startswith(task_prefix(self.brief.run_id)):
                raise ValueError(f"{task_id} is none of this run's tasks: it is not decided here")
            self.known = task_id
            self.ready.append((task_id, decision))
        if "go" in order and not self._go.done():
            self._go.set_result(int(order["go"]))
        if "drain" in order and not self._drain.done():
            self._drain.set_result(int(order["drain"]))
        if order.get("stop"):
            self._is_called_off = True
            self.timeline.end_us = min(self.timeline.end_us, self.timeline.now())
            if not self._go.done():
                self._go.set_result(_CALLED_OFF)

    # ------------------------------------------------------------------------------------------------- run

    async def run(self) -> None:
        """Calibrate, connect, wait for the word, send, drain, sum up."""
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_S)
        timeout = aiohttp.ClientTimeout(total=REQUEST_S, sock_connect=5)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as session:
            await self._calibrate(session)
            self.recorder.flush()  # the first time loads a library: not in the midst of the run
            opened = await self.streams.open(session, self._headers, CONNECT_S)
            tell(ready=True, streams_open=opened)
            begin_us = await self._go
            called_off = self._is_called_off or begin_us == _CALLED_OFF
            windows = self.timeline.set(begin_us, self.plan.windows) if not called_off else []
            try:
                await self._send_all(session, windows)
                missing = await self.streams.drain(await self._drain, CATCH_UP_S)
            finally:
                await self.streams.close()
        self._sum_up(missing)

    async def _send_all(self, session: aiohttp.ClientSession, windows: list[Window]) -> None:
        if not windows:
            tell(sent=True)
            return
        plan = self.plan
        self._add("read", self._reading(session), plan.readers, plan.read_rate)
        self._add("write", self._deciding(session), plan.deciders, plan.write_rate)
        flood = self._add("flood", self._flooding(session), plan.flooders, plan.flood_rate)
        during = [one for one in windows if one.phase == "during"]
        gc.collect()
        gc.freeze()  # what is there by now stays: the collector need not look at it again and again
        await self.timeline.sleep_until(self.timeline.begin_us - 1)
        self._cpu_begin, self._wall_begin = time.process_time(), time.monotonic()
        beside = [asyncio.create_task(one) for one in (self.pacer.run(), self._tell_progress())]
        works: list[Coroutine[Any, Any, None]] = [
            one.run(during if one is flood else windows, closed=plan.closed) for one in self.arrivals
        ]
        await asyncio.gather(self.timeline.sleep_to_end(), *works)
        wall = max(time.monotonic() - self._wall_begin, 1e-6)
        self._cpu_share = (time.process_time() - self._cpu_begin) / wall
        for task in beside:
            task.cancel()
        for follower in self.streams.followers:
            follower.hear(self.timeline.end_us)
        self.recorder.flush()
        self._tell_now(sent=True)

    def _add(self, kind: str, send: Any, clients: int, rate: float) -> Arrivals | None:
        if not clients or (not rate and not self.plan.closed):
            return None
        made = Arrivals(kind, send, clients=clients, rate=rate, timeline=self.timeline, recorder=self.recorder)
        self.arrivals.append(made)
        return made

    async def _calibrate(self, session: aiohttp.ClientSession) -> None:
        """The same generator against an endpoint that does nothing: below these times nothing can be told."""
        plan = self.plan
        rate = min(max(plan.read_rate + plan.write_rate + plan.flood_rate, _LEAST_CALIBRATION), _MOST_CALIBRATION)
        seconds = 2.0 if plan.duration_s >= 60 else 1.0
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "flows.load.null", stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        try:
            assert process.stdout is not None
            port = int(await process.stdout.readline())
            timeline = Timeline(self.brief.origin_ns)
            windows = timeline.set(timeline.now(), [Window(phase="main", begin_us=0, end_us=int(seconds * US))])

            async def send(client: int, number: int) -> Answered:
                return await self._get(session, f"http://127.0.0.1:{port}/")

            clients = min(max(plan.readers, 4), 50)
            arrivals = Arrivals(
                "calibration", send, clients=clients, rate=rate, timeline=timeline, recorder=self.recorder
            )
            await arrivals.run(windows)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            await process.wait()

    # -------------------------------------------------------------------------------------------- requests

    def _reading(self, session: aiohttp.ClientSession) -> Any:
        """The list, and the task that was prepared last, in turn."""
        base = self.plan.base_url

        async def send(client: int, number: int) -> Answered:
            one = f"/{self.known}" if number % 2 and self.known else ""
            return await self._get(session, f"{base}/api/tasks{one}", self._headers)

        return send

    async def _get(self, session: aiohttp.ClientSession, url: str, headers: dict[str, str] | None = None) -> Answered:
        try:
            async with session.get(url, headers=headers) as answer:
                await answer.read()
                return _judged(answer.status, good=answer.status == 200)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            return Answered(0, _named(error))

    def _deciding(self, session: aiohttp.ClientSession) -> Any:
        """Approve and reject what was prepared for it, each once."""
        base = self.plan.base_url

        async def send(client: int, number: int) -> Answered:
            if not self.ready:
                raise NotPrepared
            task_id, decision = self.ready.popleft()
            url = f"{base}/api/tasks/{task_id}/{decision}"
            try:
                body = {"reason": f"load run {self.brief.run_id}"}
                async with session.post(url, json=body, headers=self._headers) as answer:
                    document = await answer.read()
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                self.failed.append(task_id)
                return Answered(0, _named(error))
            return self._decided(task_id, decision, answer.status, document)

        return send

    def _decided(self, task_id: str, decision: str, status: int, document: bytes) -> Answered:
        if status != 200:
            self.failed.append(task_id)
        elif self.brief.report_acks:
            self.acked.append((task_id, decision, int(orjson.loads(document)["seq"])))
        return _judged(status, good=status == 200)

    def _flooding(self, session: aiohttp.ClientSession) -> Any:
        """Deliveries whose signature is wrong, of one size after the other. Refused is right: 401."""
        url = f"{self.plan.base_url}/webhooks/github"

        async def send(client: int, number: int) -> Answered:
            body = self._bodies[number % len(self._bodies)]
            headers = {**_flood_headers(body), "X-GitHub-Delivery": f"load-{secrets.token_hex(8)}"}
            try:
                async with session.post(url, data=body, headers=headers) as answer:
                    await answer.read()
                    return _refused(answer.status)
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                return Answered(0, _named(error))

        return send

    # --------------------------------------------------------------------------------------------- telling

    async def _tell_progress(self) -> None:
        while True:
            await asyncio.sleep(_TELL_S)
            self.recorder.flush()
            self._tell_now()

    def _tell_now(self, **more: Any) -> None:
        failed, self.failed = self.failed, []
        acked, self.acked = self.acked, []
        tell(
            at_us=self.timeline.now(),
            done={one.kind: [one.tally.due, one.tally.errors] for one in self.arrivals},
            p95_ms={one.kind: one.tally.recent_p95_ms() for one in self.arrivals},
            streams_open=self.streams.open_count,
            events=sum(one.events for one in self.streams.followers),
            lag_us=self.pacer.take_recent_us(),
            cpu_s=time.process_time(),
            ready=len(self.ready),
            failed=failed,
            acked=acked,
            **more,
        )

    def _sum_up(self, missing: int) -> None:
        self.recorder.close()
        lag = histogram()
        for one in self.arrivals:
            lag.add(one.lag)
        due = sum(one.tally.due for one in self.arrivals)
        own = sum(one.tally.own_fault for one in self.arrivals)
        worst = max(_p99_ms(lag), _p99_ms(self.pacer.lag))
        tell(
            over=True,
            streams={**self.streams.figures(), "missing": missing},
            generator_cpu=getattr(self, "_cpu_share", 0.0),
            dispatch_lag_p99=worst,
            achieved=1.0 - own / due if due else 1.0,
        )


def tell(**what: Any) -> None:
    """One line of JSON for whoever started us."""
    sys.stdout.buffer.write(orjson.dumps(what) + b"\n")
    sys.stdout.buffer.flush()


def _p99_ms(found: Any) -> float:
    return float(found.get_value_at_percentile(99.0)) / 1000 if found.get_total_count() else 0.0


def _judged(status: int, *, good: bool) -> Answered:
    return Answered(status, "" if good else f"http_{status}")


def _refused(status: int) -> Answered:
    """A bad signature has to be told so."""
    return Answered(status, "accepted") if 200 <= status < 300 else _judged(status, good=status == 401)


def _named(error: BaseException) -> str:
    """A few words for all that can go wrong on a connection."""
    match error:
        case TimeoutError():
            return "timeout"
        case aiohttp.ServerDisconnectedError() | ConnectionResetError() | BrokenPipeError():
            return "disconnected"
        case aiohttp.ClientConnectorError() | ConnectionRefusedError():
            return "refused"
        case aiohttp.ClientPayloadError():
            return "torn"
        case _:
            return type(error).__name__


def _body(size: int) -> bytes:
    """An issue of so many bytes."""
    frame = b'{"action":"opened","padding":"%b"}'
    return frame % (b"x" * max(0, size - len(frame) + 2))


def _flood_headers(body: bytes) -> dict[str, str]:
    wrong = hmac.new(b"not the secret", body[:64], hashlib.sha256).hexdigest()
    return {
        "Content-Type": "application/json",
        "X-GitHub-Event": "issues",
        "X-Hub-Signature-256": f"sha256={wrong}",
    }


async def _main() -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=1 << 24)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    generator = Generator(Brief.model_validate_json(await reader.readline()))
    running = asyncio.create_task(generator.run())
    listening = asyncio.create_task(_listen(reader, generator))
    await asyncio.wait({running, listening}, return_when=asyncio.FIRST_COMPLETED)
    for task in (running, listening):
        task.cancel()
    for found in await asyncio.gather(running, listening, return_exceptions=True):
        if isinstance(found, Exception):
            raise found


async def _listen(reader: asyncio.StreamReader, generator: Generator) -> None:
    """Until stdin ends: then whoever started us is gone, and nobody would read what we find."""
    while line := await reader.readline():
        generator.obey(orjson.loads(line))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for whoever started us
    uvloop.run(_main())
