"""One dispatch as a flow on a Prefect server of its own, which starts while other checks go on."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from flows.accept.ground import Ground, NotShown, expect
from flows.playground import CODE
from flows.server import (
    PrefectServer,
    ServerFailed,
    free_port,
    prefect_environment,
    start_prefect_server,
    wait_until_ready,
)

NAME: Final = "a dispatch runs as a flow on a Prefect server"
_PATIENCE_S: Final = 25.0
_FLOW_S: Final = 30.0
_TASK: Final = "on-prefect"
_RUN: Final = "import asyncio, sys; from flows.dispatch import dispatch_task; asyncio.run(dispatch_task(sys.argv[1]))"


@contextmanager
def starting(on: Ground) -> Iterator[PrefectServer]:
    """A server that is on its way; whatever happens, it is ended."""
    server = start_prefect_server(on.settings, free_port())
    try:
        yield server
    finally:
        server.stop()


def look(on: Ground, server: PrefectServer) -> str:
    """The run's own process tells the server, and its moves stand in the log. NotShown where that takes too long."""
    on.task(_TASK)
    try:
        wait_until_ready(server, _PATIENCE_S)
        run = subprocess.run(
            [sys.executable, "-c", _RUN, _TASK],
            cwd=CODE,
            env={**os.environ, **on.playground.environment, **prefect_environment(on.settings, server.api_url)},
            capture_output=True,
            text=True,
            timeout=_FLOW_S,
            check=False,
        )
    except ServerFailed as error:
        raise NotShown(str(error)) from None
    except subprocess.TimeoutExpired:
        raise NotShown(f"the flow was not done within {_FLOW_S:g} s") from None
    expect(run.returncode == 0, f"the flow failed: {run.stderr.strip()[-300:]}")
    on.store.refresh()
    event = on.event("verdict_received", _TASK)
    return f"seq {event.seq}: verdict_received, by a flow of a process of its own"
