"""Signs the log's head: no head is ever signed that does not continue every head that was signed before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from audit import files
from audit.elsewhere import CannotCopy, Elsewhere
from audit.event import Corrupt
from audit.files import FileLock, NotRegular
from audit.head import Checkpoints, Head, HeadCheck, open_checkpoint, origin_of
from audit.keys import PublicKey, Ring, SigningKey
from audit.merkle import Frontier
from audit.note import sign_note
from audit.reader import LogReader, Rewound, event_at, last_event

_NEAR_END: Final = 4096
_LOCK_S: Final = 30.0


class Rewritten(Corrupt):
    """The log is not the one whose head was signed. Nothing further is signed; a person has to look."""


class NothingToSign(Exception):
    """The log is empty."""


@dataclass(frozen=True, slots=True)
class Signed:
    """A signed head; `is_new` says whether it had to be signed, `copied` where else it is kept now."""

    head: Head
    note: bytes
    is_new: bool
    copied: str | None = None
    not_copied: str | None = None


class Signer:
    """Signs the head of one log. Any number of processes may: they take turns.

    Args:
        folder: the workspace's ``audit`` folder.
        keys: who signs: the workspace's key; two while one follows the other.
        elsewhere: where each checkpoint is kept besides.
    """

    def __init__(self, folder: Path, keys: Sequence[SigningKey], elsewhere: Elsewhere | None = None) -> None:
        self.folder = folder
        self.checkpoints = Checkpoints(folder)
        self.ring = Ring(folder)
        self._keys = keys
        self._elsewhere = elsewhere

    def sign(self, progress: Callable[[int], None] = lambda count: None) -> Signed:
        """Sign the head as it stands, unless that was done.

        Raises Rewritten, NothingToSign, Unproven (what is kept was not signed by a key of ours), Busy, StorageFailed.
        """
        if last_event(self.folder) is None:
            if self.checkpoints.sizes():
                raise Rewritten("the log is empty, and its head was signed before")
            raise NothingToSign("the log is empty: there is no head to sign")
        self._make_folder()
        with FileLock(self.checkpoints.folder / ".lock").hold(_LOCK_S):
            return self._sign(progress)

    def _make_folder(self) -> None:
        try:
            self.checkpoints.folder.mkdir(exist_ok=True)
        except OSError as error:
            raise files.storage_error(error, str(self.checkpoints.folder)) from None

    def _sign(self, progress: Callable[[int], None]) -> Signed:
        # A crash between any two of these steps leaves less than there could be, and never a contradiction: a key
        # that signed nothing, a checkpoint without its edge (which is found again), a copy that lags behind.
        for key in self._keys:
            self.ring.keep(key.public)
        before, there = self._known_heads()
        edge = self._grown(before, there, progress)
        origin = before[0].origin if before else self._origin()
        if there is not None and there.origin != origin:
            raise Rewritten(f"the checkpoint kept elsewhere is of {there.origin}, and this log is {origin}")
        head = Head(origin, edge.frontier.size, edge.frontier.root)
        signers = {key.public for key in self._keys}
        if before and before[0] == head and signers <= set(before[1]):
            return self._copied(Signed(head, self.checkpoints.load(head.size), is_new=False))
        note = sign_note(head.text, origin, self._keys)
        self.checkpoints.keep(head, note)
        edge.save(self.checkpoints.folder)
        return self._copied(Signed(head, note, is_new=True))

    def _known_heads(self) -> tuple[tuple[Head, list[PublicKey]] | None, Head | None]:
        """The newest checkpoint that is kept here, and the one that is kept elsewhere."""
        ring, here, there = self.ring.all(), self.checkpoints.latest(), None
        before = open_checkpoint(here, ring) if here is not None else None
        if self._elsewhere is not None and (note := self._elsewhere.latest()) is not None and note != here:
            there = open_checkpoint(note, ring)[0]
        return before, there

    def _origin(self) -> str:
        first = event_at(self.folder, 1)
        if first is None:
            raise Corrupt("the log does not begin with seq 1")
        return origin_of(first.line)

    def _grown(
        self, before: tuple[Head, list[PublicKey]] | None, there: Head | None, progress: Callable[[int], None]
    ) -> _Edge:
        """The tree over the whole log, from where it was left; every head known so far has to lie on the way."""
        heads = [head for head in (before[0] if before else None, there) if head is not None]
        edge = _Edge.load(self.checkpoints.folder)
        if before is None or edge is None or not edge.fits(before[0]) or any(h.size < before[0].size for h in heads):
            edge = _Edge()
        walk = _Walk(self.folder, edge, HeadCheck([(f"{head.size}", head) for head in heads]))
        try:
            return walk.to_the_end(progress)
        finally:
            walk.close()

    def _copied(self, signed: Signed) -> Signed:
        if self._elsewhere is None:
            return signed
        try:
            where = self._elsewhere.keep(signed.head, signed.note)
            return Signed(signed.head, signed.note, signed.is_new, copied=where)
        except (OSError, files.StorageFailed, CannotCopy) as error:
            return Signed(signed.head, signed.note, signed.is_new, not_copied=str(error))


@dataclass(frozen=True, slots=True)
class _Edge:
    """The tree's edge at the newest checkpoint, and the digest of the line there: a private cache."""

    frontier: Frontier = Frontier()
    digest: str = ""

    def fits(self, head: Head) -> bool:
        return self.frontier.size == head.size and self.frontier.root == head.root

    @classmethod
    def load(cls, folder: Path) -> _Edge | None:
        with suppress(OSError, NotRegular, ValueError, KeyError, TypeError):
            body: Any = orjson.loads(files.read_regular(folder / ".edge.json")[0])
            hashes = tuple(bytes.fromhex(one) for one in body["hashes"])
            return cls(Frontier(body["size"], hashes), str(body["digest"]))
        return None

    def save(self, folder: Path) -> None:
        body = {
            "size": self.frontier.size,
            "hashes": [one.hex() for one in self.frontier.hashes],
            "digest": self.digest,
        }
        with suppress(files.StorageFailed):  # without it the next one reads the whole log
            files.replace_file(folder / ".edge.json", orjson.dumps(body))


