"""Who signs in a workspace: its key, its signer, and the keys whose signatures count."""

from __future__ import annotations

from audit.elsewhere import Elsewhere
from audit.keys import PublicKey, Ring, SigningKey, find
from audit.signer import Signer
from ssot.settings import Settings


def signing_key(settings: Settings, *, keyring: bool = True) -> SigningKey | None:
    """The workspace's signing key; None where there is none. Raises BadKey. It may ask the system's keyring."""
    given = settings.signing_key.get_secret_value() if settings.signing_key is not None else None
    return find(settings.home, given, keyring=keyring and settings.keyring)


def signer_of(settings: Settings, *keys: SigningKey) -> Signer:
    """Signs the head of the workspace's log with these keys, and keeps a copy where the settings say."""
    copy = settings.checkpoint_copy
    return Signer(settings.home / "audit", keys, Elsewhere(copy.absolute()) if copy is not None else None)


def known_keys(settings: Settings, key: SigningKey | None) -> list[PublicKey]:
    """Every key that ever signed here, and the one that would sign next. Raises Corrupt."""
    ring = Ring(settings.home / "audit").all()
    return ring if key is None or key.public in ring else [*ring, key.public]
