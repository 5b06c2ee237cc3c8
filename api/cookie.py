"""The dashboard's cookie: how it is set and read, and what a browser's headers say of where a request comes from."""

from __future__ import annotations

import re
from typing import Final

from starlette.types import Scope

NAME: Final = "kircerta_session"
MAX_BYTES: Final = 3800
"""Browsers drop cookies over 4096 bytes, name and attributes included."""
_VALUE: Final = re.compile(r"[A-Za-z0-9_.-]+", re.ASCII)
_DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}


def session_token(scope: Scope) -> str | None:
    """The token in the session cookie; None without one, and None where several differ: no telling which is ours."""
    found = set()
    for value in _values(scope, b"cookie"):
        for pair in value.split(";"):
            name, _, token = pair.strip().partition("=")
            if name == NAME:
                found.add(token)
    return found.pop() if len(found) == 1 else None


def has_session(scope: Scope) -> bool:
    """Whether a session cookie came along, usable or not."""
    return any(
        pair.strip().partition("=")[0] == NAME for value in _values(scope, b"cookie") for pair in value.split(";")
    )


def set_cookie(scope: Scope, token: str, max_age_s: int) -> str:
    """The Set-Cookie value that keeps a token out of the reach of scripts and of other sites' requests."""
    if not _VALUE.fullmatch(token) or len(token) > MAX_BYTES:
        raise ValueError("the token does not fit a cookie")
    return f"{NAME}={token}; Max-Age={max(0, max_age_s)}; {_attributes(scope)}"


def clear_cookie(scope: Scope) -> str:
    """The Set-Cookie value that ends a session."""
    return f"{NAME}=; Max-Age=0; {_attributes(scope)}"


def is_same_origin(scope: Scope) -> bool:
    """Whether a browser says that this server's own page sent the request. No word of it means no.

    SameSite=Strict alone would let a page on another port of the same host through: a site has no port.
    """
    fetch_site = _values(scope, b"sec-fetch-site")
    if fetch_site and fetch_site != ["same-origin"]:
        return False
    origins, hosts = _values(scope, b"origin"), _values(scope, b"host")
    if not origins:
        return bool(fetch_site)
    return len(origins) == 1 and len(hosts) == 1 and _is_origin_of(origins[0], hosts[0])


def _is_origin_of(origin: str, host: str) -> bool:
    scheme, separator, place = origin.partition("://")
    port = _DEFAULT_PORTS.get(scheme)
    if not separator or port is None:  # "null" among them: a sandboxed frame, a file
        return False
    return place.lower().removesuffix(port) == host.lower().removesuffix(port)


def _attributes(scope: Scope) -> str:
    secure = "; Secure" if _is_https(scope) else ""
    return f"Path=/; HttpOnly; SameSite=Strict{secure}"


def _is_https(scope: Scope) -> bool:
    """Whether the browser came over TLS, to a proxy in front perhaps: believing that only makes the cookie stricter."""
    return scope.get("scheme") == "https" or "https" in _values(scope, b"x-forwarded-proto")


def _values(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]
