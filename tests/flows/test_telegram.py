"""The poller against a Bot API and an API that fail in every way they know: nothing lost, nothing twice."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from flows.telegram import AlreadyPolling, Bot, CannotPoll, Poller, only_poller
from flows.turn import MOST_PATIENCE_S, Turn
from ssot import replay
from ssot.store import Store
from tests import builders
from tests.api.running import ROOT, await_health, command, environment, free_port
from tests.flows.botserver import CUT, TOKEN, Answer, BotServer, bot_server

SECRET = "tele_gram"


class TheApi:
    """What stands where kircerta's API is: takes notes, and answers what it is told to."""

    def __init__(self, statuses: list[int]) -> None:
        self.statuses = statuses
        self.bodies: list[bytes] = []
        self.url = ""
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> TheApi:
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
            self.bodies.append(await reader.readexactly(length))
            status = self.statuses.pop(0) if self.statuses else 202
            if status:
                writer.write(b"HTTP/1.1 %d X\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}" % status)
                await writer.drain()
        writer.close()


async def polled(bot: BotServer, api: TheApi, until: Callable[[], bool], turn: Turn | None = None) -> list[str]:
    """Run a poller until something is so; gives what it said."""
    said: list[str] = []
    stop = asyncio.Event()
    poller = Poller(Bot(TOKEN, bot.url, api.url, SECRET, long_poll_s=1), said.append, turn)
    running = asyncio.create_task(poller.run(stop))
    async with asyncio.timeout(60):
        while not until() and not running.done():
            await asyncio.sleep(0.02)
    stop.set()
    await running
    assert TOKEN not in "".join(said)
    return said


def updates(count: int, first: int = 1) -> list[dict[str, Any]]:
    return [builders.update_payload(f"update {n}", n, message_id=n) for n in range(first, first + count)]


async def test_an_offset_is_confirmed_only_behind_the_answer() -> None:
    with bot_server() as bot:
        bot.put(*updates(3))
        async with TheApi([503, 0, 500, 202]) as api:
            said = await polled(bot, api, bot.is_empty)
    assert len(api.bodies) == 6, "the first one three times more"
    assert [one.get("offset") for one in bot.asked][:2] == [None, 4]
    assert any("503" in line for line in said)


async def test_an_update_that_is_refused_for_good_is_passed_by() -> None:
    with bot_server() as bot:
        bot.put(*updates(2))
        async with TheApi([400, 202]) as api:
            said = await polled(bot, api, bot.is_empty)
    assert len(api.bodies) == 2
    assert said == ["update 1 is refused for good (400): passed by"]


async def test_ids_that_begin_anew_are_no_reason_to_stop() -> None:
    with bot_server() as bot:
        bot.put(*updates(2, first=900))
        async with TheApi([]) as api:
            await polled(bot, api, bot.is_empty)
            bot.put(*updates(2, first=3))
            await polled(bot, api, bot.is_empty)
    assert len(api.bodies) == 4


async def test_an_offset_that_says_nothing_more_is_not_told_again() -> None:
    with bot_server() as bot:
        bot.put(*updates(1, first=900))
        async with TheApi([]) as api:
            await polled(bot, api, lambda: len(bot.asked) > 2)
    assert [one.get("offset") for one in bot.asked[:3]] == [None, 901, None]


async def test_who_stops_confirms_what_was_taken() -> None:
    with bot_server() as bot:
        bot.put(*updates(1))
        async with TheApi([]) as api:
            await polled(bot, api, lambda: bool(api.bodies))
        assert bot.is_empty()
        assert sum(one.get("offset") == 2 for one in bot.asked) >= 1


async def test_what_is_not_taken_yet_stays_with_telegram_when_the_poller_stops() -> None:
    with bot_server() as bot:
        bot.put(*updates(3))
        async with TheApi([202, 503, 503, 503, 503]) as api:
            await polled(bot, api, lambda: len(api.bodies) == 3)
        assert [one["update_id"] for one in bot.waiting] == [2, 3]


