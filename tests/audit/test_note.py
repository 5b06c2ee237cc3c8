"""Signed notes and DSSE envelopes against published vectors, and against every flipped byte."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.hashes import SHA256

from audit.keys import PublicKey, SigningKey
from audit.note import Unproven, key_id, open_note, pae, seal, sign_note, unseal, verifier_key
from tests.audit.flipping import flips

NAME = "PeterNeumann"
SECRET = "AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
VERIFIER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
SIGNED = (
    TEXT
    + "\n\u2014 PeterNeumann "
    + "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
).encode()


def peter() -> SigningKey:
    return SigningKey(base64.b64decode(SECRET)[1:])


def test_a_note_is_the_published_one() -> None:
    assert verifier_key(NAME, peter().public) == VERIFIER
    assert PublicKey.of(VERIFIER) == peter().public
    assert sign_note(TEXT, NAME, [peter()]) == SIGNED
    assert open_note(SIGNED, NAME, [peter().public]) == (TEXT, [peter().public])


@pytest.mark.parametrize(
    ("seed", "public", "message", "signature"),
    [
        (
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
        ),
        (
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            "72",
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
        ),
        (
            "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
            "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
            "af82",
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
        ),
    ],
)
def test_ed25519_is_that_of_rfc_8032(seed: str, public: str, message: str, signature: str) -> None:
    key = SigningKey(bytes.fromhex(seed))
    assert key.public.raw.hex() == public
    assert key.sign(bytes.fromhex(message)).hex() == signature
    assert key.public.holds(bytes.fromhex(signature), bytes.fromhex(message))
    assert not key.public.holds(bytes.fromhex(signature), b"another")


def test_the_pre_authentication_encoding_is_the_published_one() -> None:
    encoded = pae("http://example.com/HelloWorld", b"hello world")
    assert encoded == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    x = 46950820868899156662930047687818585632848591499744589407958293238635476079160
    y = 5640078356564379163099075877009565129882514886557779369047442380624545832820
    signature = base64.b64decode(
        "A3JqsQGtVsJ2O2xqrI5IcnXip5GToJ3F+FnZ+O88SjtR6rDAajabZKciJTfUiHqJPcIAriEGAHTVeCUjW2JIZA=="
    )
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    published = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
    published.verify(utils.encode_dss_signature(r, s), encoded, ec.ECDSA(SHA256()))  # raises where it does not hold


def test_no_byte_of_a_note_can_be_another() -> None:
    for flipped in flips(SIGNED):
        with pytest.raises(Unproven):
            open_note(flipped, NAME, [peter().public])


def test_signatures_of_strangers_are_passed_over() -> None:
    stranger = SigningKey.new()
    note = sign_note(TEXT, NAME, [stranger, peter()])
    assert open_note(note, NAME, [peter().public]) == (TEXT, [peter().public])
    assert open_note(note, NAME, [peter().public, stranger.public])[1] == [stranger.public, peter().public]
    with pytest.raises(Unproven, match="no known key"):
        open_note(note, NAME, [SigningKey.new().public])
    with pytest.raises(Unproven, match="no known key"):
        open_note(note, "Somebody", [peter().public])


def test_a_wrong_signature_of_a_known_key_spoils_the_note() -> None:
    good = sign_note(TEXT, NAME, [peter()])
    wrong = base64.b64encode(key_id(NAME, peter().public) + bytes(64)).decode()
    with pytest.raises(Unproven, match="does not hold"):
        open_note(good + f"\u2014 {NAME} {wrong}\n".encode(), NAME, [peter().public])


@pytest.mark.parametrize("text", ["no newline", "a\ttab\n", "a\r\n"])
def test_what_is_no_text_of_a_note_is_not_signed(text: str) -> None:
    with pytest.raises(ValueError, match="newline"):
        sign_note(text, NAME, [peter()])


@pytest.mark.parametrize(
    "note", [b"", b"text\n", b"text\n\n", b"\xff\n\n\xe2\x80\x94 a b\n", SIGNED[:-1], TEXT.encode()]
)
def test_what_is_no_note_is_refused(note: bytes) -> None:
    with pytest.raises(Unproven):
        open_note(note, NAME, [peter().public])


def test_no_byte_of_an_envelope_can_be_another() -> None:
    key = SigningKey.new()
    envelope = seal("application/vnd.in-toto+json", b'{"a": 1}', key)
    assert unseal(envelope, "application/vnd.in-toto+json", key.public) == b'{"a": 1}'
    for flipped in flips(envelope):
        with pytest.raises(Unproven):
            unseal(flipped, "application/vnd.in-toto+json", key.public)
    with pytest.raises(Unproven):
        unseal(envelope, "text/plain", key.public)
    with pytest.raises(Unproven):
        unseal(envelope, "application/vnd.in-toto+json", SigningKey.new().public)
    with pytest.raises(Unproven):
        unseal(envelope.replace(b'"payload"', b' "payload"'), "application/vnd.in-toto+json", key.public)
