"""The long-lived processes, each alone, and the watchdog's single turn: what `kircerta up` starts, and cron may."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from cli import workspace
from cli.failures import WrongUse
from cli.screen import Json, put_json, say

if TYPE_CHECKING:
    from flows.overdue import Overdue

flows = typer.Typer(help="Processes around the flows; `kircerta up` starts what is needed.", no_args_is_help=True)


def add_to(parent: typer.Typer) -> None:
    parent.command(rich_help_panel="Run", epilog="Example: kircerta api --port 8080")(api)
    parent.add_typer(flows, name="flows", rich_help_panel="Run")


def api(
    host: Annotated[
        str, typer.Option(help="Where to listen; anything but loopback asks a token for reads, too.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port.")] = 8000,
    json: Json = False,
) -> None:
    """Run the API alone, until SIGTERM or Ctrl-C."""
    given = workspace.settings()
    import orjson

    from api.server import serve

    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def tell() -> None:
        line = orjson.dumps({"api_url": url, "docs_url": f"{url}/docs", "workspace": str(given.home)}).decode()
        with suppress(OSError):  # whoever read our output has gone: serving goes on
            print(line if json else f"the API answers at {url} ({url}/docs); Ctrl-C stops it", flush=True)

    raise typer.Exit(serve(given, host, port, tell))


@flows.command(epilog="Example: kircerta flows serve")
def serve() -> None:
    """Serve the deployments to a Prefect server: for schedules, and for starts from its UI. Needs PREFECT_API_URL."""
    given = workspace.settings()
    if given.prefect_api_url is None:
        raise WrongUse("PREFECT_API_URL is not set: there is no server to serve deployments to (`kircerta up` has one)")
    from flows.serve import serve_deployments

    serve_deployments(given)


@flows.command(epilog="Example: kircerta flows dispatcher")
def dispatcher() -> None:
    """Follow the log and run what it asks for: dispatches, what follows a decision, the watchdog. One a workspace."""
    given = workspace.settings()
    from flows.dispatcher import run_dispatcher
    from ssot.presence import AlreadyRunning

    try:
        run_dispatcher(given)
    except AlreadyRunning as error:
        raise WrongUse(str(error)) from None


@flows.command(epilog="Example: kircerta flows watchdog")
def watchdog(json: Json = False) -> None:
    """Look once for ACKs that are overdue, silent executors and orphaned dispatches. Works when nothing else runs."""
    given = workspace.settings()
    from flows.overdue import settle_now
    from flows.workspace import Workspace

    with workspace.open_store(given) as store:
        found = settle_now(Workspace(given, store))
    if json:
        put_json(
            {"found": [{"task_id": one.task_id, "finding": _name(one), "recorded": one.recorded} for one in found]}
        )
        return
    for one in found:
        say(f"{one.task_id}: {_name(one)}{'' if one.recorded else ' (somebody else recorded it)'}")
    say(f"{len(found)} things were overdue" if found else "nothing is overdue")


def _name(overdue: Overdue) -> str:
    """What was found, in the words of the log."""
    from ssot.intents import EndAttempt, WarnOfSilence

    match overdue.finding:
        case EndAttempt(reason=reason):
            return reason
        case WarnOfSilence():
            return "heartbeat_warning"
        case _:
            return "ack_timeout"
