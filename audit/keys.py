"""Signing keys: Ed25519, found where they are kept, shown by their fingerprint. The private part leaves by no door.

Public keys are never forgotten: each that ever signed stays in ``audit/.checkpoints/keys``, so that old proofs hold.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from audit import files
from audit.event import Corrupt
from audit.files import NotRegular

KEY_FILE: Final = Path(".secrets") / "signing_key"
RING_FOLDER: Final = Path(".checkpoints") / "keys"
SEED_BYTES: Final = 32
KEYRING_SERVICE: Final = "kircerta-signing-key"
KEYRING_S: Final = 2.0
"""Seconds that a keyring may take: it may wait for somebody to unlock it, who is not there."""
_FINGERPRINT: Final = re.compile(r"ed25519:[0-9a-f]{32}")
_KEY_ID: Final = re.compile(r"[0-9a-f]{8}")
_MOST_KEY_BYTES: Final = 16 * 1024

Origin = Literal["environment", "keyring", "file"]


class BadKey(Exception):
    """A key cannot be used; the message says where it is kept and what is expected, and never shows it."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """The part of a key that checks; `raw` are its 32 bytes (RFC 8032)."""

    raw: bytes

    def __post_init__(self) -> None:
        if len(self.raw) != SEED_BYTES:
            raise BadKey("a public key of Ed25519 has 32 bytes")

    @property
    def fingerprint(self) -> str:
        """``ed25519:`` and half of the sha256 of the 32 bytes, in hex."""
        return "ed25519:" + hashlib.sha256(self.raw).hexdigest()[:32]

    @property
    def text(self) -> str:
        return base64.b64encode(self.raw).decode()

    def holds(self, signature: bytes, message: bytes) -> bool:
        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True

    @classmethod
    def of(cls, text: str) -> PublicKey:
        """From base64 of its 32 bytes, a note's verifier key (``name+id+base64``), or PEM. Raises BadKey."""
        text = text.strip()
        if text.startswith("-----BEGIN"):
            return cls(_pem_public(text))
        parts = text.split("+", 2)  # base64 may hold more of them, the name and the id none
        is_verifier = len(parts) == 3 and _KEY_ID.fullmatch(parts[1]) is not None
        raw = strict_base64(parts[2] if is_verifier else text)
        if raw is not None and len(raw) == SEED_BYTES + 1 and raw[:1] == b"\x01":
            raw = raw[1:]
        if raw is None or len(raw) != SEED_BYTES:
            raise BadKey("this is no public key of Ed25519: base64 of its 32 bytes, a verifier key or PEM is")
        return cls(raw)


@dataclass(frozen=True, slots=True)
class SigningKey:
    """The part of a key that signs, and where it was found."""

    seed: bytes = field(repr=False)
    origin: Origin = "file"

    @property
    def public(self) -> PublicKey:
        return PublicKey(Ed25519PrivateKey.from_private_bytes(self.seed).public_key().public_bytes_raw())

    @property
    def fingerprint(self) -> str:
        return self.public.fingerprint

    def sign(self, message: bytes) -> bytes:
        return Ed25519PrivateKey.from_private_bytes(self.seed).sign(message)

    @classmethod
    def new(cls, origin: Origin = "file") -> SigningKey:
        return cls(Ed25519PrivateKey.generate().private_bytes_raw(), origin)

    @classmethod
    def of(cls, text: str, origin: Origin, where: str) -> SigningKey:
        """From base64 of its seed of 32 bytes, or an unencrypted PEM (PKCS #8). Raises BadKey."""
        text = text.strip()
        raw = _pem_seed(text) if text.startswith("-----BEGIN") else strict_base64(text)
        if raw is None or len(raw) != SEED_BYTES:
            raise BadKey(f"{where} holds no signing key: base64 of an Ed25519 seed (32 bytes), or PEM without password")
        return cls(raw, origin)


