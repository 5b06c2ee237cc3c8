"""The server's mark on decisions: a MAC under a key derived from its secret. Whoever has the file alone makes none.

It is a fact inside the event's data; no task is made of it.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import orjson

from audit import files
from audit.event import Corrupt, Event, decode
from audit.files import NotRegular

DECISIONS: Final = frozenset({"approval_given", "task_approved", "task_rejected", "task_unlocked"})
"""Events that only the server may write."""
GROUNDS: Final = frozenset(
    {"task_dispatched", "task_redispatched", "ack_received", "result_received", "verdict_received"}
)
"""Events that a decision rests on which nobody looks at: marked, too, where a policy may decide by itself."""
ALGORITHM: Final = "HMAC-SHA256"
_CONTEXT: Final = b"kircerta decision mac v1"
_FOLDER: Final = Path(".secrets")
_KEPT: Final = re.compile(r"mac-[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class MacKey:
    """A key of the server for decisions: 32 bytes, from which its secret cannot be told."""

    raw: bytes = field(repr=False)

    @classmethod
    def derived(cls, secret: str) -> MacKey:
        """The key that belongs to a secret (HKDF-SHA256, RFC 5869, with a context of its own)."""
        return cls(hkdf_sha256(secret.encode(), _CONTEXT))

    @property
    def fingerprint(self) -> str:
        return "mac:" + hashlib.sha256(b"kircerta mac key\n" + self.raw).hexdigest()[:32]

    def marked(self, event: Event) -> Event:
        """The placed event with its MAC in `data`; it must not have its line yet."""
        mac = {"alg": ALGORITHM, "key": self.fingerprint, "value": self._value(event)}
        return replace(event, data={**event.data, "mac": mac})

    def holds(self, event: Event) -> bool:
        """Whether the event bears this key's MAC, and nothing of it was changed since."""
        mac = event.data.get("mac")
        expected = {"alg": ALGORITHM, "key": self.fingerprint}
        if not isinstance(mac, dict) or {name: mac.get(name) for name in expected} != expected or len(mac) != 3:
            return False
        given = mac.get("value")
        return isinstance(given, str) and hmac.compare_digest(given.encode(), self._value(event).encode())

    def _value(self, event: Event) -> str:
        return hmac.new(self.raw, _marked_bytes(event), hashlib.sha256).hexdigest()


def hkdf_sha256(secret: bytes, context: bytes, salt: bytes = bytes(32)) -> bytes:
    """32 bytes of HKDF-SHA256 (RFC 5869): here, since importing a whole library for it takes longer than it does."""
    key = hmac.digest(salt, secret, "sha256")
    return hmac.digest(key, context + b"\x01", "sha256")


def _marked_bytes(event: Event) -> bytes:
    """What the MAC is made of: everything that the line says, its place included, but the MAC itself."""
    told: dict[str, Any] = {
        "seq": event.seq,
        "prev": event.prev,
        "id": event.id,
        "source": event.source,
        "time": event.time,
        "actor": event.actor,
        "subject": event.subject,
        "correlationid": event.correlationid,
        "type": event.type,
        "data": {name: value for name, value in event.data.items() if name != "mac"},
    }
    return orjson.dumps(told, option=orjson.OPT_SORT_KEYS)


# ----------------------------------------------------------------------------------------------- keys of before


def keep(home: Path, key: MacKey) -> None:
    """Keep a key, so that its MACs can be checked when the secret is another one. Raises StorageFailed."""
    path = home / _FOLDER / key.fingerprint.replace(":", "-")
    if not path.exists():
        files.keep_secret(path, key.raw.hex().encode() + b"\n")


def kept(home: Path) -> list[MacKey]:
    """The keys that were ever in use here. A file that is not what its name says is none."""
    found = sorted(path for path in (home / _FOLDER).glob("mac-*") if _KEPT.fullmatch(path.name))
    return [key for path in found if (key := _load(path)) is not None]


def _load(path: Path) -> MacKey | None:
    try:
        key = MacKey(bytes.fromhex(files.read_regular(path, 1024)[0].decode().strip()))
    except (OSError, NotRegular, ValueError):
        return None
    return key if key.fingerprint.replace(":", "-") == path.name else None


# --------------------------------------------------------------------------------------------------- checking


class DecisionCheck:
    """Looks at a log line by line: is every decision the server's own? `problems` names those that are not."""

    def __init__(self, keys: list[MacKey]) -> None:
        self._keys = {key.fingerprint: key for key in keys}
        self.decisions = 0
        self.problems: list[str] = []

    def look(self, line: bytes, body: dict[str, Any]) -> None:
        data = body.get("data")
        claims = body.get("type") in GROUNDS and isinstance(data, dict) and "mac" in data
        if body.get("type") not in DECISIONS and not claims:
            return
        self.decisions += not claims
        wrong = self._wrong_with(line, body)
        if wrong is not None:
            who = f"{body['type']} of {body.get('subject')} by {body.get('actor')}"
            self.problems.append(f"seq {body.get('seq')} ({who}) {wrong}")

    def _wrong_with(self, line: bytes, body: dict[str, Any]) -> str | None:
        data = body.get("data")
        mac = data.get("mac") if isinstance(data, dict) else None
        if mac is None:
            return "carries no MAC: it is not the server's own"
        name = mac.get("key") if isinstance(mac, dict) else None
        key = self._keys.get(name) if isinstance(name, str) else None
        if key is None:
            return "carries a MAC under a key that is not at hand"
        try:
            holds = key.holds(decode(line))
        except Corrupt:
            holds = False
        return None if holds else "carries a MAC that does not fit: it is not the server's own"
