"""Proofs that stand alone: what they show, and that no byte of them can be another."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from audit import proof
from audit.head import Checkpoints
from audit.keys import Ring, SigningKey
from audit.note import Unproven
from audit.signer import Signer
from tests.audit.flipping import flips
from tests.audit.test_head import KEY, OTHER, lines_of, rewrite, write


def test_every_line_can_be_proven(tmp_path: Path) -> None:
    write(tmp_path, 11)
    note = Signer(tmp_path, [KEY]).sign().note
    for seq, line in enumerate(lines_of(tmp_path), 1):
        proven = proof.check(proof.prove_event(tmp_path, seq, note, [KEY.public]))
        assert proven.event is not None
        assert (proven.event.line, proven.head.size, proven.signers) == (line, 11, [KEY.public])
    for seq in (0, 12):
        with pytest.raises(Unproven, match="not among"):
            proof.prove_event(tmp_path, seq, note, [KEY.public])


def test_a_later_head_is_proven_to_continue_an_earlier_one(tmp_path: Path) -> None:
    write(tmp_path, 5)
    first = Signer(tmp_path, [KEY]).sign().note
    write(tmp_path, 8)
    second = Signer(tmp_path, [OTHER]).sign().note
    ring = Ring(tmp_path).all()
    proven = proof.check(proof.prove_continuation(tmp_path, first, second, ring))
    assert proven.earlier is not None
    assert (proven.earlier.size, proven.head.size, {*proven.signers}) == (5, 13, {KEY.public, OTHER.public})
    with pytest.raises(Unproven, match="does not continue"):
        proof.prove_continuation(tmp_path, second, first, ring)


def test_nothing_is_proven_of_a_rewritten_log(tmp_path: Path) -> None:
    write(tmp_path, 5)
    note = Signer(tmp_path, [KEY]).sign().note
    rewrite(tmp_path, lines_of(tmp_path), lambda bodies: bodies[1].update(actor="mallory"))
    for seq in (1, 2, 5):
        with pytest.raises(Unproven, match="rewritten"):
            proof.prove_event(tmp_path, seq, note, [KEY.public])


def test_no_byte_of_a_proof_can_be_another(tmp_path: Path) -> None:
    write(tmp_path, 3)
    first = Signer(tmp_path, [KEY]).sign().note
    write(tmp_path, 2)
    note = Signer(tmp_path, [KEY]).sign().note
    inclusion = proof.prove_event(tmp_path, 2, note, [KEY.public])
    consistency = proof.prove_continuation(tmp_path, first, note, [KEY.public])
    for made in (inclusion, consistency):
        for flipped in flips(made):
            with pytest.raises(Unproven):
                trusting(flipped)


def trusting(made: bytes) -> proof.Proven:
    """Check a proof as somebody who knows the key."""
    proven = proof.check(made)
    if proven.signers != [KEY.public]:
        raise Unproven("another key")
    return proven


@pytest.mark.parametrize(
    "change", [{"kind": "hope"}, {"path": 3}, {"keys": ["x"]}, {"keys": []}, {"line": "{}"}, {"seq": 1}]
)
def test_what_is_no_proof_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    write(tmp_path, 3)
    Signer(tmp_path, [KEY]).sign()
    made = proof.prove_event(tmp_path, 2, Checkpoints(tmp_path).load(3), [KEY.public])
    with pytest.raises(Unproven):
        proof.check(orjson.dumps({**orjson.loads(made), **change}) + b"\n")
    keys = [KEY.public.text, SigningKey.new().public.text]
    with pytest.raises(Unproven, match="did not sign"):
        proof.check(orjson.dumps({**orjson.loads(made), "keys": keys}) + b"\n")
    for junk in (b"", b"[]", b"\xff", made.replace(b",", b", ")):
        with pytest.raises(Unproven):
            proof.check(junk)
