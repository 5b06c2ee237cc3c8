"""Signing in to the dashboard: a token goes in once, and comes back as a cookie that no script can read."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

import orjson
from starlette.requests import Request
from starlette.responses import Response

from api import cookie
from api.answers import Answer
from api.auth import Principal
from api.bodies import parse_body, read_body
from api.desk import Desk
from api.messages import SessionBody
from api.openapi import Operation
from api.problems import Problem
from audit.stamp import rfc3339

_NULLABLE_TEXT: Final = {"type": ["string", "null"]}
SESSION_ANSWER: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["sub", "roles", "exp", "configured"],
    "properties": {
        "sub": {**_NULLABLE_TEXT, "description": "Who is signed in; null for nobody."},
        "roles": {"type": "array", "items": {"type": "string"}},
        "exp": {**_NULLABLE_TEXT, "description": "Until when, RFC 3339."},
        "configured": {"type": "boolean", "description": "Whether this server can recognise anybody at all."},
    },
}


class SessionRoutes:
    """`POST`, `GET` and `DELETE /session`."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def begin(self, request: Request) -> Response:
        """Check a token and keep it in the cookie. From this server's own page only: nobody is signed in by another."""
        gate = self._desk.gate
        gate.require_same_origin(request)
        body = parse_body(SessionBody, await read_body(request, self._desk.limits))
        token = body.token.strip()
        principal = gate.recognise(request, token)
        if len(token) > cookie.MAX_BYTES:
            raise Problem("too_large", f"a token over {cookie.MAX_BYTES} bytes fits no cookie")
        left_s = int((principal.expires_at or 0) - time.time())
        return self._told(principal, {"Set-Cookie": cookie.set_cookie(request.scope, token, left_s)})

    async def tell(self, request: Request) -> Response:
        """Who is signed in. Nobody is an answer, not a refusal: a page that is just opened asks this first."""
        token = cookie.session_token(request.scope)
        principal = self._desk.gate.known(token) if token else None
        stale = principal is None and cookie.has_session(request.scope)
        return self._told(principal, {"Set-Cookie": cookie.clear_cookie(request.scope)} if stale else {})

    async def end(self, request: Request) -> Response:
        """Forget the cookie."""
        self._desk.gate.require_same_origin(request)
        return self._told(None, {"Set-Cookie": cookie.clear_cookie(request.scope)})

    def _told(self, principal: Principal | None, headers: Mapping[str, str]) -> Response:
        expires_at = principal.expires_at if principal else None
        body = {
            "sub": principal.name if principal else None,
            "roles": sorted(principal.roles) if principal else [],
            "exp": rfc3339(min(expires_at, _LAST_MOMENT)) if expires_at else None,
            "configured": self._desk.gate.configured,
        }
        sent = tuple((name.lower().encode(), value.encode("latin-1")) for name, value in headers.items())
        return Answer(200, orjson.dumps(body), headers=sent, cache=b"no-store")


_LAST_MOMENT: Final = 253402300799.0
"""The last second that RFC 3339 can tell."""


def operations(desk: Desk) -> list[Operation]:
    """The routes, as the API's description lists them."""
    routes = SessionRoutes(desk)
    return [
        Operation(
            "POST",
            "/session",
            routes.begin,
            "sign_in",
            "Keep a token in the dashboard's cookie",
            description="For this server's own page: `Origin` or `Sec-Fetch-Site` has to say so.",
            tag="session",
            body=SessionBody,
            answer=SESSION_ANSWER,
            problems=(
                "bad_request",
                "unauthenticated",
                "cross_origin",
                "body_timeout",
                "too_large",
                "unsupported_media_type",
                "misdirected",
                "invalid_body",
                "not_configured",
                "internal_error",
            ),
        ),
        Operation(
            "GET",
            "/session",
            routes.tell,
            "session",
            "Who is signed in by the cookie",
            tag="session",
            answer=SESSION_ANSWER,
            problems=("misdirected", "internal_error"),
        ),
        Operation(
            "DELETE",
            "/session",
            routes.end,
            "sign_out",
            "Forget the cookie",
            tag="session",
            answer=SESSION_ANSWER,
            problems=("cross_origin", "misdirected", "internal_error"),
        ),
    ]
