"""Stream clients: gaps, repeats, silence and delays, however the bytes are cut."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from audit.stamp import rfc3339
from flows.load import samples
from flows.load.arrivals import Timeline
from flows.load.samples import Recorder
from flows.load.streams import Follower, Sightings, _Bare
from ssot.runs import task_prefix

RUN = "soak-20261101T080000Z-0f3a9c"


class Scene:
    """A client of a run that began a second ago."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.timeline = Timeline(time.monotonic_ns() - 1_000_000_000, begin_us=0, end_us=60_000_000)
        self.wall = time.time() - 1.0
        self.recorder = Recorder(folder)
        self.client = Follower(3, 10, Sightings(RUN, self.timeline, self.wall), self.recorder, heard_us=900_000)

    def frame(self, seq: int, type: str = "heartbeat", subject: str = "T-1", at_s: float = 0.5) -> bytes:
        line = f'{{"type":"{type}","subject":"{subject}","time":"{rfc3339(self.wall + at_s)}","seq":{seq}}}'
        return f"id: {seq}.0f3a9c1d\ndata: {line}\n\n".encode()

    def rows(self) -> list[dict[str, int]]:
        self.recorder.close()
        found: list[dict[str, int]] = samples.settle(self.folder).to_pylist()
        return found


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    yield made
    made.recorder.close()


def test_a_stream_without_a_gap_counts_every_event(scene: Scene) -> None:
    scene.client.take(b"retry: 2000\n\n: kircerta\n\n" + b"".join(scene.frame(seq) for seq in (11, 12, 13)))
    assert (scene.client.events, scene.client.gaps, scene.client.repeats) == (3, 0, 0)
    assert scene.client.query() == "last_event_id=13.0f3a9c1d"


def test_a_gap_is_counted_by_what_is_missing(scene: Scene) -> None:
    scene.client.take(scene.frame(11) + scene.frame(15))
    assert (scene.client.gaps, scene.client.last_seq) == (3, 15)


def test_a_repeat_is_no_event(scene: Scene) -> None:
    scene.client.take(scene.frame(11) + scene.frame(11) + scene.frame(9))
    assert (scene.client.events, scene.client.repeats) == (1, 2)


@pytest.mark.parametrize("size", [1, 7, 64])
def test_it_does_not_matter_where_the_bytes_are_cut(scene: Scene, size: int) -> None:
    whole = b": still here\n\n" + scene.frame(11) + scene.frame(12)
    for begin in range(0, len(whole), size):
        scene.client.take(whole[begin : begin + size])
    assert (scene.client.events, scene.client.gaps) == (2, 0)


def test_a_frame_that_was_cut_off_is_not_mixed_with_the_next_connection(scene: Scene) -> None:
    scene.client.is_open = True
    scene.client.take(scene.frame(11) + scene.frame(12)[:20])
    scene.client.lost()
    scene.client.take(scene.frame(12))
    assert (scene.client.events, scene.client.gaps, scene.client.disconnections) == (2, 0, 1)


def test_the_longest_silence_counts_to_the_run_s_end(scene: Scene) -> None:
    scene.client.take(scene.frame(11))
    scene.timeline.end_us = scene.client.heard_us + 7_000_000
    scene.client.hear(scene.timeline.end_us + 3_000_000)
    assert scene.client.silence_us == 7_000_000


def test_only_this_run_s_decisions_are_samples_and_their_delay_is_from_the_decision(scene: Scene) -> None:
    mine = task_prefix(RUN) + "7"
    scene.client.take(
        scene.frame(11, "task_approved", mine, 0.5)
        + scene.frame(12, "task_approved", "T-1")
        + scene.frame(13, "ack_received", mine)
    )
    (row,) = scene.rows()
    assert (row["kind"], row["client"], row["seq"]) == ("stream", 3, 11)
    assert row["intended_us"] == pytest.approx(500_000, abs=2)
    assert row["done_us"] - row["intended_us"] == pytest.approx(500_000, abs=400_000)


async def test_the_bare_client_reads_chunks(scene: Scene) -> None:
    body = scene.frame(11) + scene.frame(12)
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:30], body[30:]))
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for begin in range(0, len(answer), 11):
            writer.write(answer[begin : begin + 11])
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    loop = asyncio.get_running_loop()
    _, client = await loop.create_connection(lambda: _Bare(scene.client, request), "127.0.0.1", port)
    await asyncio.wait_for(client.over, 5)
    server.close()
    await server.wait_closed()
    assert (scene.client.events, scene.client.gaps) == (2, 0)