async def test_whatever_telegram_and_the_api_answer_each_update_is_handed_over() -> None:
    """A seeded storm: refusals, conflicts, limits, cut connections on both sides; ids begin anew in between."""
    chance = random.Random(9)
    storm: list[Answer] = [CUT, (500, {}), (502, {}), (200, {"ok": False}), (200, {"ok": True, "result": "?"}),
                           (429, {"ok": False, "parameters": {"retry_after": 0}})]  # fmt: skip
    with bot_server() as bot:
        async with TheApi([]) as api:
            for turn, first in enumerate(chance.sample(range(1, 10**9), 3)):
                bot.answers += chance.sample(storm, k=2)
                api.statuses += chance.choices([0, 202, 500, 503], k=2)
                messages = [100 * turn + n for n in range(7)]
                bot.put(*(builders.update_payload("x", first + n, message_id=m) for n, m in enumerate(messages)))
                await polled(bot, api, bot.is_empty)
    seen = [json.loads(body)["message"]["message_id"] for body in api.bodies]
    assert sorted(set(seen)) == [100 * turn + n for turn in range(3) for n in range(7)]
    assert list(dict.fromkeys(seen)) == sorted(set(seen)), "in the order in which they came"


async def test_telegrams_word_on_patience_holds_for_the_next_poller_too(tmp_path: Path) -> None:
    limit = (429, {"ok": False, "parameters": {"retry_after": 2}})
    with bot_server() as bot:
        bot.answers.append(limit)
        bot.put(*updates(1))
        async with TheApi([]) as api:
            with only_poller(tmp_path, TOKEN) as turn:
                await polled(bot, api, lambda: bool(bot.asked), turn)
            with only_poller(tmp_path, TOKEN) as turn:
                assert 0 < turn.patience_s() <= 2
                said = await polled(bot, api, bot.is_empty, turn)
    assert bot.times[1] - bot.times[0] >= 1.9
    assert "patience" in said[0]


def test_patience_is_bounded_and_what_is_no_time_is_none(tmp_path: Path) -> None:
    with only_poller(tmp_path, TOKEN) as turn:
        turn.keep_patience(10**9)
        assert turn.patience_s() == MOST_PATIENCE_S
        turn.keep_patience(-5)
        assert turn.patience_s() == 0
        (kept,) = (tmp_path / ".kircerta").glob("telegram-*")
        for nonsense in (b"", b"nan", b"soon", b"\xff"):
            kept.write_bytes(nonsense)
            assert turn.patience_s() == 0


async def test_telegrams_word_on_patience_is_obeyed() -> None:
    with bot_server() as bot:
        bot.answers.append((429, {"ok": False, "error_code": 429, "parameters": {"retry_after": 1}}))
        bot.put(*updates(1))
        async with TheApi([]) as api:
            await polled(bot, api, bot.is_empty)
    assert bot.times[1] - bot.times[0] >= 1


async def test_a_second_poller_elsewhere_is_told_plainly() -> None:
    with bot_server() as bot:
        bot.answers.append((409, {"ok": False, "error_code": 409, "description": "Conflict"}))
        async with TheApi([]) as api:
            said: list[str] = []
            stop = asyncio.Event()
            running = asyncio.create_task(Poller(Bot(TOKEN, bot.url, api.url, SECRET), said.append).run(stop))
            async with asyncio.timeout(10):
                while not said:
                    await asyncio.sleep(0.02)
            stop.set()
            await running
    assert "409" in said[0]
    assert "another poller" in said[0]


async def test_a_token_that_nobody_knows_ends_it() -> None:
    with bot_server() as bot:
        poller = Poller(Bot("wrong", bot.url, "http://127.0.0.1:1", SECRET), lambda line: None)
        with pytest.raises(CannotPoll, match="KIRCERTA_TELEGRAM_TOKEN"):
            await poller.run(asyncio.Event())


def test_there_is_one_poller_a_token(tmp_path: Path) -> None:
    with only_poller(tmp_path, TOKEN):
        with only_poller(tmp_path, "another"):
            pass
        for home in (tmp_path, tmp_path / "elsewhere"):
            with pytest.raises(AlreadyPolling, match="another poller"), only_poller(home, TOKEN):
                pass
    with only_poller(tmp_path / "elsewhere", TOKEN):
        pass
    assert TOKEN not in repr(Bot(TOKEN, "", "", SECRET))
    assert TOKEN not in "".join(path.name for path in (tmp_path / ".kircerta").iterdir())


