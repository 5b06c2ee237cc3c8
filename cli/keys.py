"""`kircerta keys`: the key that signs the log's head. Shown is its fingerprint or public part, nothing else."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from cli import workspace
from cli.failures import Failure, WrongUse
from cli.screen import Json, note, put_json, put_table, say

if TYPE_CHECKING:
    from audit.keys import PublicKey, SigningKey
    from ssot.settings import Settings

Rows = list[tuple[str, str, str, str]]

app = typer.Typer(help="The key that signs the log's head, and those before it.", no_args_is_help=True)

InKeyring = Annotated[bool, typer.Option("--keyring", help="Keep it in the system's keyring, not in .secrets/.")]


def add_to(parent: typer.Typer) -> None:
    parent.add_typer(app, name="keys", rich_help_panel="Decide")


@app.command(epilog="Example: kircerta keys create")
def create(keyring: InKeyring = False, json: Json = False) -> None:
    """Make the signing key of this workspace, where there is none. Prints its fingerprint."""
    from audit.keys import SigningKey
    from ssot.signing import signing_key

    given = workspace.settings()
    there = signing_key(given)
    if there is not None:
        raise Failure(f"there is a signing key already, {there.fingerprint}: `kircerta keys rotate` makes another")
    key = SigningKey.new("keyring" if keyring else "file")
    _keep(given, key)
    _tell(key, "made", json=json)


@app.command(epilog="Example: kircerta keys rotate")
def rotate(keyring: InKeyring = False, json: Json = False) -> None:
    """Make another signing key. The old one vouches for it in a last checkpoint; what it signed still holds."""
    from audit.keys import KEY_FILE, SigningKey
    from audit.signer import NothingToSign
    from ssot.signing import signer_of, signing_key

    given = workspace.settings()
    old = signing_key(given)
    if old is None:
        raise WrongUse("there is no signing key to rotate: `kircerta keys create` makes one")
    if old.origin == "environment":
        raise WrongUse("the signing key comes from KIRCERTA_SIGNING_KEY: put another one there")
    key = SigningKey.new("keyring" if keyring or old.origin == "keyring" else "file")
    with suppress(NothingToSign):
        signer_of(given, key, old).sign()
    _keep(given, key)  # only now: from here on the old one is gone
    if key.origin != "file":
        (given.home / KEY_FILE).unlink(missing_ok=True)
    _tell(key, f"follows {old.fingerprint}", json=json)


def _keep(given: Settings, key: SigningKey) -> None:
    from audit.keys import Ring, keep_in_file, keep_in_keyring

    if key.origin == "keyring" and not given.keyring:
        raise WrongUse("KIRCERTA_KEYRING is off: without --keyring the key is kept in .secrets/")
    Ring(given.home / "audit").keep(key.public)
    if key.origin == "keyring":
        keep_in_keyring(given.home, key)
    else:
        keep_in_file(given.home, key)


def _tell(key: SigningKey, what: str, *, json: bool) -> None:
    if json:
        put_json({"fingerprint": key.fingerprint, "from": key.origin})
        return
    say(key.fingerprint)
    where = "in the keyring" if key.origin == "keyring" else "in .secrets/signing_key"
    note(f"{what}; kept {where}. Keep the fingerprint where others find it: proofs are checked against it")


@app.command("list", epilog="Example: kircerta keys list")
def list_keys(json: Json = False) -> None:
    """List the keys by their fingerprints: the one that signs, those before it, and the server's for decisions."""
    rows = [*_signing_rows(workspace.settings()), *_mac_rows(workspace.settings())]
    if json:
        put_json({"keys": [dict(zip(("fingerprint", "use", "state", "from"), row, strict=True)) for row in rows]})
    else:
        put_table(("FINGERPRINT", "USE", "STATE", "FROM"), rows)


def _signing_rows(given: Settings) -> Rows:
    from ssot.signing import known_keys, signing_key

    key = signing_key(given)
    current = key.fingerprint if key is not None else None
    return [
        (one.fingerprint, "log head", "signs", key.origin)
        if key is not None and one.fingerprint == current
        else (one.fingerprint, "log head", "checks what it signed", "audit/.checkpoints/keys")
        for one in known_keys(given, key)
    ]


def _mac_rows(given: Settings) -> Rows:
    from audit import mac

    current, kept = given.mac_key, mac.kept(given.home)
    rows: Rows = [(current.fingerprint, "decisions", "signs", "KIRCERTA_JWT_SECRET")] if current else []
    older = [key for key in kept if key != current]
    return rows + [(key.fingerprint, "decisions", "checks what it signed", ".secrets") for key in older]


@app.command(epilog="Example: kircerta keys public > key.pub")
def public(
    fingerprint: Annotated[str | None, typer.Argument(help="Which one; the one that signs where absent.")] = None,
    json: Json = False,
) -> None:
    """Print a public key, for those who check proofs."""
    key = _public_key(workspace.settings(), fingerprint)
    put_json({"fingerprint": key.fingerprint, "public": key.text}) if json else typer.echo(key.text)


def _public_key(given: Settings, fingerprint: str | None) -> PublicKey:
    from ssot.signing import known_keys, signing_key

    key = signing_key(given)
    if fingerprint is None:
        if key is None:
            raise WrongUse("there is no signing key: `kircerta keys create` makes one")
        return key.public
    for one in known_keys(given, key):
        if one.fingerprint == fingerprint:
            return one
    raise Failure(f"no key {fingerprint:.80} is known here: `kircerta keys list` names them")
