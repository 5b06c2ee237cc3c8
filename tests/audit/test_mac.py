"""The server's mark on decisions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from audit import mac
from audit.event import Event, decode, encode
from audit.mac import DecisionCheck, MacKey, hkdf_sha256
from tests.audit.flipping import flips

SECRET = "a secret of the server, 32 bytes or more"
KEY = MacKey.derived(SECRET)


def decision(**changes: object) -> Event:
    """A decision as the server writes it."""
    event = Event(
        seq=7,
        id="e-1",
        source="kircerta/api",
        type="task_approved",
        time="2026-01-31T09:00:00.000000Z",
        actor="alice",
        data={"decision": {"by": "alice", "reason": "gut für uns"}, "document_sha256": "sha256:00"},
        prev="sha256:" + "1" * 64,
        subject="T-1",
        correlationid="c-1",
    )
    return KEY.marked(replace(event, **changes))  # type: ignore[arg-type]


def wrong(event: Event, *keys: MacKey) -> list[str]:
    check, line = DecisionCheck([*keys] or [KEY]), encode(event)
    check.look(line, orjson.loads(line))
    return check.problems


def test_the_derivation_is_that_of_rfc_5869() -> None:
    secret, salt, context = b"\x0b" * 22, bytes(range(13)), bytes(range(0xF0, 0xFA))
    published = "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf"
    assert hkdf_sha256(secret, context, salt).hex() == published
    other = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"kircerta decision mac v1").derive(SECRET.encode())
    assert MacKey.derived(SECRET) == MacKey(other)


def test_a_decision_of_the_server_is_told_from_any_other() -> None:
    assert wrong(decision()) == []
    bare = replace(decision(), data={"decision": {}})
    assert "no MAC" in wrong(bare)[0]
    assert "not at hand" in wrong(decision(), MacKey.derived("another secret"))[0]
    assert wrong(decision(), MacKey.derived("another secret"), KEY) == []
    assert wrong(replace(bare, type="task_created")) == []


@pytest.mark.parametrize(
    "change",
    [
        {"seq": 8},
        {"id": "e-2"},
        {"source": "kircerta/cli"},
        {"type": "task_rejected"},
        {"time": "2026-01-31T09:00:01.000000Z"},
        {"actor": "mallory"},
        {"prev": "sha256:" + "2" * 64},
        {"subject": "T-2"},
        {"correlationid": None},
    ],
)
def test_a_mac_binds_everything_that_the_line_says(change: dict[str, object]) -> None:
    assert "does not fit" in wrong(replace(decision(), **change))[0]  # type: ignore[arg-type]


def test_a_mac_cannot_be_taken_to_another_decision() -> None:
    forged = replace(decision(), data={**decision(actor="bob").data})
    assert "does not fit" in wrong(forged)[0]


def test_no_byte_of_a_marked_line_can_be_another() -> None:
    line = encode(decision())
    for flipped in flips(line):
        try:
            body, event = orjson.loads(flipped), decode(flipped)
        except Exception:
            continue  # no line at all
        check = DecisionCheck([KEY])
        check.look(flipped, body)
        fixed = body.get("specversion") != "1.0" or body.get("datacontenttype") != "application/json"
        gone = check.decisions == 0 or "subject" not in body or "correlationid" not in body
        assert check.problems or fixed or gone, event


@pytest.mark.parametrize("junk", [1, "x", [], {}, {"alg": "none"}, {"alg": "HMAC-SHA256", "key": KEY.fingerprint}])
def test_junk_in_its_place_is_no_mac(junk: object) -> None:
    assert len(wrong(replace(decision(), data={**decision().data, "mac": junk}))) == 1


def test_a_key_is_kept_for_the_time_after_its_secret_and_shows_by_its_fingerprint_only(tmp_path: Path) -> None:
    mac.keep(tmp_path, KEY)
    mac.keep(tmp_path, KEY)
    (path,) = (tmp_path / ".secrets").iterdir()
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert mac.kept(tmp_path) == [KEY]
    assert SECRET not in path.read_text()
    assert KEY.raw.hex() not in repr(KEY) + KEY.fingerprint
    (tmp_path / ".secrets" / ("mac-" + "0" * 32)).write_text(KEY.raw.hex())
    (tmp_path / ".secrets" / ("mac-" + "1" * 32)).write_text("junk")
    assert mac.kept(tmp_path) == [KEY]
