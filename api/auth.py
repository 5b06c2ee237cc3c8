"""Who asks: tokens are checked here only. HS256; nothing in a token chooses how it is checked."""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from typing import Any, Final

import jwt
from starlette.requests import Request

from api.cookie import has_session, is_same_origin, session_token
from api.head import head_of
from api.problems import Problem
from api.refusals import RefusalCounter
from ssot.settings import Settings
from ssot.task import PRINCIPAL
from ssot.tokens import AUDIENCE, ISSUER, KNOWN_ROLES
from ssot.tokens import make_token as make_token

LEEWAY_S: Final = 30
MAX_TOKEN_BYTES: Final = 8192
_CLAIMS: Final = ("iss", "aud", "sub", "roles", "iat", "exp")
_HEADERS: Final = frozenset({"alg", "typ"})
_SHAPE: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]{43}", re.ASCII)


class BadToken(Exception):
    """The token is none of ours, is over, or says what we do not understand."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who a token speaks for, and the roles it gives."""

    name: str
    roles: frozenset[str]
    expires_at: float | None = None
    """Unix seconds: who is served for longer than one request looks at it."""
    on_behalf_of: str | None = None
    """For whom it acts, where it is somebody's delegate: what it does counts for both."""

    def may(self, role: str) -> bool:
        return role in self.roles or "admin" in self.roles


def check_token(secret: str, token: str) -> Principal:
    """The principal of a token. Raises BadToken, with a reason that gives nothing away."""
    if len(token) > MAX_TOKEN_BYTES or not _SHAPE.fullmatch(token) or not _is_canonical(token):
        raise BadToken("the token is no JWT signed with HS256")
    try:
        found = jwt.decode_complete(
            token,
            secret,
            algorithms=["HS256"],
            audience=AUDIENCE,
            issuer=ISSUER,
            leeway=LEEWAY_S,
            options={"require": list(_CLAIMS), "strict_aud": True},
        )
    except jwt.ExpiredSignatureError:
        raise BadToken("the token has expired") from None
    except jwt.ImmatureSignatureError:
        raise BadToken("the token is not valid yet") from None
    except Exception:  # whatever a hostile token makes the library raise: it is no good token
        raise BadToken("the token is not valid here") from None
    return _principal(found["header"], found["payload"])


def _is_canonical(token: str) -> bool:
    """Whether each part is the one base64url form of its bytes: no second text may be the same token."""
    try:
        return all(
            urlsafe_b64encode(urlsafe_b64decode(part + "=" * (-len(part) % 4))).rstrip(b"=").decode() == part
            for part in token.split(".")
        )
    except ValueError:
        return False


def _principal(header: dict[str, Any], claims: dict[str, Any]) -> Principal:
    """What PyJWT leaves open, closed: header fields, exact types, known roles."""
    if set(header) - _HEADERS or header.get("typ", "JWT") != "JWT":
        raise BadToken("the token's header has fields that are not used here")
    if claims["iss"] != ISSUER or not all(_is_moment(claims[name]) for name in ("iat", "exp")):
        raise BadToken("the token's claims are not of their types")
    sub, roles = claims["sub"], claims["roles"]
    if not isinstance(sub, str) or not PRINCIPAL.fullmatch(sub):
        raise BadToken("the token's sub is no principal")
    if not isinstance(roles, list) or not all(isinstance(role, str) and role in KNOWN_ROLES for role in roles):
        raise BadToken("the token's roles are not a list of known roles")
    return Principal(sub, frozenset(roles), float(min(claims["exp"], 2**53)), _behalf(sub, claims))


def _behalf(sub: str, claims: dict[str, Any]) -> str | None:
    """For whom a delegate acts. Delegation told in any other way is not understood, and then nothing is."""
    if "act" in claims or "may_act" in claims:
        raise BadToken("the token tells of a delegation in a way that is not used here")
    if "on_behalf_of" not in claims:
        return None
    behalf = claims["on_behalf_of"]
    if not isinstance(behalf, str) or not PRINCIPAL.fullmatch(behalf) or behalf == sub:
        raise BadToken("the token's on_behalf_of is no other principal")
    return behalf


def _is_moment(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


class Gate:
    """Lets a request through or not. Refusals are counted by address and route.

    Args:
        loopback: whether the server is bound to a loopback address; elsewhere reads need a token, too.
    """

    def __init__(self, settings: Settings, refusals: RefusalCounter, *, loopback: bool) -> None:
        self._secret = settings.jwt_secret.get_secret_value() if settings.jwt_secret else None
        self._open = loopback and not settings.read_auth
        self._refusals = refusals

    def reader(self, request: Request) -> Principal | None:
        """Let a read pass: anybody directly on a loopback bind, otherwise any principal with a role."""
        if self._open and not head_of(request.scope).forwarded:
            return None
        principal = self._authenticated(request)
        if not principal.roles:
            raise self._denied(request, "forbidden", f"{principal.name} has no role: reading needs `viewer` or another")
        return principal

    def holder(self, request: Request, role: str) -> Principal:
        """Let the holder of a role pass."""
        principal = self._authenticated(request)
        if not principal.may(role):
            raise self._denied(request, "forbidden", f"{principal.name} lacks the role `{role}`")
        return principal

    @property
    def configured(self) -> bool:
        """Whether anybody can be recognised at all."""
        return self._secret is not None

    def known(self, token: str) -> Principal | None:
        """Whom a token speaks for; None where it is no good. Nothing is refused, so nothing is counted."""
        try:
            return check_token(self._secret, token) if self._secret is not None else None
        except BadToken:
            return None

    def recognise(self, request: Request, token: str) -> Principal:
        """Whom a token speaks for. Raises Problem."""
        if self._secret is None:
            raise Problem("not_configured", "KIRCERTA_JWT_SECRET is not set: nobody can be recognised")
        try:
            return check_token(self._secret, token)
        except BadToken as bad:
            raise self._denied(request, "unauthenticated", str(bad)) from None

    def require_same_origin(self, request: Request) -> None:
        """Refuse what a browser did not send from this server's own page."""
        if not is_same_origin(request.scope):
            raise self._denied(request, "cross_origin", "with a cookie only this server's own page changes anything")

    def _authenticated(self, request: Request) -> Principal:
        if self._secret is None:
            raise Problem("not_configured", "KIRCERTA_JWT_SECRET is not set: nobody can be recognised")
        head = head_of(request.scope)
        if head.authorizations == 0 and has_session(request.scope):
            return self._by_cookie(request)
        scheme, _, token = (head.authorization or b"").decode("latin-1").partition(" ")
        if head.authorizations != 1 or scheme.lower() != "bearer":
            raise self._denied(request, "unauthenticated", "send one `Authorization: Bearer <token>`")
        return self.recognise(request, token.strip(" "))

    def _by_cookie(self, request: Request) -> Principal:
        """A browser sends the cookie whoever's page asks: what changes something has to come from our own."""
        if request.method not in ("GET", "HEAD"):
            self.require_same_origin(request)
        return self.recognise(request, session_token(request.scope) or "")

    def _denied(self, request: Request, code: str, detail: str) -> Problem:
        client, route = request.scope.get("client"), request.scope.get("route")
        self._refusals.count(client[0] if client else "unknown", getattr(route, "path", "unknown"), code)
        return Problem(code, detail, headers={"WWW-Authenticate": "Bearer"} if code == "unauthenticated" else {})
