"""`kircerta telegram poll`: brings Telegram's updates to the API where no webhook can reach it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cli import workspace
from cli.failures import Failure, WrongUse
from cli.screen import Json, note, put_json, say

if TYPE_CHECKING:
    from flows.telegram import Bot

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

    from flows.telegram import Bot, CannotPoll, only_poller

    given = workspace.settings()
    if given.telegram_token is None or not given.telegram_token.get_secret_value().strip():
        raise WrongUse("KIRCERTA_TELEGRAM_TOKEN is not set: without a bot's token there is nothing to ask for")
    secrets = given.telegram_secret.get_secret_value().split(",") if given.telegram_secret else []
    secret = next((part.strip() for part in secrets if part.strip()), None)
    if secret is None:
        raise WrongUse("KIRCERTA_TELEGRAM_SECRET is not set: the API would take nothing")
    token = given.telegram_token.get_secret_value().strip()
    bot = Bot(token, given.telegram_api, api_url or given.api_url, secret)
    try:
        with only_poller(given.home, token):
            note(f"polling {given.telegram_api} for {bot.api_url}; Ctrl-C ends it")
            taken = asyncio.run(_until_signalled(bot))
    except CannotPoll as error:
        raise Failure(str(error)) from None
    put_json({"taken": taken}) if json else say(f"{taken} updates handed over")


async def _until_signalled(bot: Bot) -> int:
    import asyncio
    import signal

    from flows.telegram import Poller

    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    poller = Poller(bot, note)
    await poller.run(stop)
    return poller.taken
