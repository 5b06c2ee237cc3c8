"""Replays the whole log from nothing and compares the task files with it. Reads only: no lock, nothing written."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson

from audit import files
from audit.event import KINDS, Corrupt, Event
from audit.files import NotRegular
from audit.reader import LogReader, Rewound
from ssot import rules
from ssot.blobs import Blobs
from ssot.decided import check_decided
from ssot.task import Task, document_bytes, document_digest, parse_known
from ssot.texts import KEPT_WHOLE

_BATCH: Final = 4096
KEPT_MODELS: Final = 20_000
"""How many tasks are kept as models; of the others the bytes are kept, a quarter of that."""
_LOOKS: Final = 10
_BLOB: Final = b'"blob": "sha256:'
_PAUSE_S: Final = 0.02
"""A file that differs is looked at again, behind the log's end: who writes just now shows it a moment later."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a replay found. Every list holds task ids, but `held` and `extra`, which hold names of files.

    `textless` are the tasks with a long text that is missing in ``ssot/blobs`` or no longer fits its name.
    """

    tasks: int
    events: int
    differing: list[str]
    held: list[str]
    missing: list[str]
    extra: list[str]
    problem: str | None = None
    textless: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether the log gives the task files, byte for byte (held ones apart)."""
        return self.problem is None and not (self.differing or self.missing or self.extra or self.textless)


def check(home: Path, progress: Callable[[int], None] = lambda events: None, *, models: int = KEPT_MODELS) -> Replayed:
    """Replay the log of a workspace and compare every task file, byte for byte.

    Each event's `document_sha256` is checked on the way; `problem` says where the log does not lead to it. Others may
    write meanwhile: a file that differs is compared again with the log as it stands then.
    """
    replay = _Replay(home, progress, models)
    try:
        replay.follow()
        return replay.compare()
    except (Corrupt, Rewound) as error:
        return Replayed(len(replay.digests), replay.events, [], [], [], [], str(error))
    finally:
        replay.close()


class _Replay:
    """All tasks as the log gives them, and the digest of each document."""

    def __init__(self, home: Path, progress: Callable[[int], None], most_models: int) -> None:
        self.most_models = most_models
        self.tasks_folder = home / "ssot" / "tasks"
        self.blobs = Blobs(home / "ssot" / "blobs")
        self.progress = progress
        self.reader = LogReader(home / "audit")
        self.models: OrderedDict[str, Task] = OrderedDict()
        self.documents: dict[str, bytes] = {}
        self.digests: dict[str, str] = {}
        self.held: dict[str, str] = {}
        self.texts: dict[str, frozenset[str]] = {}
        self.events = 0

    def close(self) -> None:
        self.reader.close()

    # ------------------------------------------------------------------------------------------- the log

    def follow(self) -> None:
        """Take in the log to its end."""
        while batch := self.reader.read(_BATCH):
            for event in batch:
                self.take_in(event)
            self.events += len(batch)
            self.progress(self.events)

    def take_in(self, event: Event) -> None:
        kind = KINDS.get(event.type)
        if kind is not None and kind.changes_task:
            self.evolve(event)
        elif kind is None and "document_sha256" in event.data:
            raise Corrupt(f"seq {event.seq} is a {event.type}, which a newer kircerta wrote: update this one")
        elif event.type == "task_invalid":
            self.held[str(event.data.get("file"))] = str(event.data.get("file_sha256"))

    def evolve(self, event: Event) -> None:
        task_id = event.subject or ""
        try:
            before = self.task(task_id)
            task = rules.evolve(before, event, self.facts(event))
            document = document_bytes(task)
            digest, expected = document_digest(document), event.data["document_sha256"]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Corrupt(f"seq {event.seq} ({event.type} of {task_id}) makes no sense: {error!r:.300}") from None
        if digest != expected:
            raise Corrupt(f"seq {event.seq} ({event.type} of {task_id}) does not lead to the document it names")
        check_decided(event, before, task)
        self.digests[task_id] = digest
        self.models[task_id] = task
        self.texts.pop(task_id, None)
        if _BLOB in document:
            self.texts[task_id] = frozenset(_texts_in(orjson.loads(document)))
        if len(self.models) > self.most_models:
            oldest, model = self.models.popitem(last=False)
            self.documents[oldest] = document_bytes(model)

    def task(self, task_id: str) -> Task | None:
        """The task as it stands so far; taken out, its next version is put in."""
        document = self.documents.pop(task_id, None)
        return parse_known(document) if document is not None else self.models.pop(task_id, None)

    def facts(self, event: Event) -> dict[str, Any]:
        blob = event.data.get("blob")
        if "in_blob" not in event.data or not isinstance(blob, str):
            return event.data
        return {**event.data, **orjson.loads(self.blobs.text(blob))}

    # ----------------------------------------------------------------------------------------- the files

    def compare(self) -> Replayed:
        """Compare all files; those that differ once more, behind whatever came meanwhile."""
        unlike = {name: verdict for name in self.names() if (verdict := self.judge(name)) is not None}
        for _ in range(_LOOKS):
            if all(verdict == "held" for verdict in unlike.values()):
                break
            time.sleep(_PAUSE_S)
            self.follow()
            unlike = {name: verdict for name in unlike if (verdict := self.judge(name)) is not None}

        def those(which: str) -> list[str]:
            return [name for name, verdict in unlike.items() if verdict == which]

        return Replayed(
            tasks=len(self.digests),
            events=self.events,
            differing=[name.removesuffix(".json") for name in those("differing")],
            held=those("held"),
            missing=[name.removesuffix(".json") for name in those("missing")],
            extra=those("extra"),
            textless=[task_id for task_id, names in sorted(self.texts.items()) if not all(map(self.is_kept, names))],
        )

    def is_kept(self, text: str) -> bool:
        """Whether a long text is there, with the bytes that its name says."""
        try:
            return self.blobs.load(text) is not None
        except (Corrupt, OSError):
            return False

    def names(self) -> list[str]:
        """The files that are there, and those that should be."""
        try:
            there = {path.name for path in self.tasks_folder.iterdir()}
        except FileNotFoundError:
            there = set()
        files_here = {name for name in there if name.endswith(".json") and not name.startswith(".")}
        return sorted(files_here | {f"{task_id}.json" for task_id in self.digests})

    def judge(self, name: str) -> str | None:
        """None where a file is what the log says; else what it is."""
        expected = self.digests.get(name.removesuffix(".json"))
        try:
            digest = document_digest(files.read_regular(self.tasks_folder / name)[0])
        except FileNotFoundError:
            return "missing" if expected is not None else None
        except (OSError, NotRegular):
            digest = document_digest(b"")  # what a held file that cannot be read is logged with
        if digest == expected:
            return None
        if self.held.get(name.encode(errors="replace").decode()[:300]) == digest:
            return "held"
        return "differing" if expected is not None else "extra"


def _texts_in(value: Any) -> Iterator[str]:
    """The names of the long texts of a document; what people keep in free fields is none of ours."""
    if isinstance(value, list):
        for item in value:
            yield from _texts_in(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if key == "blob" and isinstance(item, str):
                yield item
            elif key not in KEPT_WHOLE:
                yield from _texts_in(item)