class _Walk:
    """Reads a log from an edge to its end."""

    def __init__(self, folder: Path, edge: _Edge, check: HeadCheck) -> None:
        self._folder = folder
        self._check = check
        self._check.begin(edge.frontier)
        size = edge.frontier.size
        try:
            self._reader = LogReader.after(folder, size)
        except Rewound:
            raise Rewritten(f"the log was cut: seq {size} is gone, and its head was signed there") from None
        if size and self._reader.place.digest != edge.digest:
            self._reader.close()
            raise Rewritten(f"the log was rewritten: seq {size} is another line than the one whose head was signed")

    def close(self) -> None:
        self._reader.close()

    def to_the_end(self, progress: Callable[[int], None]) -> _Edge:
        """The edge at the log's end. The last stretch is read while nobody writes, and made durable.

        A batch that does not fit on the disk is taken back, and a line that was not synced may vanish: a head over
        such lines would accuse the log for ever.
        """
        end = last_event(self._folder)
        while end is not None and self._reader.place.seq < end.seq - _NEAR_END and self._take(2048):
            progress(self._reader.place.seq)
        with FileLock(self._folder / ".lock").hold(_LOCK_S):
            while self._take(2048):
                pass
            self._reader.sync()
        self._check.end()
        if self._check.problems:
            raise Rewritten(self._check.problems[0])
        return _Edge(self._check.frontier, self._reader.place.digest)

    def _take(self, limit: int) -> bool:
        try:
            batch = self._reader.read(limit)
        except Rewound as error:
            raise Rewritten(str(error)) from None
        for event in batch:
            self._check.look(event.line)
        return bool(batch)
