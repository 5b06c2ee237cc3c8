"""A server with known delays, a process of its own: answers after 5 ms, but stalls for so long at every full cycle.

`python -m tests.flows.load.stalling CYCLE_S STALL_S` prints its port; the first cycle begins with the first request.
It ends with its stdin.
"""

from __future__ import annotations

import asyncio
import sys
import time

DELAY_S = 0.005
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


def answered_at(arrived_s: float, cycle_s: float, stall_s: float) -> float:
    """When a request is answered that comes `arrived_s` after the first: what comes in a stall waits for its end."""
    begin = arrived_s // cycle_s * cycle_s + (cycle_s - stall_s)
    return max(arrived_s, begin + stall_s if arrived_s >= begin else 0.0) + DELAY_S


async def serve(cycle_s: float, stall_s: float) -> None:
    first: list[float] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                now = time.monotonic()
                first.append(now)
                arrived = now - first[0]
                await asyncio.sleep(answered_at(arrived, cycle_s, stall_s) - arrived)
                writer.write(ANSWER)
        except (asyncio.IncompleteReadError, ConnectionResetError):
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    server.close()


if __name__ == "__main__":
    asyncio.run(serve(float(sys.argv[1]), float(sys.argv[2])))
