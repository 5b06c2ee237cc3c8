"""The null endpoint: answers every request at once with the same bytes. What it measures is the generator itself.

`python -m flows.load.null` prints its port, and ends with its stdin.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Final, cast

import uvloop

_ANSWER: Final = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 15\r\n\r\n{"status":"ok"}'


class _Null(asyncio.Protocol):
    """Requests without a body, one after the other."""

    def __init__(self) -> None:
        self._tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        heads = (self._tail + data).split(b"\r\n\r\n")
        self._tail = heads.pop()
        self._transport.write(_ANSWER * len(heads))


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Null, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


if __name__ == "__main__":
    uvloop.run(_serve())
