"""Asks Telegram for updates and hands each to kircerta's own API: an offset is confirmed only behind its answer.

Killed at any instant, nothing is lost: what was not confirmed comes again, and the API knows what it has seen. One
poller a token. Neither the token nor an address with it in is ever printed. Needs no Prefect.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import httpx

from flows.turn import MOST_PATIENCE_S, Turn, TurnTaken, only_one
from ssot.settings import Settings

LONG_POLL_S: Final = 25
ANSWER_S: Final = 15.0
LONGEST_PAUSE_S: Final = 5.0
_FIRST_PAUSE_S: Final = 0.2
_LAST_WORD_S: Final = 5.0
_REFUSED_FOR_GOOD: Final = frozenset({400, 413, 415, 422})
"""What the API says to an update that no repetition makes better; it has counted it."""

Say = Callable[[str], None]
Trouble = Literal["TelegramSilent", "TakenElsewhere", "AskedToWait", "ApiSilent"]


class CannotPoll(Exception):
    """There is no use in going on; the message says what to change."""


class NotConfigured(CannotPoll):
    """A setting is missing."""


class AlreadyPolling(CannotPoll):
    """Another poller has the token."""


@dataclass(frozen=True, slots=True)
class Bot:
    """Where updates come from and where they go."""

    token: str = field(repr=False)
    bot_api: str
    api_url: str
    secret: str = field(repr=False)
    long_poll_s: int = LONG_POLL_S

    @classmethod
    def of(cls, settings: Settings, api_url: str | None = None) -> Bot:
        """The bot that the settings name. Raises NotConfigured."""
        token = settings.telegram_token.get_secret_value().strip() if settings.telegram_token else ""
        if not token:
            raise NotConfigured("KIRCERTA_TELEGRAM_TOKEN is not set: without a bot's token there is nothing to ask for")
        secrets = settings.telegram_secret.get_secret_value().split(",") if settings.telegram_secret else []
        secret = next((part.strip() for part in secrets if part.strip()), None)
        if secret is None:
            raise NotConfigured("KIRCERTA_TELEGRAM_SECRET is not set: the API would take nothing")
        return cls(token, settings.telegram_api, api_url or settings.api_url, secret)


@contextmanager
def only_poller(home: Path, token: str) -> Iterator[Turn]:
    """The right to poll for a token. Raises AlreadyPolling."""
    try:
        with only_one(home, "telegram", token) as turn:
            yield turn
    except TurnTaken:
        raise AlreadyPolling("another poller runs for this token on this machine: one is enough") from None


class Poller:
    """One run of the poller.

    Args:
        say: tells a person what is going on, a line at a time.
        turn: remembers for how long Telegram wants to be left alone, for whoever polls next.

    Attributes:
        effects: what became of the updates that were handed over, in the API's words, counted.
        passed_by: how many the API refused for good.
        trouble: what keeps it from working at the moment, and `told` the line that says so; empty when it works.
    """

    def __init__(self, bot: Bot, say: Say, turn: Turn | None = None) -> None:
        self._bot = bot
        self._say = say
        self._turn = turn
        self._offset: int | None = None
        self.told = ""
        self.trouble: Trouble | None = None
        self.effects: Counter[str] = Counter()
        self.passed_by = 0

    @property
    def taken(self) -> int:
        """How many updates the API has taken."""
        return self.effects.total()

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`. Raises CannotPoll when Telegram does not know the token."""
        logging.getLogger("httpx").setLevel(logging.WARNING)  # below that it tells addresses, token and all
        async with _stoppable(stop) as unless_stopped, httpx.AsyncClient(trust_env=True) as client:
            with suppress(_Stopped):
                await unless_stopped(self._old_patience())
                while True:
                    updates = await unless_stopped(self._updates(client))
                    # What came before is confirmed now. An offset that says nothing more is not told again: after a
                    # quiet week ids begin anew anywhere, and the old one could hide them.
                    self._offset = None
                    for update in updates:
                        await unless_stopped(self._hand_over(client, update))
                        self._offset = update["update_id"] + 1  # told to Telegram with the next question: confirmed
                    if not updates:  # a server that does not know long polling must not be asked without end
                        await unless_stopped(asyncio.sleep(_FIRST_PAUSE_S))
            await self._last_word(client)

    # ----------------------------------------------------------------------------------------- from Telegram

    async def _old_patience(self) -> None:
        """Wait for what Telegram asked of whoever polled before."""
        left = self._turn.patience_s() if self._turn else 0.0
        if left > 0:
            self._tell(f"Telegram asked for patience: {left:.0f} s are left", "AskedToWait")
            await asyncio.sleep(left)

    async def _updates(self, client: httpx.AsyncClient) -> list[dict[str, Any]]:
        """The next updates, as soon as there are some."""
        pause = _FIRST_PAUSE_S
        while True:
            try:
                answer = await self._ask(client, self._bot.long_poll_s)
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                self._tell(f"Telegram gives no answer ({type(error).__name__}): trying again", "TelegramSilent")
                wait = pause
            else:
                if answer.status_code == 200 and (updates := _updates_of(answer)) is not None:
                    self._tell("", None)
                    return updates
                wait = self._pause_after(answer, pause)
            await asyncio.sleep(wait)
            pause = min(pause * 2, LONGEST_PAUSE_S)

    async def _ask(self, client: httpx.AsyncClient, long_poll_s: int, **more: int) -> httpx.Response:
        told = {} if self._offset is None else {"offset": self._offset}
        return await client.post(
            f"{self._bot.bot_api.rstrip('/')}/bot{self._bot.token}/getUpdates",
            json={"timeout": long_poll_s, **told, **more},
            timeout=httpx.Timeout(10.0, read=long_poll_s + ANSWER_S),
        )

    def _pause_after(self, answer: httpx.Response, pause: float) -> float:
        """What Telegram asks for; its own word counts more than ours."""
        if answer.status_code in (401, 404):
            raise CannotPoll("Telegram does not know this token: look at KIRCERTA_TELEGRAM_TOKEN")
        if answer.status_code == 409:
            self._tell(
                "Telegram says 409: another poller, or a webhook that is set, takes the updates of this bot. Stop it, "
                "or remove the webhook; trying again meanwhile",
                "TakenElsewhere",
            )
            return LONGEST_PAUSE_S
        retry_after = _retry_after(answer)
        if retry_after is None:
            self._tell(f"Telegram answers {answer.status_code}: trying again", "TelegramSilent")
            return pause
        self._tell(f"Telegram answers {answer.status_code}: it asks for {retry_after:g} s of patience", "AskedToWait")
        if self._turn is not None:
            self._turn.keep_patience(retry_after)
        return retry_after

    async def _last_word(self, client: httpx.AsyncClient) -> None:
        """Confirm what was taken, unless Telegram is in trouble: else the next poller would get it all again."""
        if self._offset is None or self.trouble in ("TelegramSilent", "TakenElsewhere", "AskedToWait"):
            return
        with suppress(httpx.HTTPError, httpx.InvalidURL, TimeoutError):
            async with asyncio.timeout(_LAST_WORD_S):
                answer = await self._ask(client, 0, limit=1)  # what it gives stays unconfirmed
            if answer.status_code == 200:
                self._offset = None

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
                self._tell(f"kircerta's API gives no answer ({type(error).__name__}): trying again", "ApiSilent")
            else:
                if answer.is_success:
                    self.effects[_word(answer, "effect") or "taken"] += 1
                    self._tell("", None)
                    return
                if answer.status_code in _REFUSED_FOR_GOOD:
                    self.passed_by += 1
                    self._say(f"update {update['update_id']} is refused for good ({answer.status_code}): passed by")
                    return
                code = _word(answer, "code")
                self._tell(f"kircerta's API answers {answer.status_code} {code}: trying again", "ApiSilent")
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_S)

    def _tell(self, line: str, trouble: Trouble | None) -> None:
        """Say something once, until something else is to be said."""
        self.trouble = trouble
        if line != self.told:
            self._say(line or "it works again")
            self.told = line


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
        return min(max(_FIRST_PAUSE_S, asked), MOST_PATIENCE_S)
    return None


def _word(answer: httpx.Response, name: str) -> str:
    """A word in the API's answer; empty where it does not say."""
    with suppress(ValueError, KeyError, TypeError, RecursionError):
        return str(json.loads(answer.content)[name])[:100]
    return ""
