"""`kircerta token`: prints a token for a principal."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from cli import workspace
from cli.failures import WrongUse
from cli.screen import put_json

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def add_to(parent: typer.Typer) -> None:
    parent.command(
        rich_help_panel="Decide", epilog="Example: export KIRCERTA_TOKEN=$(kircerta token --sub alice --role approver)"
    )(token)


def token(
    sub: Annotated[str, typer.Option(help="Whom it speaks for: a-z, 0-9, dot, underscore, @, hyphen.")],
    role: Annotated[
        list[str], typer.Option(help="approver, executor, reviewer, viewer or admin; give it once for each.")
    ],
    on_behalf_of: Annotated[
        str | None, typer.Option(help="For whom it acts, where it is somebody's delegate: its acts count for both.")
    ] = None,
    ttl: Annotated[str, typer.Option(help="How long it is valid: a number and s, m, h or d.")] = "8h",
    json: Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")] = False,
) -> None:
    """Print a token, and nothing else."""
    from ssot.tokens import make_token

    given = workspace.settings()
    if given.jwt_secret is None:
        raise WrongUse(
            f"there is no key to sign with: `kircerta up` makes one in {given.home / '.secrets'}, "
            "or set KIRCERTA_JWT_SECRET or KIRCERTA_JWT_SECRET_FILE (at least 32 bytes)"
        )
    try:
        made = make_token(given.jwt_secret.get_secret_value(), sub, role, seconds(ttl), on_behalf_of=on_behalf_of)
    except ValueError as error:
        raise WrongUse(str(error)) from None
    put_json({"token": made}) if json else typer.echo(made)


def seconds(ttl: str) -> float:
    """A duration such as 90s, 15m, 8h or 7d, in seconds. Raises WrongUse."""
    found = re.fullmatch(r"(\d{1,9})([smhd])", ttl, re.ASCII)
    if found is None or int(found[1]) == 0:
        raise WrongUse(f"{ttl!r} is no duration: a number and s, m, h or d, e.g. 8h")
    return float(int(found[1]) * _UNITS[found[2]])
