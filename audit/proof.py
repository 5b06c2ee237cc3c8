"""Proofs that stand alone: that one line is in the log, or that one head continues another. Made here, checked here.

A proof is JSON of one line; whoever has the public key (or trusts its fingerprint) needs nothing else to check it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from audit.event import Corrupt, Event, decode
from audit.head import Head, open_checkpoint
from audit.keys import BadKey, PublicKey
from audit.merkle import Tree, continues, includes, leaf_hash
from audit.note import Unproven
from audit.reader import LogReader

FORMAT: Final = "kircerta-proof/1"
_BATCH: Final = 4096


@dataclass(frozen=True, slots=True)
class Proven:
    """What a proof shows: the event that is in the log, or the head that a later one continues."""

    head: Head
    signers: list[PublicKey]
    event: Event | None = None
    earlier: Head | None = None


def read_tree(
    folder: Path,
    size: int,
    progress: Callable[[int], None] = lambda count: None,
    take: Callable[[Event], None] = lambda event: None,
) -> Tree:
    """The tree over the first `size` lines of a log; `take` is handed each event on the way."""
    reader, tree = LogReader(folder), Tree()
    try:
        while tree.size < size and (batch := reader.read(min(_BATCH, size - tree.size))):
            for event in batch:
                tree.append(leaf_hash(event.line))
                take(event)
            progress(tree.size)
    finally:
        reader.close()
    if tree.size < size:
        raise Corrupt(f"the log has {tree.size} lines, and its head was signed at {size}")
    return tree


def prove_event(
    folder: Path, seq: int, note: bytes, keys: Sequence[PublicKey], progress: Callable[[int], None] = lambda count: None
) -> bytes:
    """The proof that the line with this seq is in the log whose checkpoint this is. Raises Unproven, Corrupt."""
    head, signers = open_checkpoint(note, keys)
    if not 1 <= seq <= head.size:
        raise Unproven(f"seq {seq} is not among the {head.size} lines of the checkpoint")
    wanted: list[Event] = []
    tree = read_tree(folder, head.size, progress, lambda event: wanted.append(event) if event.seq == seq else None)
    _check_root(tree, head)
    body = {
        "format": FORMAT,
        "kind": "inclusion",
        "seq": seq,
        "line": wanted[0].line.decode(),
        "path": [step.hex() for step in tree.inclusion(seq - 1)],
        **_signed(note, signers),
    }
    return orjson.dumps(body) + b"\n"


def prove_continuation(
    folder: Path,
    earlier: bytes,
    note: bytes,
    keys: Sequence[PublicKey],
    progress: Callable[[int], None] = lambda count: None,
) -> bytes:
    """The proof that the log of a checkpoint continues the log of an earlier one. Raises Unproven, Corrupt."""
    (old, old_signers), (head, signers) = open_checkpoint(earlier, keys), open_checkpoint(note, keys)
    if old.origin != head.origin or old.size > head.size:
        raise Unproven(f"{head.origin} at {head.size} does not continue {old.origin} at {old.size}")
    tree = read_tree(folder, head.size, progress)
    _check_root(tree, old)
    _check_root(tree, head)
    signers = signers + [key for key in old_signers if key not in signers]
    body = {
        "format": FORMAT,
        "kind": "consistency",
        "earlier": earlier.decode(),
        "path": [step.hex() for step in tree.consistency(old.size)],
        **_signed(note, signers),
    }
    return orjson.dumps(body) + b"\n"


def _signed(note: bytes, signers: Sequence[PublicKey]) -> dict[str, Any]:
    return {"checkpoint": note.decode(), "keys": [key.text for key in signers]}


def _check_root(tree: Tree, head: Head) -> None:
    if tree.root(head.size) != head.root:
        raise Unproven(f"the log was rewritten: its first {head.size} lines are not those of the checkpoint")


def check(proof: bytes) -> Proven:
    """What a proof shows, under the keys that it names: whether they are to be trusted is the caller's to say.

    Raises Unproven.
    """
    body = _parsed(proof)
    try:
        keys = [PublicKey.of(text) for text in body["keys"]]
        head, signers = open_checkpoint(body["checkpoint"].encode(), keys)
        path = path_of(body["path"])
        if body["kind"] == "inclusion":
            proven = Proven(head, signers, event=_included(body, head, path))
        elif body["kind"] == "consistency":
            earlier, before = open_checkpoint(body["earlier"].encode(), keys)
            signers = signers + [key for key in before if key not in signers]
            proven = Proven(head, signers, earlier=_continued(earlier, head, path))
        else:
            raise Unproven(f"nothing is known of proofs of {body['kind']!r:.40}")
    except (KeyError, TypeError, ValueError, AttributeError, BadKey, Corrupt) as error:
        raise Unproven(f"this is no proof ({error!r:.200})") from None
    if len(signers) != len(keys):
        raise Unproven("the proof names a key that did not sign it")
    return proven


def path_of(steps: list[str]) -> list[bytes]:
    """The hashes of a path written as hex. Raises ValueError for any other way to write them."""
    path = [bytes.fromhex(step) for step in steps]
    if [step.hex() for step in path] != steps:
        raise ValueError("a path is lower-case hex")
    return path


def _parsed(proof: bytes) -> dict[str, Any]:
    """The proof's object; only the one way to write it counts, so that no byte can be another."""
    try:
        body: Any = orjson.loads(proof)
    except orjson.JSONDecodeError:
        body = None
    if not isinstance(body, dict) or body.get("format") != FORMAT or orjson.dumps(body) + b"\n" != proof:
        raise Unproven(f"this is no proof of the form {FORMAT}")
    return body


def _included(body: dict[str, Any], head: Head, path: list[bytes]) -> Event:
    line = body["line"].encode()
    event = decode(line)
    if body["seq"] != event.seq or not includes(leaf_hash(line), event.seq - 1, head.size, path, head.root):
        raise Unproven(f"the proof does not lead from its line to the root at {head.size}")
    return event


def _continued(earlier: Head, head: Head, path: list[bytes]) -> Head:
    same = earlier.origin == head.origin
    if not same or not continues(earlier.size, earlier.root, head.size, head.root, path):
        raise Unproven(f"the head at {head.size} does not continue the one at {earlier.size}")
    return earlier