@pytest.mark.slow
def test_killed_at_random_points_nothing_is_lost_and_nothing_comes_twice(tmp_path: Path) -> None:
    """kill -9 of the poller, of the API and of both, over and over, while updates come in and Telegram stumbles."""
    chance = random.Random(4)
    rounds, home, port = 12, tmp_path / "home", free_port()
    total = 10 * rounds
    home.mkdir()
    given = environment(home, KIRCERTA_TELEGRAM_SECRET=SECRET)
    start: dict[str, Callable[[], subprocess.Popen[bytes]]] = {
        "api": lambda: subprocess.Popen(command(port), env=given, cwd=home),
        "poller": lambda: poller_process(home, bot, port),
    }
    with bot_server() as bot, ended_after() as running:
        running["api"] = start["api"]()
        await_health(running["api"], port)
        running["poller"] = start["poller"]()
        for number in range(rounds):
            wait_until(bot.is_empty)  # only then ids may begin anew
            first = chance.randrange(1, 10**9)
            numbers = range(10 * number, 10 * number + 10)
            bot.put(*(builders.update_payload(f"do {n}", first + n, message_id=n) for n in numbers))
            bot.answers += chance.choices([CUT, (503, {}), (200, {"ok": False})], k=chance.randrange(2))
            asked = len(bot.asked)
            wait_until(lambda asked=asked: len(bot.asked) > asked)
            time.sleep(chance.random() * 0.03)
            for name in chance.choice([["api"], ["poller"], ["api", "poller"]]):
                running[name].kill()
                running[name].wait()
                running[name] = start[name]()
        wait_until(bot.is_empty)
    assert_each_message_has_its_task(home, total)


def assert_each_message_has_its_task(home: Path, total: int) -> None:
    """Files, log and sums: one task a message, one event a delivery."""
    files = {path.stem: json.loads(path.read_bytes()) for path in (home / "ssot" / "tasks").glob("*.json")}
    assert {name: file["request_text"] for name, file in files.items()} == {
        f"tg-n1001-{n}": f"do {n}" for n in range(total)
    }
    store = Store.open(home, source="kircerta/tests")
    try:
        told = [event for event in store.events() if "delivery_id" in event.data]
        created = [event.subject for event in told if event.type == "task_created"]
        repeats = [event for event in told if event.type == "telegram_dedup_hit"]
        assert repeats, "no kill came between an effect and its confirmation"
        assert len(created) == len(set(created)) == total
        assert len(created) + len(repeats) == len(told)
        assert replay.check(home).ok
    finally:
        store.close()


def wait_until(so: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not so():
        assert time.monotonic() < deadline
        time.sleep(0.002)


@contextmanager
def ended_after() -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    running: dict[str, subprocess.Popen[bytes]] = {}
    try:
        yield running
    finally:
        for process in running.values():
            process.kill()
            process.wait()


def poller_process(home: Path, bot: BotServer, port: int) -> subprocess.Popen[bytes]:
    more = {
        "KIRCERTA_TELEGRAM_SECRET": SECRET,
        "KIRCERTA_TELEGRAM_TOKEN": TOKEN,
        "KIRCERTA_TELEGRAM_API": bot.url,
    }
    given = [sys.executable, "-m", "cli.main", "telegram", "poll", "--api-url", f"http://127.0.0.1:{port}"]
    with (home / "poller.log").open("ab") as log:
        return subprocess.Popen(given, env=environment(home, **more), cwd=ROOT, stdout=log, stderr=log)


@pytest.mark.slow
def test_the_command_ends_well_on_sigterm_and_refuses_a_second_one(tmp_path: Path) -> None:
    with bot_server() as bot:
        first = poller_process(tmp_path, bot, free_port())
        end = time.monotonic() + 20
        while not bot.asked and time.monotonic() < end:
            time.sleep(0.02)
        second = poller_process(tmp_path, bot, free_port())
        assert second.wait(20) == 1
        os.kill(first.pid, signal.SIGTERM)
        assert first.wait(10) == 0
    said = (tmp_path / "poller.log").read_text()
    assert "another poller" in said
    assert TOKEN not in said
