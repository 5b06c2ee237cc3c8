"""Asks GitHub's API which deliveries failed, and to send them again. Knows its rate limits; needs no Prefect.

As in https://docs.github.com/rest/repos/webhooks: GitHub never sends a failed delivery again by itself, and a
redelivery keeps its GUID, which is the delivery's id here.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Final, Literal, Self
from urllib.parse import parse_qs, urlsplit

import httpx
from pydantic import AwareDatetime, BaseModel, ConfigDict, StrictInt, StrictStr, ValidationError

from flows.turn import Turn

PER_PAGE: Final = 100
MOST_PAGES: Final = 500
_ANSWER_S: Final = 15.0
_WHOLE_ANSWER_S: Final = 60.0
_BETWEEN_S: Final = 1.0
"""GitHub asks to leave a second between requests that change something."""
_PATIENCE_S: Final = 60.0
"""What it expects where it limits and does not say for how long."""
_TRIES: Final = 5
_FIRST_PAUSE_S: Final = 0.2
_HOOK: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,99}(/[A-Za-z0-9._-]{1,100})?/[0-9]{1,18}|app", re.ASCII)
HOOK_PATTERN: Final = rf"^({_HOOK.pattern})$"

Trouble = Literal["NotConfigured", "TokenRefused", "RateLimited", "TimeOver", "GitHubSilent", "HookUnknown"]
Answered = Literal["asked", "refused", "unsure"]
Sleep = Callable[[float], Awaitable[None]]


class CannotAsk(Exception):
    """It goes no further; `trouble` is its name, the message says what to do."""

    def __init__(self, trouble: Trouble, message: str) -> None:
        super().__init__(message)
        self.trouble = trouble


class HookDelivery(BaseModel):
    """One attempt to deliver, as GitHub lists it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: StrictInt
    guid: StrictStr
    delivered_at: AwareDatetime
    status_code: StrictInt = 0
    status: str = ""
    event: str = ""
    action: str | None = None

    @property
    def is_taken(self) -> bool:
        return 200 <= self.status_code < 300

    @property
    def kind(self) -> str:
        """The event with its action, e.g. ``issues.opened``."""
        return ".".join(filter(None, (self.event, self.action)))


@dataclass(frozen=True, slots=True)
class Failed:
    """A delivery of which no attempt was taken: the newest attempt, and how many there were."""

    newest: HookDelivery
    tries: int


@dataclass(frozen=True, slots=True)
class Hook:
    """A webhook of a repository (`owner/repo/ID`), an organization (`org/ID`) or a GitHub App (`app`)."""

    name: str
    path: str

    @classmethod
    def named(cls, name: str) -> Self:
        """Raises CannotAsk."""
        if not _HOOK.fullmatch(name) or "/../" in name or "/./" in name:
            raise CannotAsk(
                "NotConfigured", f"{name[:100]!r} names no webhook: owner/repo/ID, org/ID or app is expected"
            )
        match name.split("/"):
            case [owner, repository, number]:
                return cls(name, f"/repos/{owner}/{repository}/hooks/{number}")
            case [organization, number]:
                return cls(name, f"/orgs/{organization}/hooks/{number}")
            case _:
                return cls(name, "/app/hook")


def failed_of(deliveries: Iterable[HookDelivery]) -> list[Failed]:
    """The deliveries none of whose attempts was taken, oldest first."""
    attempts: dict[str, list[HookDelivery]] = {}
    for one in deliveries:
        attempts.setdefault(one.guid, []).append(one)
    failed = [
        Failed(max(tries, key=lambda one: (one.delivered_at, one.id)), len(tries))
        for tries in attempts.values()
        if not any(one.is_taken for one in tries)
    ]
    return sorted(failed, key=lambda one: (one.newest.delivered_at, one.newest.id))