def strict_base64(text: str) -> bytes | None:
    """What standard base64 says; None for everything that is not exactly the one way to write it."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw if base64.b64encode(raw).decode() == text else None


def _pem_seed(text: str) -> bytes | None:
    with suppress(ValueError, TypeError):
        key = load_pem_private_key(text.encode(), password=None)
        if isinstance(key, Ed25519PrivateKey):
            return key.private_bytes_raw()
    return None


def _pem_public(text: str) -> bytes:
    with suppress(ValueError):
        key = load_pem_public_key(text.encode())
        if isinstance(key, Ed25519PublicKey):
            return key.public_bytes_raw()
    raise BadKey("this PEM holds no public key of Ed25519")


# ------------------------------------------------------------------------------------------ where it is kept


def find(home: Path, given: str | None, *, keyring: bool = True) -> SigningKey | None:
    """The workspace's key: what the environment gave, else the keyring's, else the file's. Raises BadKey.

    A key that is there and cannot be used is never passed over for another one.
    """
    if given:
        return SigningKey.of(given, "environment", "KIRCERTA_SIGNING_KEY")
    kept = from_keyring(home) if keyring else None
    if kept is not None:
        return SigningKey.of(kept, "keyring", "the keyring")
    return _from_file(home / KEY_FILE)


def _from_file(path: Path) -> SigningKey | None:
    try:
        if path.stat().st_mode & 0o077:
            raise BadKey(f"{path} is open to others: chmod 600 {path}")
        data, _ = files.read_regular(path, _MOST_KEY_BYTES)
    except FileNotFoundError:
        return None
    except (OSError, NotRegular) as error:
        raise BadKey(f"{path} cannot be read: {error}") from None
    return SigningKey.of(data.decode(errors="replace"), "file", str(path))


def keep_in_file(home: Path, key: SigningKey) -> None:
    """Keep a key in its file, in the place of an older one: readable by its owner alone from the first moment on."""
    files.keep_secret(home / KEY_FILE, base64.b64encode(key.seed) + b"\n")


def from_keyring(home: Path) -> str | None:
    """What the system's keyring has for this workspace; None where it has nothing, is not there, or takes too long."""
    found: list[str | None] = []

    def ask() -> None:
        with suppress(Exception):  # a keyring that is broken is no keyring
            import keyring

            found.append(keyring.get_password(KEYRING_SERVICE, str(home)))

    _bounded(ask)
    return found[0] if found else None


def keep_in_keyring(home: Path, key: SigningKey) -> None:
    """Keep a key in the system's keyring. Raises BadKey where that cannot be done."""
    failed: list[str] = ["it gave no answer"]

    def keep() -> None:
        try:
            import keyring

            keyring.set_password(KEYRING_SERVICE, str(home), base64.b64encode(key.seed).decode())
            failed.clear()
        except Exception as error:
            failed[:] = [type(error).__name__]

    _bounded(keep)
    if failed:
        raise BadKey(f"the keyring could not keep the key ({failed[0]}): without --keyring it is kept in a file")


def _bounded(work: Callable[[], None]) -> None:
    """Do something that may hang, and leave it behind when it does."""
    thread = threading.Thread(target=work, name="kircerta-keyring", daemon=True)
    thread.start()
    thread.join(KEYRING_S)


# ------------------------------------------------------------------------------------------------- the ring


class Ring:
    """The public keys of a workspace: all that ever signed, by their fingerprint.

    Args:
        folder: the workspace's ``audit`` folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / RING_FOLDER

    def keep(self, key: PublicKey) -> None:
        """Remember a key, before its first signature. Durable when this returns. Raises StorageFailed."""
        name = _file_name(key.fingerprint)
        if not (self.folder / name).exists():
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise files.storage_error(error, str(self.folder)) from None
            files.keep_durably(self.folder, name, key.text.encode() + b"\n")

    def all(self) -> list[PublicKey]:
        """Every key. Raises Corrupt where a file is not the key that its name says."""
        return [self._load(path) for path in sorted(self.folder.glob("ed25519-*.pub"))]

    def _load(self, path: Path) -> PublicKey:
        try:
            key = PublicKey.of(files.read_regular(path, _MOST_KEY_BYTES)[0].decode())
        except (BadKey, OSError, NotRegular, UnicodeDecodeError) as error:
            raise Corrupt(f"{path} is no public key ({error})") from None
        if _file_name(key.fingerprint) != path.name:
            raise Corrupt(f"{path} holds another key than its name says: {key.fingerprint}")
        return key


def _file_name(fingerprint: str) -> str:
    return fingerprint.replace(":", "-") + ".pub"


def is_fingerprint(text: str) -> bool:
    return _FINGERPRINT.fullmatch(text) is not None
