"""Tokens are made here only: HS256, the claims that the API asks for, nothing else."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Final, get_args

import jwt

from ssot.states import Role
from ssot.task import PRINCIPAL

ISSUER: Final = "kircerta"
AUDIENCE: Final = "kircerta"
KNOWN_ROLES: Final = frozenset(get_args(Role))


def make_token(
    secret: str,
    sub: str,
    roles: Iterable[str],
    ttl_s: float,
    now: float | None = None,
    *,
    on_behalf_of: str | None = None,
) -> str:
    """A token for a principal, valid for `ttl_s` seconds from `now` (Unix seconds). Raises ValueError.

    `on_behalf_of` names whom the principal acts for: whoever is barred as one of the two is barred as both.
    """
    for name in (sub,) if on_behalf_of is None else (sub, on_behalf_of):
        if not PRINCIPAL.fullmatch(name):
            raise ValueError(f"{name!r:.100} is no principal: 1 to 64 of a-z, 0-9, dot, underscore, @ and hyphen")
    if on_behalf_of == sub:
        raise ValueError(f"{sub} cannot act on its own behalf: leave that out")
    given = list(dict.fromkeys(roles))
    unknown = sorted(set(given) - KNOWN_ROLES)
    if unknown or not given:
        raise ValueError(f"roles are {', '.join(sorted(KNOWN_ROLES))}" + (f"; not {unknown[0]!r}" if unknown else ""))
    if not 0 < ttl_s <= 366 * 86400:
        raise ValueError("a token is valid for more than 0 seconds and at most a year")
    issued = int(time.time() if now is None else now)
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": sub, "roles": given, "iat": issued, "exp": issued + int(ttl_s)}
    claims |= {} if on_behalf_of is None else {"on_behalf_of": on_behalf_of}
    return jwt.encode(claims, secret, algorithm="HS256")
