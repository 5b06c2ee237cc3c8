"""One task's evidence in one archive: made from the log, and checked with nothing else at hand.

The archive is a zip without compression, written in one way only: the same log and key give the same bytes, and a byte
that is another is noticed wherever it stands. What it holds (`FILES`) is named, with its digest, in an in-toto
Statement v1, which is signed in a DSSE envelope; its subject is the diff.
"""

from __future__ import annotations

import hashlib
import struct
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import orjson
from pydantic import BaseModel

from audit.event import KINDS, Corrupt, Event, decode
from audit.head import Head, open_checkpoint
from audit.keys import BadKey, PublicKey, SigningKey
from audit.merkle import Tree, includes, leaf_hash
from audit.note import Unproven, seal, unseal
from audit.proof import path_of, read_tree
from audit.signer import Signed
from ssot import rules
from ssot.blobs import Blobs
from ssot.decided import check_decided
from ssot.task import Attempt, Invalid, Task, document_bytes, parse_known, plain, review_digest
from ssot.texts import KEPT_WHOLE

STATEMENT: Final = "https://in-toto.io/Statement/v1"
PREDICATE: Final = "urn:kircerta:attestation:task:v1"
PAYLOAD: Final = "application/vnd.in-toto+json"
FILES: Final = ("checkpoint.txt", "events.jsonl", "key.pub", "proofs.json", "task.json")
"""Always there; besides them the diff, and the long texts under ``blobs/``."""
ENVELOPE: Final = "attestation.json"
MOST_BYTES: Final = 512 * 1024 * 1024
_FIRST_DAY: Final = (1980, 1, 1, 0, 0, 0)

Members = Mapping[str, bytes]


class NothingKnown(Exception):
    """The log knows no such task."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a bundle shows, once it holds: the task as the log had it, and under whose key."""

    task: Task
    head: Head
    key: PublicKey
    events: tuple[Event, ...]
    subject: str
    """The digest (hex) of the attempt's diff; of the task document where there is none."""


# ------------------------------------------------------------------------------------------------------ making


def make(
    home: Path,
    task_id: str,
    signed: Signed,
    key: SigningKey,
    progress: Callable[[int], None] = lambda count: None,
) -> bytes:
    """The bundle of a task as it stood when the log's head was signed. Raises NothingKnown, Unproven, Corrupt."""
    own: list[Event] = []

    def take(event: Event) -> None:
        if event.subject == task_id:
            own.append(event)

    tree = read_tree(home / "audit", signed.head.size, progress, take)
    if tree.root() != signed.head.root:
        raise Unproven("the log was rewritten while it was read")
    blobs = Blobs(home / "ssot" / "blobs")
    task = _replayed(own, blobs.text)
    if task is None:
        raise NothingKnown(f"the log knows no task {task_id:.200}")
    document = document_bytes(task)
    members = {
        "checkpoint.txt": signed.note,
        "events.jsonl": b"".join(event.line + b"\n" for event in own),
        "key.pub": key.public.text.encode() + b"\n",
        "proofs.json": _proofs(tree, own),
        "task.json": document,
        **{f"blobs/{name.removeprefix('sha256:')}": _loaded(blobs, name) for name in _texts_of(document, own)},
    }
    members |= _diff_of(task, members)
    return pack({**members, ENVELOPE: seal(PAYLOAD, statement(members, task, signed.head), key)})


def _loaded(blobs: Blobs, name: str) -> bytes:
    data = blobs.load(name)
    if data is None:
        raise Corrupt(f"the text {name} is missing in ssot/blobs")
    return data


def _proofs(tree: Tree, events: Sequence[Event]) -> bytes:
    paths = {str(event.seq): [step.hex() for step in tree.inclusion(event.seq - 1)] for event in events}
    return orjson.dumps({"size": tree.size, "paths": paths}) + b"\n"


