"""Ready-made answers: bytes and headers put together once, sent as they are. Nothing here knows of tasks."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

JSON: Final = b"application/json"
Header = tuple[bytes, bytes]

SAFE: Final[tuple[Header, ...]] = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
DATA_POLICY: Final[Header] = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")
PAGE_POLICY: Final[Header] = (
    b"content-security-policy",
    b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; "
    b"form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
)


class Answer(Response):
    """A response that costs nothing more to send. It may be sent many times.

    `cache` is the Cache-Control: "no-cache" lets a client keep a copy that it asks about each time (ETag).
    """

    def __init__(
        self,
        status: int,
        body: bytes,
        media_type: bytes = JSON,
        *,
        headers: Sequence[Header] = (),
        cache: bytes = b"no-cache",
        policy: Header = DATA_POLICY,
    ) -> None:
        self.status_code = status
        self.body = body
        self.background = None
        length: tuple[Header, ...] = (
            ()
            if status == 304
            else (
                (b"content-type", media_type),
                (b"content-length", b"%d" % len(body)),
            )
        )
        self.raw_headers = [*length, (b"cache-control", cache), *SAFE, policy, *headers]
        self._start = {"type": "http.response.start", "status": status, "headers": self.raw_headers}
        self._body = {"type": "http.response.body", "body": body}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send(self._start)
        await send(self._body)


class Tagged:
    """A body with its strong ETag, and the two answers there are for it."""

    __slots__ = ("etag", "size", "unchanged", "whole")

    def __init__(
        self,
        body: bytes,
        media_type: bytes = JSON,
        *,
        cache: bytes = b"no-cache",
        policy: Header = DATA_POLICY,
        headers: Sequence[Header] = (),
    ) -> None:
        self.etag = b'"%b"' % hashlib.sha256(body).hexdigest()[:32].encode()
        tag = ((b"etag", self.etag), *headers)
        self.size = len(body)
        self.whole = Answer(200, body, media_type, headers=tag, cache=cache, policy=policy)
        self.unchanged = Answer(304, b"", headers=tag, cache=cache, policy=policy)

    def answer(self, if_none_match: bytes | None) -> Answer:
        """304 for who has these bytes already (RFC 9110, 13.1.2: compared weakly), else all of it."""
        if if_none_match is None:
            return self.whole
        return self.unchanged if if_none_match == self.etag or self._listed(if_none_match) else self.whole

    def _listed(self, if_none_match: bytes) -> bool:
        tags = [tag.strip().removeprefix(b"W/") for tag in if_none_match.split(b",")]
        return b"*" in tags or self.etag in tags
