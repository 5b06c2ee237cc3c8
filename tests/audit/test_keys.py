"""Where the signing key is found, and what is ever shown of it."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from audit.event import Corrupt
from audit.keys import KEY_FILE, BadKey, PublicKey, Ring, SigningKey, find, keep_in_file, keep_in_keyring
from audit.note import verifier_key

KEY, OTHER, THIRD = SigningKey(b"k" * 32), SigningKey(b"o" * 32), SigningKey(b"t" * 32)


def text(key: SigningKey) -> str:
    return base64.b64encode(key.seed).decode()


def pem(key: SigningKey) -> str:
    made = Ed25519PrivateKey.from_private_bytes(key.seed)
    return made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def public_pem(key: SigningKey) -> str:
    made = Ed25519PrivateKey.from_private_bytes(key.seed).public_key()
    return made.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


@pytest.fixture
def in_keyring() -> Iterator[dict[str, str]]:
    """A keyring of this test alone, put in by the keyring library's own means."""
    import keyring
    from keyring.backend import KeyringBackend

    kept: dict[str, str] = {}

    class Memory(KeyringBackend):
        priority = 1  # type: ignore[assignment]

        def get_password(self, service: str, username: str) -> str | None:
            return kept.get(f"{service} {username}")

        def set_password(self, service: str, username: str, password: str) -> None:
            kept[f"{service} {username}"] = password

        def delete_password(self, service: str, username: str) -> None:
            del kept[f"{service} {username}"]

    before = keyring.get_keyring()
    keyring.set_keyring(Memory())
    yield kept
    keyring.set_keyring(before)


def test_the_environment_comes_before_the_keyring_and_that_before_the_file(
    tmp_path: Path, in_keyring: dict[str, str]
) -> None:
    assert find(tmp_path, None) is None
    keep_in_file(tmp_path, KEY)
    assert find(tmp_path, None) == KEY
    keep_in_keyring(tmp_path, OTHER)
    assert find(tmp_path, None) == SigningKey(OTHER.seed, "keyring")
    assert find(tmp_path, None, keyring=False) == KEY
    assert find(tmp_path, text(THIRD)) == SigningKey(THIRD.seed, "environment")
    assert find(tmp_path / "another", None) is None, "a keyring keeps each workspace's key apart"


def test_a_keyring_that_fails_or_hangs_is_passed_by(tmp_path: Path, in_keyring: dict[str, str]) -> None:
    import threading

    import keyring
    from keyring.backends.fail import Keyring as Failing

    keep_in_file(tmp_path, KEY)
    keyring.set_keyring(Failing())  # type: ignore[no-untyped-call]
    assert find(tmp_path, None) == KEY
    with pytest.raises(BadKey, match="keyring could not keep"):
        keep_in_keyring(tmp_path, OTHER)
    over = threading.Event()

    class Hanging(Failing):
        priority = 1  # type: ignore[assignment]

        def get_password(self, service: str, username: str) -> str | None:
            over.wait(30)
            return None

    keyring.set_keyring(Hanging())  # type: ignore[no-untyped-call]
    try:
        assert find(tmp_path, None) == KEY
    finally:
        over.set()


def test_a_key_that_is_there_and_cannot_be_used_is_not_passed_by(tmp_path: Path) -> None:
    keep_in_file(tmp_path, KEY)
    for bad in ("junk", text(KEY)[:-4], public_pem(KEY), "-----BEGIN PRIVATE" + " KEY-----\n"):
        with pytest.raises(BadKey, match="KIRCERTA_SIGNING_KEY holds no signing key"):
            find(tmp_path, bad, keyring=False)
    (tmp_path / KEY_FILE).chmod(0o644)
    with pytest.raises(BadKey, match="chmod 600"):
        find(tmp_path, None, keyring=False)
    (tmp_path / KEY_FILE).unlink()
    (tmp_path / KEY_FILE).mkdir(mode=0o700)
    with pytest.raises(BadKey, match="cannot be read"):
        find(tmp_path, None, keyring=False)


def test_a_key_in_a_file_is_its_owners_alone(tmp_path: Path) -> None:
    keep_in_file(tmp_path, KEY)
    keep_in_file(tmp_path, OTHER)
    path = tmp_path / KEY_FILE
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert find(tmp_path, None, keyring=False) == OTHER
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_keys_are_read_in_the_usual_forms() -> None:
    assert SigningKey.of(pem(KEY), "file", "it") == KEY
    for form in (KEY.public.text, KEY.public.text + "\n", public_pem(KEY), verifier_key("a.b/c", KEY.public)):
        assert PublicKey.of(form) == KEY.public
    other = X25519PrivateKey.generate().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for junk in ("", "AAAA", KEY.public.text[:-2], other.decode(), "a+b+c", KEY.fingerprint):
        with pytest.raises(BadKey):
            PublicKey.of(junk)


def test_only_the_fingerprint_is_shown(tmp_path: Path) -> None:
    for secret in (repr(KEY.seed), text(KEY), KEY.seed.hex()):
        assert secret not in repr(KEY) + str(KEY) + KEY.fingerprint


def test_the_ring_forgets_no_key_and_takes_none_for_another(tmp_path: Path) -> None:
    ring = Ring(tmp_path)
    assert ring.all() == []
    for key in (KEY, OTHER, KEY):
        ring.keep(key.public)
    assert set(Ring(tmp_path).all()) == {KEY.public, OTHER.public}
    first, second = sorted(ring.folder.iterdir())
    first.write_bytes(second.read_bytes())
    with pytest.raises(Corrupt, match="another key than its name says"):
        ring.all()
    first.write_bytes(b"junk")
    with pytest.raises(Corrupt, match="no public key"):
        ring.all()
