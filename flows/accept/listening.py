"""A client of the event stream that keeps what it is told, frame by frame, for the checks to compare."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import httpx

from flows.accept.ground import Broken
from ssot.counted import counted


@dataclass(frozen=True, slots=True)
class Frame:
    """One event of the stream as it came."""

    id: str
    event: str
    data: bytes

    @property
    def seq(self) -> int:
        """0 for a frame that is no line of the log."""
        return int(self.id.partition(".")[0] or 0) if self.event == "message" else 0


Enough = Callable[[list[Frame]], bool]


def listen(
    url: str, enough: Enough, act: Callable[[], object] = lambda: None, *, within_s: float = 15.0, **query: str
) -> list[Frame]:
    """Listen until it is enough, or the server ends the stream. `act` is called once the subscription stands.

    Raises Broken where it takes too long, or what `act` raises.
    """
    return asyncio.run(_listen(url, enough, act, within_s, query))


async def _listen(
    url: str, enough: Enough, act: Callable[[], object], within_s: float, query: dict[str, str]
) -> list[Frame]:
    frames: list[Frame] = []
    try:
        async with (
            asyncio.timeout(within_s),
            httpx.AsyncClient(timeout=within_s, trust_env=False) as client,
            client.stream("GET", f"{url}/api/events", params=query) as answer,
        ):
            if answer.status_code != 200:
                raise Broken(f"the stream answered {answer.status_code}")
            acting = asyncio.create_task(asyncio.to_thread(act))
            with suppress(httpx.RemoteProtocolError):  # the server went away: what came, came
                await _read(answer, frames, enough)
            await acting
    except TimeoutError:
        raise Broken(f"after {within_s:g} s only {counted(len(frames), 'event')} had come") from None
    return frames


async def _read(answer: httpx.Response, frames: list[Frame], enough: Enough) -> None:
    rest = b""
    async for chunk in answer.aiter_bytes():
        *blocks, rest = (rest + chunk).split(b"\n\n")
        frames += [frame for frame in map(_frame, blocks) if frame is not None]
        if enough(frames):
            return


def _frame(block: bytes) -> Frame | None:
    fields = dict(line.partition(b": ")[::2] for line in block.split(b"\n"))
    if b"data" not in fields:
        return None
    return Frame(fields.get(b"id", b"").decode(), fields.get(b"event", b"message").decode(), fields[b"data"])
