"""Bodies on their way in: read within bounds of size and time, then parsed strictly. And the Idempotency-Key."""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from starlette.requests import Request

from api.problems import Problem
from ssot.store import IdempotencyKey
from ssot.task import Part, parse_part

P = TypeVar("P", bound=Part)

_KEY: Final = re.compile(r"[\x21-\x7e]{1,255}")
_JSON: Final = re.compile(r"application/(json|[a-z0-9.+-]+\+json)", re.ASCII)
_DRAIN_S: Final = 0.5
_DRAIN_BYTES: Final = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """What one body may cost: bytes, and seconds from its first to its last byte."""

    max_bytes: int
    timeout_s: float = 10.0


async def read_body(request: Request, limits: BodyLimits) -> bytes:
    """The raw body. Raises Problem: too large (before all of it was read), too slow, not JSON, not understood."""
    await check_size(request, limits)
    raw = await read_raw(request, limits)
    if raw and media_type_of(request) != "application/json":
        raise Problem("unsupported_media_type", "send `Content-Type: application/json`, in UTF-8")
    return raw


async def check_size(request: Request, limits: BodyLimits) -> None:
    """Refuse a body that says itself that it is too large. Raises Problem."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limits.max_bytes:
        if "expect" not in request.headers:  # who waits for our word has sent nothing yet
            await _drain(request)
        raise _too_large(limits)


async def read_raw(request: Request, limits: BodyLimits, see: Callable[[bytes], None] = lambda chunk: None) -> bytes:
    """The raw body, whatever its type. `see` gets each chunk as it comes. Raises Problem: too large, too slow."""
    deadline = time.monotonic() + limits.timeout_s
    parts: list[bytes] = []
    size = 0
    more = True
    while more:
        try:
            message = await asyncio.wait_for(request.receive(), max(0.0, deadline - time.monotonic()))
        except TimeoutError:
            detail = f"the body was not complete after {limits.timeout_s:g} s"
            raise Problem("body_timeout", detail, headers={"Connection": "close"}) from None
        if message["type"] == "http.disconnect":
            raise Problem("bad_request", "the client went away before its body was complete")
        size += len(message.get("body", b""))
        if size > limits.max_bytes:
            await _drain(request)
            raise _too_large(limits)
        see(message.get("body", b""))
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(parts)


async def _drain(request: Request) -> None:
    """Take a little more and drop it: a client that is still sending would miss the answer to a closed connection."""
    deadline, room = time.monotonic() + _DRAIN_S, _DRAIN_BYTES
    while room > 0 and (left := deadline - time.monotonic()) > 0:
        try:
            message = await asyncio.wait_for(request.receive(), left)
        except TimeoutError:
            return
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            return
        room -= len(message.get("body", b""))


def _too_large(limits: BodyLimits) -> Problem:
    return Problem(
        "too_large",
        f"a body has at most {limits.max_bytes} bytes here (KIRCERTA_MAX_BODY_BYTES)",
        headers={"Connection": "close"},
    )


def media_type_of(request: Request) -> str:
    """The body's media type, ``application/json`` for all that is JSON; empty for another charset than UTF-8.

    Raises Problem for a body that is encoded.
    """
    media_type, _, parameters = request.headers.get("content-type", "").lower().partition(";")
    charset = parameters.partition("charset=")[2].strip(' "')
    if charset not in ("", "utf-8"):
        return ""
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Problem("unsupported_media_type", "send the body without Content-Encoding")
    return "application/json" if _JSON.fullmatch(media_type.strip()) else media_type.strip()


def parse_body(model: type[P], raw: bytes) -> P:
    """The model in a body; an empty one says nothing, like `{}`. Raises Invalid with field and reason."""
    return parse_part(model, raw if raw.strip() else b"{}")


def idempotency_key(request: Request, principal: str, raw: bytes) -> IdempotencyKey | None:
    """The request's Idempotency-Key, bound to its principal and route; None without one. Raises Problem."""
    given = request.headers.getlist("idempotency-key")
    if not given:
        return None
    if len(given) > 1 or not _KEY.fullmatch(given[0]):
        raise Problem("invalid_idempotency_key", "one Idempotency-Key of 1 to 255 visible ASCII characters is expected")
    bound = "\n".join((principal, request.method, request.url.path, given[0]))
    return IdempotencyKey(key=_digest(bound.encode()), body=_digest(raw))


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
