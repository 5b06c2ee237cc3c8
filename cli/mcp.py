"""`kircerta mcp`: the tools for agents that speak the Model Context Protocol."""

from __future__ import annotations

from typing import Annotated

import typer

from cli import workspace
from cli.failures import WrongUse


def add_to(parent: typer.Typer) -> None:
    parent.command(rich_help_panel="Run", epilog="Example: KIRCERTA_TOKEN_FILE=.secrets/codex kircerta mcp")(mcp)


def mcp(
    http: Annotated[
        bool, typer.Option("--http", help="Streamable HTTP, for many agents at once; without it stdin and stdout.")
    ] = False,
    host: Annotated[str, typer.Option(help="Where to listen (--http).")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port (--http).")] = 8010,
) -> None:
    """Let an agent list and read its tasks, acknowledge, and send heartbeats, results and verdicts. Nothing else.

    Goes over HTTP to kircerta's API (KIRCERTA_API_URL), which says who may do what. On stdio the agent is who
    KIRCERTA_TOKEN says; with --http each request brings its own bearer token.
    """
    given = workspace.settings()
    if http:
        from api.mcp_server import PATH, serve_http

        url = f"http://[{host}]:{port}{PATH}" if ":" in host else f"http://{host}:{port}{PATH}"
        serve_http(
            given.api_url, host, port, given.allowed_hosts, lambda: print(f"tools for agents at {url}", flush=True)
        )
        return
    if given.token is None or not given.token.get_secret_value().strip():
        raise WrongUse("KIRCERTA_TOKEN is not set: KIRCERTA_TOKEN=$(kircerta token --sub NAME --role executor)")
    from api.mcp_server import serve_stdio

    serve_stdio(given.api_url, given.token.get_secret_value().strip())
