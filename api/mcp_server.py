"""The two transports of the tools for agents: stdio for an agent that starts us, streamable HTTP for many at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

import uvicorn
from mcp.server import ServerRequestContext
from mcp.server.stdio import stdio_server
from mcp.server.transport_security import TransportSecuritySettings
from starlette.types import ASGIApp, Receive, Scope, Send

from api.answers import Answer
from api.mcp_tools import client_of, make_server

PATH: Final = "/mcp"
MAX_BODY_BYTES: Final = 8 * 1024 * 1024
_STOP_S: Final = 3
_UNPROVEN: Final = Answer(
    401,
    b'{"type":"about:blank","title":"Unauthenticated","status":401,"code":"unauthenticated",'
    b'"detail":"send Authorization: Bearer with a token of `kircerta token --role executor` or `reviewer`"}',
    b"application/problem+json",
    headers=((b"www-authenticate", b"Bearer"),),
    cache=b"no-store",
)


def serve_stdio(api_url: str, token: str) -> None:
    """Talk over stdin and stdout until the other side closes; every call is made with this token."""
    asyncio.run(_talk(api_url, token))


async def _talk(api_url: str, token: str) -> None:
    async with client_of(api_url) as client:
        server = make_server(client, lambda ctx: token)
        async with stdio_server() as (read, write):
            await server.run(read, write, server.create_initialization_options())


def serve_http(api_url: str, host: str, port: int, allowed_hosts: Sequence[str], ready: Callable[[], None]) -> None:
    """Answer at ``/mcp`` until SIGTERM or Ctrl-C; each request is made with the bearer token that it brings."""
    config = uvicorn.Config(
        make_app(api_url, host, allowed_hosts, ready),
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=_STOP_S,
    )
    uvicorn.Server(config).run()


def make_app(
    api_url: str, host: str, allowed_hosts: Sequence[str], ready: Callable[[], None] = lambda: None
) -> ASGIApp:
    """The protocol over HTTP. No session is kept: any replica may answer any request."""
    client = client_of(api_url)
    server = make_server(client, _bearer_of)
    names = [*allowed_hosts, host]
    app: Any = server.streamable_http_app(
        streamable_http_path=PATH,
        json_response=True,
        stateless_http=True,
        max_request_body_size=MAX_BODY_BYTES,
        transport_security=TransportSecuritySettings(
            allowed_hosts=[*names, *(f"{name}:*" for name in names)],
            allowed_origins=[f"http://{name}:*" for name in names],
        ),
    )

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            ready()
            async with client:
                await app(scope, receive, send)
            return
        if not _token_in(dict(scope["headers"]).get(b"authorization", b"").decode("latin-1")):
            await _UNPROVEN(scope, receive, send)
            return
        await app(scope, receive, send)

    return guarded


def _bearer_of(ctx: ServerRequestContext[Any]) -> str:
    return _token_in(ctx.request.headers.get("authorization", "") if ctx.request is not None else "")


def _token_in(authorization: str) -> str:
    scheme, _, token = authorization.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""
