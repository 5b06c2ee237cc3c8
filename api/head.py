"""What matters of a request's headers, found in one pass over them; and whether its Host is served here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from starlette.types import Scope

from api.problems import Problem

FORWARDING: Final = frozenset(
    {b"forwarded", b"via", b"x-real-ip", b"x-client-ip", b"x-cluster-client-ip", b"true-client-ip", b"cf-connecting-ip"}
)
"""Headers that a proxy adds (beside X-Forwarded-*): a request that carries one is not direct."""
_KEY: Final = "kircerta.head"


class Head:
    """The headers that the gate, the door and the caches ask for."""

    __slots__ = ("authorization", "authorizations", "forwarded", "host", "hosts", "if_none_match")

    def __init__(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self.host: bytes | None = None
        self.hosts = 0
        self.authorization: bytes | None = None
        self.authorizations = 0
        self.if_none_match: bytes | None = None
        self.forwarded = False
        for name, value in headers:
            if name == b"host":
                self.host = value
                self.hosts += 1
            elif name == b"if-none-match":
                self.if_none_match = value if self.if_none_match is None else self.if_none_match + b"," + value
            elif name == b"authorization":
                self.authorization = value
                self.authorizations += 1
            elif name in FORWARDING or name.startswith(b"x-forwarded"):
                self.forwarded = True


def head_of(scope: Scope) -> Head:
    """The head of a request, read once."""
    found = scope.get(_KEY)
    if found is None:
        found = scope[_KEY] = Head(scope["headers"])
    assert isinstance(found, Head)
    return found


class Hosts:
    """The names under which this server answers: a page elsewhere cannot reach it by a name of its own."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(name.lower().encode() for name in names)

    def check(self, head: Head, http_version: str) -> None:
        """Raises Problem for a missing, doubled or foreign Host."""
        if head.hosts != 1:
            if head.hosts == 0 and http_version == "1.0":
                return
            raise Problem("bad_request", "exactly one Host header is needed")
        host = head.host or b""
        if host in self._names or name_of(host).lower() in self._names:
            return
        raise Problem(
            "misdirected",
            f"{host.decode('latin-1')[:200]!r} is not served here: KIRCERTA_ALLOWED_HOSTS lists the names that are",
        )


def name_of(host: bytes) -> bytes:
    """A Host header without its port; an IPv6 address keeps its brackets."""
    if host.startswith(b"["):
        end = host.find(b"]") + 1
        rest = host[end:]
        return host[:end] if not rest or (rest[:1] == b":" and rest[1:].isdigit()) else host
    name, colon, port = host.partition(b":")
    return name if not colon or port.isdigit() else host
