"""Asks Telegram for updates and hands each to kircerta's own API: an offset is confirmed only behind its answer.

Killed at any instant, nothing is lost: what was not confirmed comes again, and the API knows what it has seen. One
poller a token, by `flock`. Neither the token nor an address with it in is ever printed.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

LONG_POLL_S: Final = 25
ANSWER_S: Final = 15.0
LONGEST_PAUSE_S: Final = 5.0
_FIRST_PAUSE_S: Final = 0.2
_MOST_PATIENCE_S: Final = 3600.0
_REFUSED_FOR_GOOD: Final = frozenset({400, 413, 415, 422})
"""What the API says to an update that no repetition makes better; it has counted it."""

Say = Callable[[str], None]


class CannotPoll(Exception):
    """There is no use in going on; the message says what to change."""


@dataclass(frozen=True, slots=True)
class Bot:
    """Where updates come from and where they go."""

    token: str
    bot_api: str
    api_url: str
    secret: str
    long_poll_s: int = LONG_POLL_S


@contextmanager
def only_poller(home: Path, token: str) -> Iterator[None]:
    """The right to poll for a token in this workspace; the kernel frees it on death. Raises CannotPoll."""
    folder = home / ".kircerta"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"telegram-{hashlib.sha256(token.encode()).hexdigest()[:16]}.lock"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CannotPoll("another poller runs for this token in this workspace: one is enough") from None
        yield
    finally:
        os.close(fd)


class Poller:
    """One run of the poller.

    Args:
        say: tells a person what is going on, a line at a time.
    """

    def __init__(self, bot: Bot, say: Say) -> None:
        self._bot = bot
        self._say = say
        self._told = ""
        self.taken = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`. Raises CannotPoll when Telegram does not know the token."""
        logging.getLogger("httpx").setLevel(logging.WARNING)  # below that it tells addresses, token and all
        async with _stoppable(stop) as unless_stopped, httpx.AsyncClient(trust_env=True) as client:
            with suppress(_Stopped):
                offset: int | None = None
                while True:
                    updates = await unless_stopped(self._updates(client, offset))
                    for update in updates:
                        await unless_stopped(self._hand_over(client, update))
                        offset = update["update_id"] + 1  # told to Telegram with the next question: confirmed
                    if not updates:  # a server that does not know long polling must not be asked without end
                        await unless_stopped(asyncio.sleep(_FIRST_PAUSE_S))

    # ----------------------------------------------------------------------------------------- from Telegram

    async def _updates(self, client: httpx.AsyncClient, offset: int | None) -> list[dict[str, Any]]:
        """The next updates, as soon as there are some."""
        asked: dict[str, Any] = {"timeout": self._bot.long_poll_s}
        if offset is not None:
            asked["offset"] = offset
        pause = _FIRST_PAUSE_S
        while True:
            try:
                answer = await client.post(
                    f"{self._bot.bot_api.rstrip('/')}/bot{self._bot.token}/getUpdates",
                    json=asked,
                    timeout=httpx.Timeout(10.0, read=self._bot.long_poll_s + ANSWER_S),
                )
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                self._tell(f"Telegram gives no answer ({type(error).__name__}): trying again")
            else:
                if answer.status_code == 200 and (updates := _updates_of(answer)) is not None:
                    self._tell("")
                    return updates
                pause = self._pause_after(answer, pause)
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_S)

    def _pause_after(self, answer: httpx.Response, pause: float) -> float:
        """What Telegram asks for; its own word counts more than ours."""
        if answer.status_code in (401, 404):
            raise CannotPoll("Telegram does not know this token: look at KIRCERTA_TELEGRAM_TOKEN")
        if answer.status_code == 409:
            self._tell(
                "Telegram says 409: another poller, or a webhook that is set, takes the updates of this bot. Stop it, "
                "or remove the webhook; trying again meanwhile"
            )
            return LONGEST_PAUSE_S
        retry_after = _retry_after(answer)
        self._tell(
            f"Telegram answers {answer.status_code}: "
            + (f"it asks for {retry_after:g} s of patience" if retry_after is not None else "trying again")
        )
        return pause if retry_after is None else retry_after

    # ------------------------------------------------------------------------------------------ to the API

    async def _hand_over(self, client: httpx.AsyncClient, update: dict[str, Any]) -> None:
        """Give one update to the API, until it has taken it."""
        raw = json.dumps(update).encode()  # ASCII: also what is no valid text arrives as it was sent
        headers = {"Content-Type": "application/json", "X-Telegram-Bot-Api-Secret-Token": self._bot.secret}
        pause = _FIRST_PAUSE_S
        while True:
            try:
                answer = await client.post(
                    f"{self._bot.api_url.rstrip('/')}/webhooks/telegram", content=raw, headers=headers, timeout=ANSWER_S
                )
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                self._tell(f"kircerta's API gives no answer ({type(error).__name__}): trying again")
            else:
                if answer.is_success:
                    self.taken += 1
                    self._tell("")
                    return
                if answer.status_code in _REFUSED_FOR_GOOD:
                    self._say(f"update {update['update_id']} is refused for good ({answer.status_code}): passed by")
                    return
                self._tell(f"kircerta's API answers {answer.status_code} {_code(answer)}: trying again")
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_S)

    def _tell(self, line: str) -> None:
        """Say something once, until something else is to be said."""
        if line != self._told:
            self._say(line or "it works again")
            self._told = line


class _Stopped(Exception):
    """Whoever runs the poller has had enough."""


@asynccontextmanager
async def _stoppable(stop: asyncio.Event) -> AsyncIterator[Callable[[Any], Any]]:
    """Gives a way to await something unless `stop` comes first: that raises _Stopped."""
    stopping = asyncio.ensure_future(stop.wait())

    async def unless_stopped(work: Any) -> Any:
        working = asyncio.ensure_future(work)
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        working.cancel()
        with suppress(asyncio.CancelledError):
            await working
        raise _Stopped

    try:
        yield unless_stopped
    finally:
        stopping.cancel()


def _updates_of(answer: httpx.Response) -> list[dict[str, Any]] | None:
    """The updates of an answer, those with an id; None where it is no answer of a Bot API."""
    try:
        body = json.loads(answer.content)
        found = body["result"] if body["ok"] is True else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if not isinstance(found, list):
        return None
    return [one for one in found if isinstance(one, dict) and type(one.get("update_id")) is int]


def _retry_after(answer: httpx.Response) -> float | None:
    """How many seconds Telegram wants to be left alone; None where it does not say."""
    with suppress(ValueError, KeyError, TypeError, RecursionError):
        asked = float(json.loads(answer.content)["parameters"]["retry_after"])
        return min(max(_FIRST_PAUSE_S, asked), _MOST_PATIENCE_S)
    return None


def _code(answer: httpx.Response) -> str:
    with suppress(ValueError, KeyError, TypeError):
        return str(json.loads(answer.content)["code"])[:100]
    return ""
