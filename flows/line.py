"""The dispatcher's line to the Prefect server: patient for a moment where it is busy, done where it is gone."""

from __future__ import annotations

import asyncio
from typing import Final

import httpx

_PAUSES_S: Final = (0.02, 0.04, 0.06, 0.1, 0.15, 0.2, 0.3)


class ServerGone(Exception):
    """Nobody listens at the server's address. Prefect's client would ask for seconds; a dispatch does not wait."""


class QuickLine(httpx.AsyncBaseTransport):
    """Asks again within milliseconds when SQLite was locked (503): Prefect's own client waits two seconds at least."""

    def __init__(self) -> None:
        self._line = httpx.AsyncHTTPTransport(verify=False)  # plain HTTP on this machine: nothing to verify

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        for pause in _PAUSES_S:
            answer = await self._ask(request)
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                return answer
            await answer.aclose()
            await asyncio.sleep(pause)
        return await self._ask(request)

    async def _ask(self, request: httpx.Request) -> httpx.Response:
        try:
            return await self._line.handle_async_request(request)
        except httpx.ConnectError as error:
            raise ServerGone(str(error)) from error

    async def aclose(self) -> None:
        await self._line.aclose()


def line_to(prefect_api_url: str) -> dict[str, httpx.AsyncBaseTransport]:
    """The client's settings for a server: the quick line to a local one over plain HTTP, its own for any other."""
    return {"transport": QuickLine()} if httpx.URL(prefect_api_url).scheme == "http" else {}
