"""Long texts by their digest. They never change, so that whoever has one need not ask again."""

from __future__ import annotations

import asyncio
import re
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from api.answers import Answer
from api.desk import Desk
from api.head import head_of
from api.problems import Problem

_HEX: Final = re.compile(r"[0-9a-f]{64}")


class BlobRoutes:
    """`GET /api/blobs/{sha256}`."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def blob(self, request: Request) -> Response:
        self._desk.gate.reader(request)
        digest = request.path_params["sha256"]
        data = None
        if _HEX.fullmatch(digest):
            data = await asyncio.to_thread(self._desk.store.blobs.load, digest)
        if data is None:
            raise Problem("not_found", f"there is no text {digest[:80]!r}")
        tag = ((b"etag", b'"%b"' % digest.encode()),)
        cache = b"private, max-age=31536000, immutable"
        asked = head_of(request.scope).if_none_match
        if asked is not None and digest.encode() in asked:
            return Answer(304, b"", headers=tag, cache=cache)
        return Answer(200, data, b"text/plain; charset=utf-8", headers=tag, cache=cache)