@dataclass(slots=True)
class GitHub:
    """GitHub's API for one run.

    Args:
        deadline: the moment, on the monotonic clock, after which nothing is waited for.
        turn: remembers for how long GitHub wants to be left alone, for whoever asks next.
    """

    client: httpx.AsyncClient
    base: str
    token: str = field(repr=False)
    deadline: float
    turn: Turn | None = None
    sleep: Sleep = asyncio.sleep
    between_s: float = _BETWEEN_S
    unreadable: int = 0
    _not_before: float = field(default=0.0, init=False)
    _next_change: float = field(default=0.0, init=False)
    _patience_s: float = field(default=_PATIENCE_S, init=False)

    def __post_init__(self) -> None:
        if self.turn is not None:
            self._not_before = time.monotonic() + self.turn.patience_s()

    async def deliveries(self, hook: Hook, since: datetime) -> list[HookDelivery]:
        """All attempts since then, newest first. Raises CannotAsk."""
        found: list[HookDelivery] = []
        async for page in self._pages(hook):
            found += (one for one in page if one.delivered_at >= since)
            if page and page[-1].delivered_at < since:
                break
        return found

    async def redeliver(self, hook: Hook, delivery: HookDelivery) -> tuple[Answered, str]:
        """Ask once for an attempt to be made again; `unsure` where no answer came. Raises CannotAsk."""
        await self._wait(self._next_change - time.monotonic(), "TimeOver")
        try:
            answer = await self._patiently("POST", f"{hook.path}/deliveries/{delivery.id}/attempts")
        except httpx.HTTPError as error:  # it may have been heard: not asked again in this run
            return "unsure", f"no answer ({type(error).__name__})"
        finally:
            self._next_change = time.monotonic() + self.between_s
        if answer.is_success:
            return "asked", ""
        return ("unsure" if answer.status_code >= 500 else "refused"), f"GitHub answers {answer.status_code}"

    async def _pages(self, hook: Hook) -> AsyncIterator[list[HookDelivery]]:
        cursor: str | None = None
        for _ in range(MOST_PAGES):
            query = {"per_page": str(PER_PAGE), **({"cursor": cursor} if cursor else {})}
            answer = await self._read(f"{hook.path}/deliveries", query)
            if answer.status_code != 200:
                raise CannotAsk(
                    "HookUnknown",
                    f"GitHub answers {answer.status_code} to the deliveries of {hook.name}: look at its name, and at "
                    "what the token may see",
                )
            yield self._page(answer)
            cursor = _next_cursor(answer)
            if cursor is None:
                return

    def _page(self, answer: httpx.Response) -> list[HookDelivery]:
        try:
            told = answer.json()
        except (ValueError, RecursionError):
            told = None
        if not isinstance(told, list):
            raise CannotAsk("GitHubSilent", "what answers is no list of deliveries: look at KIRCERTA_GITHUB_API")
        found = []
        for one in told:
            try:
                found.append(HookDelivery.model_validate(one))
            except ValidationError:
                self.unreadable += 1
        return found

    # ---------------------------------------------------------------------------------------------- requests

    async def _read(self, path: str, query: dict[str, str]) -> httpx.Response:
        """A question that may be asked again. Raises CannotAsk."""
        pause, said = _FIRST_PAUSE_S, ""
        for _ in range(_TRIES):
            try:
                answer = await self._patiently("GET", path, query)
            except httpx.HTTPError as error:
                said = f"gives no answer ({type(error).__name__})"
            else:
                if answer.status_code < 500:
                    return answer
                said = f"answers {answer.status_code}"
            await self._wait(pause, "GitHubSilent")
            pause *= 4
        raise CannotAsk("GitHubSilent", f"GitHub {said}, {_TRIES} times: a later run goes on")

    async def _patiently(self, method: str, path: str, query: dict[str, str] | None = None) -> httpx.Response:
        """Ask, as often as GitHub puts it off. Raises CannotAsk, httpx.HTTPError."""
        while True:
            if time.monotonic() > self.deadline:
                raise CannotAsk("TimeOver", _OVER["TimeOver"])
            await self._wait(self._not_before - time.monotonic(), "RateLimited")
            answer = await self._once(method, path, query)
            pause = self._pause_asked(answer)
            if pause is not None:
                self._not_before = time.monotonic() + pause
                if self.turn is not None:
                    self.turn.keep_patience(pause)
            if pause is None or answer.is_success:
                if answer.status_code in (401, 403):
                    raise CannotAsk(
                        "TokenRefused", f"GitHub answers {answer.status_code}: look at KIRCERTA_GITHUB_TOKEN"
                    )
                return answer

    async def _once(self, method: str, path: str, query: dict[str, str] | None) -> httpx.Response:
        headers = {
            "Accept": "application/vnd.github+json",
            "Authorization": f"Bearer {self.token}",
            "User-Agent": "kircerta",
            "X-GitHub-Api-Version": "2022-11-28",
        }
        url = self.base.rstrip("/") + path
        try:
            async with asyncio.timeout(_WHOLE_ANSWER_S):
                return await self.client.request(method, url, params=query, headers=headers, timeout=_ANSWER_S)
        except TimeoutError:
            raise httpx.ReadTimeout("the answer came too slowly") from None
        except (httpx.InvalidURL, httpx.UnsupportedProtocol):
            raise CannotAsk("NotConfigured", "KIRCERTA_GITHUB_API is no address of an API") from None

    def _pause_asked(self, answer: httpx.Response) -> float | None:
        """Seconds for which GitHub wants no further request; None where it does not ask for patience."""
        if (asked := _seconds(answer.headers.get("retry-after"))) is not None and answer.status_code in (403, 429, 503):
            return asked
        if answer.headers.get("x-ratelimit-remaining", "").strip() == "0":
            reset = _seconds(answer.headers.get("x-ratelimit-reset"))
            if reset is not None:
                return max(0.0, reset - _server_time(answer)) + 1.0
        if answer.status_code == 429 or (answer.status_code == 403 and b"rate limit" in answer.content.lower()):
            self._patience_s *= 2
            return self._patience_s / 2
        return None

    async def _wait(self, seconds: float, trouble: Trouble) -> None:
        """Raises CannotAsk, named `trouble`, where that is longer than the run may take."""
        if seconds <= 0:
            return
        if time.monotonic() + seconds > self.deadline:
            raise CannotAsk(trouble, _OVER[trouble].format(seconds=seconds))
        await self.sleep(seconds)


_OVER: Final[dict[Trouble, str]] = {
    "RateLimited": "GitHub asks for {seconds:.0f} s of patience, longer than this run may take: a later one goes on",
    "TimeOver": "the time of this run is over: a later one goes on",
    "GitHubSilent": "GitHub gives no answer, and the time of this run is over: a later one goes on",
}


def quiet_logs() -> None:
    """Its own log lines tell addresses; ours tell what matters."""
    logging.getLogger("httpx").setLevel(logging.WARNING)


def _next_cursor(answer: httpx.Response) -> str | None:
    """The cursor of the next page. Only it is taken from the link: the token goes nowhere but to our own address."""
    with suppress(ValueError):
        url = answer.links.get("next", {}).get("url", "")
        return parse_qs(urlsplit(url).query).get("cursor", [None])[0]
    return None


def _seconds(told: str | None) -> float | None:
    return float(told) if told is not None and told.strip().isdecimal() else None


def _server_time(answer: httpx.Response) -> float:
    """GitHub's own clock, by which it tells the end of a limit; ours where it does not say."""
    with suppress(ValueError, TypeError):
        return parsedate_to_datetime(answer.headers["date"]).timestamp()
    return time.time()
