"""The ingest flows that fetch: Telegram's updates, and GitHub's deliveries that failed. Each run is bounded and named.

What they do stands in telegram.py and backfill.py; here it gets forms, states and pages that the Prefect UI shows.
Secrets come from the settings alone: no parameter, name, state or page of a run holds one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any, Final

from prefect import flow
from prefect.artifacts import acreate_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.states import Completed, Failed
from pydantic import Field

from flows import exhibits
from flows.backfill import Report, Wish, ask, token_of
from flows.github import HOOK_PATTERN, CannotAsk
from flows.telegram import AlreadyPolling, Bot, CannotPoll, NotConfigured, Poller, only_poller
from flows.turn import Turn, TurnTaken, only_one
from flows.workspace import current, current_settings
from ssot.settings import Settings

HookName = Annotated[str, Field(pattern=HOOK_PATTERN)]
Minutes = Annotated[float, Field(gt=0, le=1440)]
_HAND_OVER_S: Final = 30.0
"""A scheduled run waits at most so long for the one before it, which ends in these seconds."""
_MOST_ROWS: Final = 200


@flow(name="poll_telegram", persist_result=False)
async def poll_telegram(minutes: Minutes = 10.0) -> State[Any]:
    """Fetch a Telegram bot's updates for a while, and hand each to kircerta's own API.

    An update is confirmed to Telegram only once the API has answered: killed at any moment, nothing is lost and
    nothing counts twice. One poller a bot on this machine. With its schedule switched on, the next run goes on where
    this one ends. Ends in `Polled`, in `AlreadyPolling`, in `AskedToWait` (Telegram wants patience; the next run
    keeps it), or in the name of what went wrong: `NotConfigured`, `TokenUnknown`, `TakenElsewhere` (409: another
    poller or a webhook), `TelegramSilent`, `ApiSilent`.

    Args:
        minutes: How long this run polls.
    """
    settings = current_settings()
    try:
        bot = Bot.of(settings)
        async with _in_turn(settings, bot.token, min(_HAND_OVER_S, minutes * 60)) as turn:
            poller = Poller(bot, get_run_logger().warning, turn)
            await _poll_for(poller, minutes * 60)
    except AlreadyPolling as error:
        return Completed(name="AlreadyPolling", message=str(error))
    except CannotPoll as error:
        return Failed(name="NotConfigured" if isinstance(error, NotConfigured) else "TokenUnknown", message=str(error))
    await _show_poll(poller)
    return _state_of_poll(poller)


@asynccontextmanager
async def _in_turn(settings: Settings, token: str, wait_s: float) -> AsyncIterator[Turn]:
    """The turn of the poller, waited for a little. Raises AlreadyPolling."""
    until = time.monotonic() + wait_s
    while True:
        try:
            with only_poller(settings.home, token) as turn:
                yield turn
                return
        except AlreadyPolling:
            if time.monotonic() > until:
                raise
        await asyncio.sleep(0.2)


async def _poll_for(poller: Poller, seconds: float) -> None:
    stop = asyncio.Event()
    ending = asyncio.get_running_loop().call_later(seconds, stop.set)
    try:
        await poller.run(stop)
    finally:
        ending.cancel()


def _state_of_poll(poller: Poller) -> State[Any]:
    fates = ", ".join(f"{count} {effect}" for effect, count in sorted(poller.effects.items()))
    passed_by = f"; {poller.passed_by} refused for good" if poller.passed_by else ""
    message = f"{poller.taken} updates handed over" + (f": {fates}" if fates else "") + passed_by
    if poller.trouble is None:
        return Completed(name="Polled", message=message)
    make = Completed if poller.trouble == "AskedToWait" else Failed
    return make(name=poller.trouble, message=f"{poller.told}; {message}")


async def _show_poll(poller: Poller) -> None:
    if not poller.effects and not poller.passed_by:
        return
    rows = [(exhibits.escaped(effect), str(count)) for effect, count in sorted(poller.effects.items())]
    rows += [("refused for good", str(poller.passed_by))] if poller.passed_by else []
    page = "\n".join(exhibits.table(("what became of them", "updates"), rows)) + "\n"
    await acreate_markdown_artifact(page, key="poll-telegram", description="Updates of a run")


# -------------------------------------------------------------------------------------------------- GitHub


@flow(name="backfill_github", persist_result=False)
async def backfill_github(
    hooks: Annotated[list[HookName], Field(max_length=100)] | None = None,
    hours: Annotated[float, Field(gt=0, le=72)] = 72.0,
    limit: Annotated[int, Field(ge=1, le=10_000)] = 500,
    most_tries: Annotated[int, Field(ge=1, le=100)] = 5,
    again: bool = False,
    minutes: Minutes = 10.0,
) -> State[Any]:
    """Ask GitHub for webhook deliveries that failed, and to send them again.

    GitHub never does so by itself. A delivery that the log knows is not asked for: only its answer was lost. Nor is
    the same attempt asked for twice. Ends in `NothingFailed`, in `Asked`, or in the name of what went wrong:
    `SomeLeft` (GitHub refused some, gave no answer, or they failed too often), `NotConfigured`, `TokenRefused`,
    `HookUnknown`, `RateLimited`, `TimeOver`, `GitHubSilent`.

    Args:
        hooks: The webhooks, as `owner/repo/ID`, `org/ID` or `app`. Left empty: those of `KIRCERTA_GITHUB_HOOKS`.
        hours: How far to look back. GitHub sends nothing again that is older than three days.
        limit: How many deliveries to ask for at most, oldest first.
        most_tries: A delivery that failed so often is given up.
        again: Whether to ask also for those that were given up, or asked for without any sign of them since.
        minutes: How long this run may take, GitHub's rate limits included.
    """
    settings = current_settings()
    try:
        token = token_of(settings)
        wish = Wish.of(hooks or settings.github_hooks, hours, limit, most_tries, again=again)
        with only_one(settings.home, "github", token) as turn:
            workspace = await asyncio.to_thread(current)
            report = await ask(workspace, token, wish, turn, minutes * 60)
    except TurnTaken:
        return Completed(name="AlreadyAsking", message="another run asks with this token at the moment: one is enough")
    except CannotAsk as error:
        return Failed(name=error.trouble, message=str(error))
    await _show_report(report)
    return (Completed if report.is_good else Failed)(name=report.outcome, message=report.message)


async def _show_report(report: Report) -> None:
    if not report.rows:
        return
    told: list[tuple[str, Callable[[Any], str]]] = [
        ("webhook", lambda row: row.hook.name),
        ("delivery", lambda row: row.failed.newest.guid),
        ("event", lambda row: row.failed.newest.kind),
        ("last tried", lambda row: f"{row.failed.newest.delivered_at:%Y-%m-%d %H:%M:%S %Z}"),
        ("answer", lambda row: str(row.failed.newest.status_code or row.failed.newest.status)),
        ("tries", lambda row: str(row.failed.tries)),
        ("fate", lambda row: f"{row.fate} {row.detail}"),
    ]
    rows = [[exhibits.escaped(tell(row)) for _, tell in told] for row in report.rows[:_MOST_ROWS]]
    lines = exhibits.table([head for head, _ in told], rows)
    if len(report.rows) > _MOST_ROWS:
        lines += ["", f"and {len(report.rows) - _MOST_ROWS} more"]
    page = "\n".join(lines) + "\n"
    await acreate_markdown_artifact(page, key="backfill-github", description="Deliveries that failed")
