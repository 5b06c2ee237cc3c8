"""The poller against a Bot API and an API that fail in every way they know: nothing lost, nothing twice."""

from __future__ import annotations

import asyncio
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

from flows.telegram import Bot, CannotPoll, Poller, only_poller
from ssot import replay
from ssot.store import Store
from tests import builders
from tests.api.running import ROOT, await_health, command, environment, free_port
from tests.flows.botserver import TOKEN, BotServer, bot_server

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


async def polled(bot: BotServer, api: TheApi, until: Callable[[], bool]) -> list[str]:
    """Run a poller until something is so; gives what it said."""
    said: list[str] = []
    stop = asyncio.Event()
    poller = Poller(Bot(TOKEN, bot.url, api.url, SECRET, long_poll_s=1), said.append)
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
        with pytest.raises(CannotPoll, match="another poller"), only_poller(tmp_path, TOKEN):
            pass
    with only_poller(tmp_path, TOKEN):
        pass
    assert TOKEN not in "".join(path.name for path in (tmp_path / ".kircerta").iterdir())


@pytest.mark.slow
def test_killed_at_random_points_nothing_is_lost_and_nothing_comes_twice(tmp_path: Path) -> None:
    """kill -9 of the poller and of the API, over and over, while updates come in."""
    chance = random.Random(4)
    rounds, home, port = 12, tmp_path / "home", free_port()
    total = 10 * rounds
    home.mkdir()
    given = environment(home, KIRCERTA_TELEGRAM_SECRET=SECRET)
    with bot_server() as bot, ended_after() as running:
        running["api"] = subprocess.Popen(command(port), env=given, cwd=home)
        await_health(running["api"], port)
        running["poller"] = poller_process(home, bot, port)
        for number in range(rounds):
            bot.put(*updates(10, first=10 * number + 1))
            asked = len(bot.asked)
            wait_until(lambda asked=asked: len(bot.asked) > asked)
            time.sleep(chance.random() * 0.03)
            name = chance.choice(["api", "poller"])
            running[name].kill()
            running[name].wait()
            running[name] = (
                subprocess.Popen(command(port), env=given, cwd=home)
                if name == "api"
                else poller_process(home, bot, port)
            )
        wait_until(bot.is_empty)
    store = Store.open(home, source="kircerta/tests")
    try:
        assert sorted(store.view.entries) == sorted(f"tg-n1001-{n}" for n in range(1, total + 1))
        types = [event.type for event in store.events()]
        created = [event.subject for event in store.events() if event.type == "task_created"]
        assert "telegram_dedup_hit" in types, "no kill came between an effect and its confirmation"
        assert len(created) == len(set(created)) == total
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
    return subprocess.Popen(
        given, env=environment(home, **more), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


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
