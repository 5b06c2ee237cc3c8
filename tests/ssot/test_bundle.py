"""A task's evidence in one archive: it stands alone, and no byte of it can be another."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import orjson
import pytest

from audit.head import Checkpoints
from audit.keys import SigningKey
from audit.note import Unproven, seal
from audit.signer import Signed, Signer
from cli.scenario import play
from ssot import bundle
from ssot.states import Stage
from ssot.store import Store
from tests.audit.flipping import flips
from tests.builders import Walk, a_store, diff_text, issue, snapshot, walk_to

KEY, OTHER = SigningKey(b"k" * 32), SigningKey(b"o" * 32)


def signed(home: Path, key: SigningKey = KEY) -> Signed:
    return Signer(home / "audit", [key]).sign()


def made(home: Path, task_id: str = "T-1", key: SigningKey = KEY) -> bytes:
    return bundle.make(home, task_id, signed(home, key), key)


def a_history(home: Path) -> Store:
    """Several tasks; T-1 was rejected once, and approved then."""
    store = a_store(home, segment_bytes=6000)
    walk_to(store, "T-0", "approved")
    walk = walk_to(store, "T-1", "rejected")
    walk_to(store, "T-2", "acknowledged")
    walk.to_gate()
    walk.approve(reason="fine now")
    walk_to(store, "T-3", "new")
    return store


@pytest.mark.parametrize(
    "stage", ["new", "dispatched", "acknowledged", "delivered", "needs_review", "approved", "ended"]
)
def test_a_bundle_holds_with_nothing_else_at_hand(tmp_path: Path, stage: Stage) -> None:
    store = a_store(tmp_path / "ws")
    walk_to(store, "T-0", "approved")
    walk = walk_to(store, "T-1", stage)
    data, document = made(tmp_path / "ws"), store.document("T-1")
    shutil.rmtree(tmp_path / "ws")
    shown = bundle.check(data)
    assert (bundle.document_bytes(shown.task), shown.key) == (document, KEY.public)
    assert {event.subject for event in shown.events} == {"T-1"}
    has_diff = walk.task.current is not None and walk.task.current.result is not None
    assert shown.subject == hashlib.sha256(diff_text().encode() if has_diff else document or b"").hexdigest()


def test_the_statement_tells_who_did_what(tmp_path: Path) -> None:
    a_history(tmp_path)
    members = bundle.unpack(made(tmp_path))
    statement = orjson.loads(bundle.unseal(members["attestation.json"], bundle.PAYLOAD, KEY.public))
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    diff = hashlib.sha256(diff_text().encode()).hexdigest()
    assert statement["subject"] == [{"name": "attempt-2.diff", "digest": {"sha256": diff}}]
    told = statement["predicate"]
    assert (told["status"], told["attempt"]) == ("approved", 2)
    assert [told[name]["by"] for name in ("dispatch", "ack", "result", "verdict", "decision")] == [
        "dispatcher",
        "fake-executor",
        "fake-executor",
        "fake-reviewer",
        "alice",
    ]
    assert (told["result"]["operations"], told["verdict"]["issues"], told["approvals"]) == (2, 0, [])
    assert told["files"] == {
        name: hashlib.sha256(data).hexdigest() for name, data in members.items() if name != "attestation.json"
    }


def test_the_same_log_and_key_give_the_same_bytes(tmp_path: Path) -> None:
    a_history(tmp_path)
    assert made(tmp_path) == made(tmp_path)


def test_no_byte_of_a_bundle_can_be_another(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    walk_to(store, "T-1", "new")
    walk_to(store, "T-2", "approved")
    data = made(tmp_path)
    for flipped in (*flips(data), *flips(made(tmp_path, "T-2"), step=17)):
        with pytest.raises(Unproven):
            trusting(flipped)
    for other in (data + b"\n", data[:-1], b"", b"PK", data[: len(data) // 2]):
        with pytest.raises(Unproven):
            bundle.check(other)


def trusting(data: bytes) -> None:
    """Check a bundle as somebody who knows the key."""
    if bundle.check(data).key != KEY.public:
        raise Unproven("another key")


def test_long_texts_go_with_it(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    walk = Walk(store)
    walk.create(request_text="x" * 40_000)
    walk.dispatch()
    walk.ack()
    long = "".join(diff_text(f"src/{number}.py") for number in range(1200))
    walk.result(diff_snapshot=snapshot(long))
    walk.verdict("reject", issues=tuple(issue(number, text="y" * 9000) for number in range(1, 12)))
    members = bundle.unpack(made(tmp_path))
    assert members["attempt-1.diff"] == long.encode()
    assert sum(name.startswith("blobs/") for name in members) >= 3
    shown = bundle.check(bundle.pack(members))
    assert shown.subject == hashlib.sha256(long.encode()).hexdigest()
    for name in [name for name in members if name.startswith("blobs/")]:
        with pytest.raises(Unproven):
            bundle.check(resealed({**members, name: members[name] + b" "}))
        with pytest.raises(Unproven):
            bundle.check(resealed({other: data for other, data in members.items() if other != name}))


def resealed(members: dict[str, bytes]) -> bytes:
    """What somebody with a key of his own could make of a bundle: everything signed anew, as well as it goes."""
    inner = {name: data for name, data in members.items() if name != bundle.ENVELOPE}
    head, _ = bundle.open_checkpoint(inner["checkpoint.txt"], [KEY.public])
    said = bundle.statement(inner, bundle.parse_known(inner["task.json"]), head)
    return bundle.pack({**inner, bundle.ENVELOPE: seal(bundle.PAYLOAD, said, KEY)})


def test_what_the_log_does_not_say_is_refused_even_when_it_is_signed(tmp_path: Path) -> None:
    a_history(tmp_path)
    members = bundle.unpack(made(tmp_path))
    lines = members["events.jsonl"].splitlines(keepends=True)
    paths = orjson.loads(members["proofs.json"])
    other = bundle.unpack(made(tmp_path, "T-0"))
    doctored: list[dict[str, bytes]] = [
        {"task.json": members["task.json"].replace(b'"alice"', b'"mallory"')},
        {"task.json": other["task.json"]},
        {"events.jsonl": b"".join(lines[:-1])},
        {"events.jsonl": b"".join(lines).replace(b'"actor":"alice"', b'"actor":"carol"')},
        {"events.jsonl": b"".join(reversed(lines))},
        {"events.jsonl": b"".join([*lines, lines[-1]])},
        {"events.jsonl": b"".join(lines)[:-1]},
        {"proofs.json": orjson.dumps({**paths, "size": 1})},
        {"proofs.json": orjson.dumps({**paths, "paths": {}})},
        {"proofs.json": b"[]"},
        {"attempt-2.diff": b"another diff"},
        {"attempt-3.diff": b"one more"},
        {"notes.txt": b"trust me"},
        {"key.pub": OTHER.public.text.encode()},
        {"key.pub": b"none"},
    ]
    for change in doctored:
        with pytest.raises(Unproven):
            bundle.check(resealed({**members, **change}))
    dropped = {name: data for name, data in paths["paths"].items() if name != str(orjson.loads(lines[3])["seq"])}
    with pytest.raises(Unproven):  # a line left out, with its proof
        bundle.check(
            resealed(
                {
                    **members,
                    "events.jsonl": b"".join(lines[:3] + lines[4:]),
                    "proofs.json": orjson.dumps({**paths, "paths": dropped}),
                }
            )
        )


def test_a_statement_that_says_something_else_is_refused(tmp_path: Path) -> None:
    a_history(tmp_path)
    members = bundle.unpack(made(tmp_path))
    said = bundle.unseal(members[bundle.ENVELOPE], bundle.PAYLOAD, KEY.public)
    for lie in (said.replace(b"alice", b"carol"), said.replace(b'"approved"', b'"rejected"'), b"{}"):
        with pytest.raises(Unproven, match="does not say"):
            bundle.check(bundle.pack({**members, bundle.ENVELOPE: seal(bundle.PAYLOAD, lie, KEY)}))
    with pytest.raises(Unproven):
        bundle.check(bundle.pack({**members, bundle.ENVELOPE: seal(bundle.PAYLOAD, said, OTHER)}))
    for name in members:
        with pytest.raises(Unproven):
            bundle.check(bundle.pack({other: data for other, data in members.items() if other != name}))


def test_a_bundle_of_before_a_rotation_still_holds(tmp_path: Path) -> None:
    a_history(tmp_path)
    old = made(tmp_path)
    Signer(tmp_path / "audit", [OTHER, KEY]).sign()
    new = made(tmp_path, key=OTHER)
    assert [bundle.check(data).key for data in (old, new)] == [KEY.public, OTHER.public]


def test_an_unknown_task_has_no_bundle(tmp_path: Path) -> None:
    a_history(tmp_path)
    with pytest.raises(bundle.NothingKnown, match="no task T-9"):
        made(tmp_path, "T-9")
    assert Checkpoints(tmp_path / "audit").sizes()


@pytest.mark.parametrize("name", ["approved.zip", "pending.zip"])
def test_bundles_that_were_made_before_hold(name: str) -> None:
    data = (Path(__file__).parent / "golden" / "bundles" / name).read_bytes()
    assert bundle.check(data).task.status == name.removesuffix(".zip")


def test_every_task_of_a_scene_in_which_everything_happens_has_a_bundle(tmp_path: Path) -> None:
    tasks = sorted(
        {event.subject for event in play(tmp_path) if event.subject is not None and event.type != "task_invalid"}
    )
    assert len(tasks) > 6
    for task_id in tasks:
        assert bundle.check(made(tmp_path, task_id)).task.task_id == task_id