def _replayed(events: Iterable[Event], text: Callable[[str], str]) -> Task | None:
    """The task that its events make, each compared with the digest of the document that it names."""
    task: Task | None = None
    for event in events:
        if not ((kind := KINDS.get(event.type)) and kind.changes_task):
            continue
        blob, data = event.data.get("blob"), event.data
        if "in_blob" in data and isinstance(blob, str):
            data = {**data, **orjson.loads(text(blob))}
        before, task = task, rules.evolve(task, event, data)
        check_decided(event, before, task)
        if "sha256:" + _sha256(document_bytes(task)) != event.data.get("document_sha256"):
            raise Corrupt(f"seq {event.seq} ({event.type}) does not lead to the document it names")
    return task


def _texts_of(document: bytes, events: Iterable[Event]) -> list[str]:
    """The names of all long texts that the document or one of the events leaves out."""
    found = set(_named(orjson.loads(document)))
    for event in events:
        found |= set(_named(event.data))
    return sorted(found)


def _named(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for item in value:
            yield from _named(item)
    elif isinstance(value, dict):
        for name, item in value.items():
            if name == "blob" and isinstance(item, str):
                yield item
            elif name not in KEPT_WHOLE:
                yield from _named(item)


def _diff_of(task: Task, members: Members) -> dict[str, bytes]:
    """The current attempt's diff as a file of its own, for `git apply` and for whoever looks."""
    attempt = task.current
    snapshot = attempt.result.diff_snapshot if attempt is not None and attempt.result is not None else None
    if attempt is None or snapshot is None:
        return {}
    whole = snapshot.text.encode() if snapshot.text is not None else _member_of(members, str(snapshot.blob))
    return {f"attempt-{attempt.attempt}.diff": whole}


def _member_of(members: Members, name: str) -> bytes:
    try:
        return members[f"blobs/{name.removeprefix('sha256:')}"]
    except KeyError:
        raise Unproven(f"the text {name} is missing") from None


# --------------------------------------------------------------------------------------------------- statement


def statement(members: Members, task: Task, head: Head) -> bytes:
    """The in-toto Statement about a task: a pure function of what the bundle holds."""
    diff = next((name for name in sorted(members) if name.endswith(".diff")), "task.json")
    body = {
        "_type": STATEMENT,
        "subject": [{"name": diff, "digest": {"sha256": _sha256(members[diff])}}],
        "predicateType": PREDICATE,
        "predicate": {
            "task_id": task.task_id,
            "title": task.title,
            "status": task.status,
            "revision": task.revision,
            "seq": task.seq,
            "review_digest": review_digest(task),
            **_told(task.current),
            "log": {"origin": head.origin, "size": head.size, "root": head.root.hex()},
            "files": {name: _sha256(data) for name, data in sorted(members.items())},
        },
    }
    return orjson.dumps(body)


def _told(attempt: Attempt | None) -> dict[str, Any]:
    """Who did what in an attempt, in a few words each."""
    if attempt is None:
        return {"attempt": None}
    result, verdict = attempt.result, attempt.verdict
    return {
        "attempt": attempt.attempt,
        "dispatch": _picked(attempt.dispatch, "dispatch_id", "at", "by", "executor", "reviewer", "policy"),
        "ack": _picked(attempt.ack, "at", "by"),
        "result": _picked(result, "at", "by", "outcome", operations=len(result.work_log) if result else 0),
        "verdict": _picked(verdict, "at", "by", "decision", issues=len(verdict.issues) if verdict else 0),
        "approvals": [_picked(one, "at", "by", "review_digest") for one in attempt.approvals],
        "decision": _picked(attempt.decision, "at", "by", "decision", "review_digest"),
        "ended": _picked(attempt.ended, "at", "reason"),
    }


def _picked(part: BaseModel | None, *names: str, **more: int) -> dict[str, Any] | None:
    if part is None:
        return None
    values = plain(part)
    return {**{name: values[name] for name in names if name in values}, **more}


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# ---------------------------------------------------------------------------------------------------- checking


def check(data: bytes) -> Evidence:
    """What a bundle shows, under the key that it brings: whether that is to be trusted is the caller's to say.

    Raises Unproven with what does not hold; nothing of a bundle is to be believed then.
    """
    members = unpack(data)
    try:
        return _checked(members)
    except (KeyError, TypeError, ValueError, AttributeError, BadKey, Corrupt, Invalid, RecursionError) as error:
        raise Unproven(f"the bundle contradicts itself ({error!r:.300})") from None


def _checked(members: dict[str, bytes]) -> Evidence:
    envelope = members.pop(ENVELOPE, b"")
    missing = [name for name in FILES if name not in members]
    if missing:
        raise Unproven(f"this is no bundle of evidence: {missing[0]} is missing")
    key = PublicKey.of(members["key.pub"].decode())
    payload = unseal(envelope, PAYLOAD, key)
    head, _ = open_checkpoint(members["checkpoint.txt"], [key])
    events = _checked_events(members, head)
    task = _checked_task(members, events)
    if payload != statement(members, task, head):
        raise Unproven("the statement that was signed does not say what the bundle holds")
    subject = orjson.loads(payload)["subject"][0]["digest"]["sha256"]
    return Evidence(task, head, key, tuple(events), subject)


def _checked_events(members: Members, head: Head) -> list[Event]:
    """The log's lines of the task, each with its proof that it stands in the log at its place."""
    proofs = orjson.loads(members["proofs.json"])
    lines = members["events.jsonl"].split(b"\n")
    if proofs["size"] != head.size or lines.pop() != b"":
        raise Unproven("the proofs are not for the checkpoint's size")
    events = [decode(line) for line in lines]
    seqs = [event.seq for event in events]
    if sorted(set(seqs)) != seqs or {str(seq) for seq in seqs} != set(proofs["paths"]):
        raise Unproven("the lines are not in the log's order, or not those that are proven")
    for event in events:
        path = path_of(proofs["paths"][str(event.seq)])
        if not includes(leaf_hash(event.line), event.seq - 1, head.size, path, head.root):
            raise Unproven(f"the line of seq {event.seq} is not in the log whose head was signed")
    return events


def _checked_task(members: Members, events: Sequence[Event]) -> Task:
    """The task that the lines lead to; nothing between them was left out, since each names the document it made."""
    task = parse_known(members["task.json"])
    for name, data in members.items():
        if name.startswith("blobs/") and _sha256(data) != name.removeprefix("blobs/"):
            raise Unproven(f"{name} does not fit its name")
    made = _replayed(events, lambda name: _member_of(members, name).decode())
    if made is None or document_bytes(made) != members["task.json"]:
        raise Unproven("the log's lines do not lead to the task document")
    if any(event.subject != task.task_id for event in events):
        raise Unproven("there are lines of another task")
    texts = {f"blobs/{name.removeprefix('sha256:')}" for name in _texts_of(members["task.json"], events)}
    diff = _diff_of(task, members)
    if set(members) != {*FILES, *texts, *diff} or any(members[name] != data for name, data in diff.items()):
        raise Unproven("the bundle holds other files than the task has")
    snapshot = task.current.result.diff_snapshot if task.current and task.current.result else None
    if snapshot is not None and [_sha256(data) for data in diff.values()] != [snapshot.sha256]:
        raise Unproven("the diff does not fit its digest")
    return task


# ----------------------------------------------------------------------------------------------------- archive


def pack(members: Members) -> bytes:
    """The archive of some files: in order of their names, without compression, dates or owners."""
    out = BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, data in sorted(members.items()):
            entry = zipfile.ZipInfo(name, _FIRST_DAY)
            entry.create_system, entry.external_attr = 3, 0o644 << 16
            archive.writestr(entry, data)
    return out.getvalue()


def unpack(data: bytes) -> dict[str, bytes]:
    """The files of an archive that `pack` wrote. Raises Unproven for any other."""
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            entries = archive.infolist()
            plain_ones = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
            if not plain_ones or sum(entry.file_size for entry in entries) > len(data):
                raise Unproven("the archive is not written as kircerta writes one")
            members = {entry.filename: archive.read(entry) for entry in entries}
        same = pack(members) == data
    except (
        zipfile.BadZipFile,
        NotImplementedError,
        RuntimeError,
        ValueError,
        EOFError,
        OSError,
        struct.error,
    ) as error:
        raise Unproven(f"this is no archive of kircerta's ({type(error).__name__})") from None
    if not same:
        raise Unproven("the archive is not written as kircerta writes one")
    return members
