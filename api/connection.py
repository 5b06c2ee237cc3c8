"""One connection of the server: uvicorn's HTTP, telling every request on it that the client went away.

uvicorn by itself tells only the newest one; a stream behind which more was asked for is an older one.
"""

from __future__ import annotations

from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

TRANSPORT: Final = "kircerta.transport"
"""Where a request's scope has the transport of its connection."""


class Connection(HttpToolsProtocol):
    """uvicorn's HTTP, telling the application which transport it is on."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._answering: RequestResponseCycle | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._forget_requests()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope[TRANSPORT] = self.transport  # type: ignore[typeddict-unknown-key]

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def _forget_requests(self) -> None:
        """Whoever answers on this connection learns that nobody listens: the pipeline's first one, too."""
        cycles: tuple[RequestResponseCycle | None, ...] = (self._answering, self.cycle)
        for cycle in cycles:
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
