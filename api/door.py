"""The door: what every request passes first. Host, path, HEAD, the fast lane of the hot reads, errors, numbers."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.head import Hosts, head_of
from api.metrics import Metrics
from api.problems import Problem, problem_of
from api.stream import PATH as STREAM
from api.stream import EventStream

Endpoint = Callable[[Request], Awaitable[Response]]
UNKNOWN: Final = "unknown"
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


@dataclass(frozen=True, slots=True)
class LaneRoute:
    """A read that skips the framework's routing (half of its cost); the same endpoint is a route there, too."""

    path: str
    endpoint: Endpoint


class Door:
    """The outermost ASGI application.

    Args:
        app: the framework's application, with all routes.
        exact: hot reads by their path.
        below: a hot read of everything one level below a path, e.g. ``/api/tasks/``: its pattern, its parameter.
        streams: answers for its path by itself, whatever the method: it needs the server's own `send`.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        hosts: Hosts,
        metrics: Metrics,
        exact: dict[str, Endpoint],
        below: tuple[str, str, str, Endpoint],
        streams: EventStream,
    ) -> None:
        self.app = app
        self.streams = streams
        self._hosts = hosts
        self._metrics = metrics
        self._exact = {path: LaneRoute(path, endpoint) for path, endpoint in exact.items()}
        self._prefix, pattern, self._parameter, endpoint = below
        self._below = LaneRoute(pattern, endpoint)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._request(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
        else:
            await self.app(scope, receive, send)

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = time.perf_counter()
        method = scope["method"]
        if method == "HEAD" and scope["path"] != STREAM:  # the answer of GET, without its body
            # In a copy: the server goes by its own scope, and would wait for the body that a GET has, then hang up.
            scope, send = {**scope, "method": "GET"}, _headers_only(send)
        code = await self._answered(scope, receive, send)
        route = getattr(scope.get("route"), "path", UNKNOWN)
        self._metrics.request(route, method if method in _METHODS else "other", code, time.perf_counter() - begun)

    async def _answered(self, scope: Scope, receive: Receive, send: Send) -> int:
        """Answer, and give the status."""
        try:
            self._hosts.check(head_of(scope), scope["http_version"])
            path = scope["path"]
            if not path.isprintable():  # also what a route's `$` would overlook: a trailing newline
                raise Problem("not_found", "there is nothing at this address")
            if path == STREAM:
                return await self.streams.answer(scope, receive, send)
            if scope["method"] == "GET" and (route := self._lane(scope, path)) is not None:
                response: Response = await route.endpoint(Request(scope, receive))
            else:
                return await self._by_framework(scope, receive, send)
        except Exception as error:
            response = problem_of(error).answer()
        await response(scope, receive, send)
        return response.status_code

    def _lane(self, scope: Scope, path: str) -> LaneRoute | None:
        route = self._exact.get(path)
        if route is None:
            rest = path[len(self._prefix) :]
            if not rest or "/" in rest or not path.startswith(self._prefix):
                return None
            route = self._below
            scope["path_params"] = {self._parameter: rest}
        scope["route"] = route
        return route

    async def _by_framework(self, scope: Scope, receive: Receive, send: Send) -> int:
        seen = 0

        async def watched(message: Message) -> None:
            nonlocal seen
            if message["type"] == "http.response.start":
                seen = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except Exception as error:
            if seen:  # the framework's last resort has answered; the log has the cause
                return seen
            answer = problem_of(error).answer()
            await answer(scope, receive, send)
            return answer.status_code
        return seen


def _headers_only(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await send(message)

    return sending
