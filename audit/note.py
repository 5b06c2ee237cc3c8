"""Signed notes (C2SP signed-note, Ed25519) and DSSE envelopes: what exactly is signed, and how it is checked. Pure."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, Final

import orjson

from audit.keys import PublicKey, SigningKey, strict_base64

MOST_NOTE_BYTES: Final = 64 * 1024
_MOST_SIGNATURES: Final = 64
_ED25519: Final = b"\x01"
_DASH: Final = "\u2014 "


class Unproven(Exception):
    """A signature, a proof or what they stand for does not hold; the message says which, and that nothing is known."""


# ------------------------------------------------------------------------------------------------ signed notes


def key_id(name: str, key: PublicKey) -> bytes:
    """The first four bytes of SHA-256(name, newline, 0x01, public key)."""
    return hashlib.sha256(name.encode() + b"\n" + _ED25519 + key.raw).digest()[:4]


def verifier_key(name: str, key: PublicKey) -> str:
    """The public key as the tools for signed notes take it: ``name+id+base64``."""
    return f"{name}+{key_id(name, key).hex()}+{base64.b64encode(_ED25519 + key.raw).decode()}"


def sign_note(text: str, name: str, keys: Sequence[SigningKey]) -> bytes:
    """A note: the text, which ends in a newline, an empty line, and a line for each key's signature."""
    _check_text(text)
    if not name or "+" in name or any(char.isspace() for char in name):
        raise ValueError(f"{name!r} is no name for a key: no spaces, no plus")
    lines = []
    for key in keys:
        signed = key_id(name, key.public) + key.sign(text.encode())
        lines.append(f"{_DASH}{name} {base64.b64encode(signed).decode()}\n")
    return f"{text}\n{''.join(lines)}".encode()


def open_note(note: bytes, name: str, keys: Iterable[PublicKey]) -> tuple[str, list[PublicKey]]:
    """The text of a note and the known keys whose signatures hold: at least one. Raises Unproven.

    Signatures of unknown keys are passed over, as the specification asks; a wrong one of a known key is not.
    """
    text, lines = _parted(note)
    known = {key_id(name, key): key for key in keys}
    held = []
    for line in lines:
        signer, _, encoded = line.removeprefix(_DASH).partition(" ")
        raw = strict_base64(encoded)
        if not line.startswith(_DASH) or not signer or raw is None or len(raw) < 5:
            raise Unproven("the note has a line behind its text that is no signature")
        key = known.get(raw[:4]) if signer == name else None
        if key is None:
            continue
        if not key.holds(raw[4:], text.encode()):
            raise Unproven(f"the note's signature by {key.fingerprint} does not hold")
        held.append(key)
    if not held:
        raise Unproven(f"no known key of {name} signed the note")
    return text, held


def _parted(note: bytes) -> tuple[str, list[str]]:
    try:
        whole = note.decode()
    except UnicodeDecodeError:
        raise Unproven("the note is not UTF-8") from None
    text, gap, signatures = whole.rpartition("\n\n")
    lines = signatures.split("\n")
    if len(note) > MOST_NOTE_BYTES or not gap or lines.pop() != "" or not 0 < len(lines) <= _MOST_SIGNATURES:
        raise Unproven("this is no signed note: a text, an empty line and signatures make one")
    text += "\n"
    if any(char < " " and char != "\n" for char in whole):
        raise Unproven("the note has control characters")
    return text, lines


def _check_text(text: str) -> None:
    if not text.endswith("\n") or any(char < " " and char != "\n" for char in text):
        raise ValueError("the text of a note ends in a newline and has no other control characters")


# ------------------------------------------------------------------------------------------------------- DSSE


def pae(payload_type: str, body: bytes) -> bytes:
    """The pre-authentication encoding of DSSE 1.0: what is signed instead of the body alone."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(body), body)


def seal(payload_type: str, body: bytes, key: SigningKey) -> bytes:
    """A body in its DSSE envelope, signed: one JSON line."""
    return _envelope(payload_type, body, key.fingerprint, key.sign(pae(payload_type, body)))


def _envelope(payload_type: str, body: bytes, keyid: str, signature: bytes) -> bytes:
    envelope = {
        "payload": base64.b64encode(body).decode(),
        "payloadType": payload_type,
        "signatures": [{"keyid": keyid, "sig": base64.b64encode(signature).decode()}],
    }
    return orjson.dumps(envelope) + b"\n"


def unseal(envelope: bytes, payload_type: str, key: PublicKey) -> bytes:
    """The body of an envelope that one key sealed, written as `seal` writes it. Raises Unproven."""
    try:
        parsed: Any = orjson.loads(envelope)
        body, kind = strict_base64(parsed["payload"]), parsed["payloadType"]
        (one,) = parsed["signatures"]
        keyid, signature = one["keyid"], strict_base64(one["sig"])
    except (ValueError, KeyError, TypeError):
        raise Unproven("this is no DSSE envelope with one signature") from None
    if body is None or signature is None or kind != payload_type:
        raise Unproven(f"the envelope does not hold {payload_type}")
    if keyid != key.fingerprint or not key.holds(signature, pae(payload_type, body)):
        raise Unproven(f"the envelope's signature is not one of {key.fingerprint}")
    if envelope != _envelope(payload_type, body, keyid, signature):
        raise Unproven("the envelope is not written as it was sealed")
    return body
