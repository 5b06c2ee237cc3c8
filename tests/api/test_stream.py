"""The stream in one process: what a client is told, from where on, and when it ends."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import time
from pathlib import Path

import orjson
import pytest
from starlette.requests import Request

from api.auth import Principal
from api.follower import Follower, frame_of
from api.problems import Problem
from api.stream import EventStream
from ssot.store import Store, StoreSettings
from tests.api.listening import Line, alert, streaming, until


def denied(request: Request) -> Principal | None:
    raise Problem("unauthenticated", "who are you?", headers={"WWW-Authenticate": "Bearer"})


async def test_each_event_is_the_line_as_it_stands_in_the_file_under_its_cursor(store: Store) -> None:
    async with streaming(store.audit_folder) as stream, Line(stream) as line:
        event = alert(store)
        told = (await line.tells(1))[0]
    assert (told.event, told.id, told.data) == ("message", event.cursor, event.line)
    assert (store.audit_folder / "events.jsonl").read_bytes() == told.data + b"\n"


async def test_the_answer_is_a_stream_that_no_proxy_holds_back(store: Store) -> None:
    async with streaming(store.audit_folder) as stream, Line(stream) as line:
        await until(lambda: line.body)
        assert line.body.startswith(b"retry: 2000\n\n: ")
        assert line.answer_headers["content-type"] == "text/event-stream"
        assert line.answer_headers["cache-control"] == "no-store"
        assert line.answer_headers["x-accel-buffering"] == "no"


async def test_what_is_committed_once_the_head_is_there_is_told(store: Store) -> None:
    alert(store, 1)
    async with streaming(store.audit_folder) as stream:
        for number in range(50):
            async with Line(stream, on_head=lambda number=number: alert(store, number)) as line:
                told = await line.tells(1)
                assert told[-1].seq == store.last_seq()


async def test_without_an_id_the_stream_starts_now(store: Store) -> None:
    for number in range(5):
        alert(store, number)
    async with streaming(store.audit_folder) as stream, Line(stream) as line:
        alert(store, 5)
        assert [told.seq for told in await line.tells(1)] == [6]


async def test_an_id_resumes_behind_it_by_header_or_query_and_the_header_is_newer(store: Store) -> None:
    events = [alert(store, number) for number in range(10)]
    async with streaming(store.audit_folder) as stream:
        async with Line(stream, headers={"Last-Event-ID": events[3].cursor}) as line:
            assert [told.seq for told in await line.tells(6)] == [5, 6, 7, 8, 9, 10]
        async with Line(stream, query=f"last_event_id={events[7].cursor}") as line:
            assert [told.seq for told in await line.tells(2)] == [9, 10]
        query = f"last_event_id={events[0].cursor}&after=2"
        async with Line(stream, query=query, headers={"Last-Event-ID": events[8].cursor}) as line:
            assert [told.seq for told in await line.tells(1)] == [10]


async def test_after_replays_from_a_seq(store: Store) -> None:
    for number in range(4):
        alert(store, number)
    async with streaming(store.audit_folder) as stream:
        async with Line(stream, query="after=0") as line:
            assert [told.seq for told in await line.tells(4)] == [1, 2, 3, 4]
        async with Line(stream, query="after=4") as line:
            alert(store, 4)
            assert [told.seq for told in await line.tells(1)] == [5]


@pytest.mark.parametrize(
    "last_id", ["3.00000000", "99.abcdef01", "0.00000000", "nonsense", "03.11111111", "-1", "٣.12345678"]
)
async def test_an_id_that_the_log_does_not_know_gets_one_reset_and_then_what_comes(store: Store, last_id: str) -> None:
    for number in range(5):
        alert(store, number)
    async with streaming(store.audit_folder) as stream, Line(stream, headers={"Last-Event-ID": last_id}) as line:
        reset = (await line.tells(1))[0]
        last = alert(store, 5)
        told = await line.tells(2)
        assert stream.counts.resets == 1
    assert (reset.event, orjson.loads(reset.data)["reason"], reset.seq) == ("reset", "unknown_id", 5)
    assert [told.id for told in told[1:]] == [last.cursor]


async def test_a_seq_ahead_of_the_log_is_a_reset(store: Store) -> None:
    alert(store)
    async with streaming(store.audit_folder) as stream, Line(stream, query="after=2") as line:
        assert orjson.loads((await line.tells(1))[0].data) == {
            "reason": "ahead",
            "seq": 1,
            "cursor": line.told[0].id,
        }


async def test_on_an_empty_log_a_reset_clears_the_id(store: Store) -> None:
    async with streaming(store.audit_folder) as stream, Line(stream, headers={"Last-Event-ID": "7.01234567"}) as line:
        reset = (await line.tells(1))[0]
        assert (reset.id, orjson.loads(reset.data)["cursor"]) == ("", None)
        assert alert(store).line == (await line.tells(2))[1].data


@pytest.mark.parametrize("ring_bytes", [1 << 20, 2_000], ids=["from memory", "from files"])
@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("type=alert", [1, 2, 4]),
        ("type=log_recovered", [3]),
        ("type=alert,log_recovered", [1, 2, 3, 4]),
        ("subject=T-1", [2, 3]),
        ("subject=T-1,T-2", [2, 3, 4]),
        ("subject=T-1&type=alert", [2]),
    ],
)
async def test_filters_choose_by_type_and_subject(
    store: Store, query: str, expected: list[int], ring_bytes: int
) -> None:
    from audit.event import Draft

    alert(store)
    alert(store, subject="T-1")
    store.note(Draft("log_recovered", "tests", {}, subject="T-1"))
    alert(store, subject="T-2")
    for _ in range(10):
        store.note(Draft("auth_denied", "tests", {"route": "x" * 200}))
    async with (
        streaming(store.audit_folder, ring_bytes=ring_bytes) as stream,
        Line(stream, query=f"after=0&{query}") as replayed,
        Line(stream, query=query) as live,
    ):
        assert [told.seq for told in await replayed.tells(len(expected))] == expected
        last = (
            alert(store, subject="T-1")
            if "recovered" not in query
            else store.note(Draft("log_recovered", "tests", {}, subject="T-1"))
        )
        assert [told.seq for told in await live.tells(1)] == [last.seq]
        assert (await replayed.tells(len(expected) + 1))[-1].seq == last.seq


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("after=-1", "after"),
        ("after=x", "after"),
        ("after=", "after"),
        ("after=1&after=2", "after"),
        ("subject=", "subject"),
        ("subject=../x", "subject"),
        ("type=Bad", "type"),
        ("type=a,,b", "type"),
        ("since=1", "since"),
    ],
)
async def test_a_parameter_that_cannot_be_used_is_named_and_nothing_streams(
    store: Store, query: str, parameter: str
) -> None:
    async with streaming(store.audit_folder) as stream, Line(stream, query=query) as line:
        await line.ends()
        assert (line.status, orjson.loads(line.body)["parameter"]) == (422, parameter)
        assert line.answer_headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("method", ["HEAD", "POST", "DELETE", "OPTIONS"])
async def test_only_get_is_possible(store: Store, method: str) -> None:
    async with streaming(store.audit_folder) as stream, Line(stream, method=method) as line:
        await line.ends()
        assert (line.status, line.answer_headers["allow"]) == (405, "GET")


async def test_a_refusal_is_a_problem_and_never_an_empty_stream(store: Store) -> None:
    async with streaming(store.audit_folder, reader=denied) as stream, Line(stream) as line:
        await line.ends()
        assert (line.status, line.answer_headers["www-authenticate"]) == (401, "Bearer")
        assert orjson.loads(line.body)["code"] == "unauthenticated"
        assert stream.counts.opened == 0


async def test_too_many_streams_are_told_when_to_come_back(store: Store) -> None:
    async with streaming(store.audit_folder, streams=2) as stream, Line(stream), Line(stream) as second:
        async with Line(stream) as third:
            await third.ends()
            assert (third.status, third.ended) == (200, True)
            assert third.body.startswith(b"retry: 30000\n\n")
        alert(store)
        await second.tells(1)
    assert stream.open_streams == 0


async def test_a_stream_ends_with_its_token(store: Store) -> None:
    ends_at = time.time() + 0.3
    async with (
        streaming(store.audit_folder, reader=lambda _: Principal("ann", frozenset({"viewer"}), ends_at)) as stream,
        Line(stream) as line,
    ):
        await line.ends()
        assert time.time() >= ends_at
        assert line.ended
        assert line.body.endswith(b": the token has expired\n\n")


async def test_a_quiet_stream_says_that_it_is_there(store: Store) -> None:
    async with streaming(store.audit_folder, comment_s=0.1) as stream, Line(stream) as line:
        await until(lambda: line.body.count(b": still here\n\n") >= 2)
        alert(store)
        await line.tells(1)


async def test_comments_come_while_a_filter_lets_nothing_through(store: Store) -> None:
    async with streaming(store.audit_folder, comment_s=0.1) as stream, Line(stream, query="type=reject_lock") as line:
        async with Line(stream) as all_of_it:
            for number in range(100):
                alert(store, number)
            await all_of_it.tells(100)
        await until(lambda: b": still here\n\n" in line.body)
        assert line.told == []


async def test_comments_come_on_a_busy_stream_too(store: Store) -> None:
    async with streaming(store.audit_folder, comment_s=0.6) as stream, Line(stream) as line:
        for number in range(40):  # never as quiet as 0.6 s
            alert(store, number)
            await line.tells(number + 1)
            await asyncio.sleep(0.05)
        assert b": still here\n\n" in line.body


async def test_who_does_not_read_is_cut_off_and_nobody_waits(store: Store) -> None:
    async with (
        streaming(store.audit_folder, send_s=0.4, lag_s=0.4) as stream,
        Line(stream) as healthy,
        Line(stream, stuck=True) as stuck,
    ):
        for number in range(20):
            alert(store, number)
        await healthy.tells(20)
        await stuck.ends()
        assert (stream.counts.cut_off, stream.open_streams) == (1, 1)
        alert(store, 20)
        await healthy.tells(21)


async def test_who_lags_far_behind_is_cut_off_sooner(store: Store) -> None:
    async with (
        streaming(store.audit_folder, send_s=60, lag_s=0.2, lag_events=50) as stream,
        Line(stream, stuck=True) as stuck,
    ):
        for number in range(60):
            alert(store, number)
        await stuck.ends()
        assert stream.counts.cut_off == 1


async def test_the_end_of_the_server_ends_every_stream_and_takes_on_no_new_one(store: Store) -> None:
    async with streaming(store.audit_folder) as stream, Line(stream) as line:
        stream.end_all()
        await line.ends(1)
        assert line.ended
        assert line.body.endswith(b": the server stops\n\n")
        async with Line(stream) as late:
            await late.ends(1)
            assert late.body.startswith(b"retry: 2000\n\n")


async def test_clients_in_step_share_the_same_bytes(store: Store) -> None:
    async with streaming(store.audit_folder) as stream, Line(stream) as one, Line(stream) as two:
        await until(lambda: one.chunks and two.chunks)
        alert(store)
        await one.tells(1)
        await two.tells(1)
        assert one.chunks[-1] is two.chunks[-1]


# ------------------------------------------------------------------------------------- the log is replaced


def replace_log(store: Store, older: bytes) -> None:
    """Put an older copy where the log is, as `cp` to a new name and `mv` do."""
    copy = store.audit_folder / "copy"
    copy.write_bytes(older)
    copy.rename(store.audit_folder / "events.jsonl")


async def test_a_log_replaced_by_an_older_copy_is_a_reset_for_all_and_goes_on(home: Path, store: Store) -> None:
    for number in range(3):
        alert(store, number)
    older = (store.audit_folder / "events.jsonl").read_bytes()
    async with streaming(store.audit_folder) as stream, Line(stream) as here, Line(stream, query="type=alert") as picky:
        gone = alert(store, 3)
        await here.tells(1)
        replace_log(store, older)
        told = await here.tells(2)
        assert (told[1].event, told[1].seq) == ("reset", 3)
        assert orjson.loads(told[1].data)["reason"] == "rewound"
        other = Store.open(home, source="kircerta/other")
        again = alert(other, 33)
        assert (await here.tells(3))[2].id == again.cursor != gone.cursor
        assert [told.event for told in (await picky.tells(3))] == ["message", "reset", "message"]
        async with Line(stream, headers={"Last-Event-ID": gone.cursor}) as late:
            assert (await late.tells(1))[0].event == "reset"
        other.close()


async def test_a_log_cut_in_place_is_a_reset(store: Store) -> None:
    alert(store, 0)
    older = (store.audit_folder / "events.jsonl").read_bytes()
    alert(store, 1)
    async with streaming(store.audit_folder) as stream, Line(stream) as line:
        os.truncate(store.audit_folder / "events.jsonl", len(older))
        assert (await line.tells(1))[0].event == "reset"


async def test_the_same_log_in_new_files_goes_on_unnoticed(home: Path, store: Store) -> None:
    for number in range(3):
        alert(store, number)
    async with streaming(store.audit_folder) as stream, Line(stream) as line:
        replace_log(store, (store.audit_folder / "events.jsonl").read_bytes())
        other = Store.open(home, source="kircerta/other")
        for number in range(3, 6):
            alert(other, number)
        assert [told.seq for told in await line.tells(3)] == [4, 5, 6]
        assert stream.counts.resets == 0
        other.close()


async def test_a_folder_moved_away_and_put_back_goes_on(home: Path, store: Store) -> None:
    alert(store)
    async with streaming(store.audit_folder) as stream, Line(stream) as line:
        store.audit_folder.rename(home / "elsewhere")
        shutil.copytree(home / "elsewhere", store.audit_folder)
        other = Store.open(home, source="kircerta/other")
        alert(other, 1)
        assert [(told.event, told.seq) for told in await line.tells(1)] == [("message", 2)]
        other.close()


async def test_a_log_that_contradicts_itself_ends_the_streams_and_refuses_new_ones(store: Store) -> None:
    alert(store)
    async with streaming(store.audit_folder) as stream, Line(stream) as line:
        with (store.audit_folder / "events.jsonl").open("ab") as log:
            log.write(b"no event\n")
        await line.ends()
        assert line.body.endswith(b": the log cannot be followed\n\n")
        async with Line(stream) as refused:
            await refused.ends()
            assert (refused.status, orjson.loads(refused.body)["code"]) == (503, "log_corrupt")


async def test_a_log_that_was_mended_goes_on_without_a_gap(store: Store) -> None:
    log = store.audit_folder / "events.jsonl"
    first = alert(store)
    async with streaming(store.audit_folder) as stream, Line(stream) as line:
        alert(store, 1)
        await line.tells(1)
        good = log.read_bytes()
        other = Store.open(store.home, source="kircerta/other")
        following = [alert(other, 2).line, alert(other, 3).line]
        other.close()
        await line.tells(3)
        log.write_bytes(good + following[0] + b"\nno event\n")
        await line.ends()
        log.write_bytes(good + b"\n".join([*following, b""]))
        await until(lambda: stream.problem is None)
        async with Line(stream, headers={"Last-Event-ID": first.cursor}) as resumed:
            assert [told.seq for told in await resumed.tells(3)] == [2, 3, 4]


# -------------------------------------------------------------------------------------------- replicas, cuts


async def test_an_id_from_a_faster_replica_is_no_reset(store: Store) -> None:
    alert(store)
    async with streaming(store.audit_folder) as fast, streaming(store.audit_folder) as slow:
        for number in range(30):
            async with Line(fast) as line:
                event = alert(store, number)
                await line.tells(1)
            async with Line(slow, headers={"Last-Event-ID": event.cursor}) as line:
                following = alert(store, number)
                assert [told.id for told in await line.tells(1)] == [following.cursor]


async def test_a_replica_that_is_behind_waits_for_its_turn_without_a_reset(store: Store) -> None:
    follower = await Follower(store.audit_folder).start()
    await follower.stop()  # from here on it hears nothing: a replica that is very slow
    stream = EventStream(lambda request: None)
    await stream.start(follower)
    event = alert(store)
    async with Line(stream, headers={"Last-Event-ID": event.cursor}) as line:
        await until(lambda: line.body)
        assert stream.counts.resets == 0
        frames = [frame_of(event), frame_of(alert(store))]
        follower._publish(frames)
        assert [told.id for told in await line.tells(1)] == [frames[1].at.cursor]
    await stream.stop()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
async def test_thousands_of_cuts_restarts_and_rotations_leave_no_gap_and_no_repeat(home: Path, seed: int) -> None:
    """A client that is cut at random bytes, of servers that restart, over a log that rotates, always resumes."""
    home.mkdir()
    chance = random.Random(seed)
    store = Store.open(home, source="kircerta/tests", settings=StoreSettings(segment_bytes=20_000))
    told: list[str] = []
    cuts = 0
    last = ""
    while cuts < 1500:
        ring_bytes = chance.choice([1_500, 8_000, 1 << 20])
        async with streaming(store.audit_folder, ring_bytes=ring_bytes) as stream:
            for _ in range(chance.randint(20, 150)):
                cuts += 1
                headers = {"Last-Event-ID": last} if last else {}
                async with Line(stream, query="" if last else "after=0", headers=headers) as line:
                    for number in range(chance.choice([0, 1, 1, 2, 5])):
                        alert(store, number)
                    await until(lambda line=line: len(line.chunks) > chance.choice([0, 1, 1]))
                    line.body = line.body[: chance.randint(0, len(line.body))]
                    seen = [one for one in line.told if one.event == "message"]
                    assert len(seen) == len(line.told), "a reset"
                    told += [one.id for one in seen]
                    last = told[-1] if told else ""
    async with streaming(store.audit_folder) as stream, Line(stream, headers={"Last-Event-ID": last}) as line:
        end = alert(store)
        await until(lambda: line.told and line.told[-1].id == end.cursor)
        told += [one.id for one in line.told]
    assert told == [event.cursor for event in store.events()]
    assert len(list(store.audit_folder.glob("events-*.jsonl"))) > 5
    store.close()


async def test_a_follower_stops_promptly(store: Store) -> None:
    follower = await Follower(store.audit_folder).start()
    begun = time.monotonic()
    await follower.stop()
    assert time.monotonic() - begun < 1
