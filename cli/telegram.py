"""`kircerta telegram poll`: brings Telegram's updates to the API where no webhook can reach it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cli import workspace
from cli.failures import Failure, WrongUse
from cli.screen import Json, note, put_json, say

if TYPE_CHECKING:
    from flows.telegram import Bot
    from flows.turn import Turn

telegram = typer.Typer(help="Updates of a Telegram bot.", no_args_is_help=True)


def add_to(parent: typer.Typer) -> None:
    parent.add_typer(telegram, name="telegram", rich_help_panel="Run")


@telegram.command(epilog="Example: KIRCERTA_TELEGRAM_TOKEN_FILE=.secrets/bot kircerta telegram poll")
def poll(
    api_url: Annotated[
        str | None, typer.Option(help="Where kircerta's own API is. Without it: `KIRCERTA_API_URL`.")
    ] = None,
    json: Json = False,
) -> None:
    """Ask Telegram for updates and hand them to the API, until SIGTERM or Ctrl-C. One a bot.

    Needs KIRCERTA_TELEGRAM_TOKEN and KIRCERTA_TELEGRAM_SECRET (the one that the API has).
    """
    import asyncio

    from flows.telegram import Bot, CannotPoll, NotConfigured, only_poller

    given = workspace.settings()
    try:
        bot = Bot.of(given, api_url)
        with only_poller(given.home, bot.token) as turn:
            note(f"polling {given.telegram_api} for {bot.api_url}; Ctrl-C ends it")
            taken = asyncio.run(_until_signalled(bot, turn))
    except NotConfigured as error:
        raise WrongUse(str(error)) from None
    except CannotPoll as error:
        raise Failure(str(error)) from None
    put_json({"taken": taken}) if json else say(f"{taken} updates handed over")


async def _until_signalled(bot: Bot, turn: Turn) -> int:
    import asyncio
    import signal

    from flows.telegram import Poller

    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    poller = Poller(bot, note, turn)
    await poller.run(stop)
    return poller.taken
