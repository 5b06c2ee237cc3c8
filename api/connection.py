"""One connection of the server: uvicorn's HTTP with bounds for what comes before a request, and nobody left behind.

uvicorn by itself keeps a head that never ends in memory, waits for ever for one that never comes and for a client
that never reads, answers what it cannot parse in plain text, and tells only the newest of a connection's requests
that the client went away.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from api.problems import Problem

TRANSPORT: Final = "kircerta.transport"
"""Where a request's scope has the transport of its connection."""
HEAD_BYTES: Final = 64 * 1024
"""What a request line and its headers may have together."""
PATIENCE_S: Final = 10.0
"""Seconds that a connection may be without a complete head, from its start or its last answer on; and seconds for
which a client may take nothing of an answer that is ready for it."""
DRAIN_S: Final = 0.5
"""Seconds for which input is dropped behind a refusal: closed at once, a client that still sends would miss it."""
LEAVE_S: Final = 1.0
"""Seconds that a body or an answer on its way gets when the server stops."""


class Connection(HttpToolsProtocol):
    """uvicorn's HTTP, telling the application which transport it is on."""

    patience_s = PATIENCE_S

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._answering: RequestResponseCycle | None = None
        self._refusal: Problem | None = None
        self._over = False
        self._in_head = False
        self._head_bytes = 0
        self._owes_head_since: float | None = None
        self._unsent = 0
        self._unsent_since = 0.0
        self._look: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._owes_head_since = self.loop.time()
        self._look = self.loop.call_later(self.patience_s, self._look_after)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._forget_requests()
        if self._look is not None:
            self._look.cancel()

    def data_received(self, data: bytes) -> None:
        if self._over:
            return
        head = self.headers if self._in_head else None
        super().data_received(data)
        if self._in_head and self.headers is head:  # all of it belongs to one head that is not complete yet
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self._refuse(_too_large())

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0
        self.scope[TRANSPORT] = self.transport  # type: ignore[typeddict-unknown-key]

    def on_headers_complete(self) -> None:
        self._in_head, self._owes_head_since = False, None
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > HEAD_BYTES:
            self._refusal = _too_large()
            raise self._refusal  # the parser stops, and `send_400_response` is asked
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        if not self.pipeline:
            self._owes_head_since = self.loop.time()
        super().on_response_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def _look_after(self) -> None:
        """One timer a connection, not one a request: it comes again when something may be due."""
        now, unsent = self.loop.time(), self.transport.get_write_buffer_size()
        if unsent != self._unsent:
            self._unsent, self._unsent_since = unsent, now
        elif unsent and now - self._unsent_since >= self.patience_s:
            self.transport.abort()  # closing would wait for this client for ever
        since = self._owes_head_since
        left_s = self.patience_s if since is None else since + self.patience_s - now
        if left_s <= 0:
            self.transport.close()
        self._look = self.loop.call_later(left_s if left_s > 0 else self.patience_s, self._look_after)

    # ------------------------------------------------------------------------------------------ the end

    def send_400_response(self, msg: str) -> None:
        self._refuse(self._refusal or Problem("bad_request", "this is no request in HTTP/1.1"))

    def _refuse(self, problem: Problem) -> None:
        """Take nothing more from this client. What it asked for before is answered still, in its order."""
        self._over = True
        last: RequestResponseCycle | None = self.cycle
        if last is None or last.response_complete:
            self._tell(problem)
        elif not last.more_body:
            last.keep_alive = False
        elif last is self._answering and not last.response_started:  # the request whose body this is
            self._forget_requests()
            self._tell(problem)
        else:
            self.transport.close()

    def _tell(self, problem: Problem) -> None:
        answer = problem.answer()
        headers = [*self.server_state.default_headers, *answer.raw_headers, (b"connection", b"close")]
        lines = [STATUS_LINE[answer.status_code], *(b"%b: %b\r\n" % header for header in headers)]
        self.transport.write(b"".join([*lines, b"\r\n", answer.body]))
        self.transport.write_eof()
        self.loop.call_later(DRAIN_S, self.transport.close)

    def _forget_requests(self) -> None:
        """Whoever answers on this connection learns that nobody listens: the pipeline's first one, too."""
        cycles: tuple[RequestResponseCycle | None, ...] = (self._answering, self.cycle)
        for cycle in cycles:
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()

    def shutdown(self) -> None:
        super().shutdown()
        self.loop.call_later(LEAVE_S, self._leave)

    def _leave(self) -> None:
        """The server stops. With a body that is still not here nothing was done; an answer that is not taken waits."""
        last: RequestResponseCycle | None = self.cycle
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        elif last is not None and last.more_body and not last.response_complete:
            self.transport.close()


def _too_large() -> Problem:
    return Problem("head_too_large", f"a request line and its headers have at most {HEAD_BYTES} bytes here")
