"""Proven deliveries whose effect could not be had: kept in a private folder, tried again, at last left to a person.

A delivery's file never changes; how often it was tried stands in a small file beside it, which may be lost. A delivery
goes out of the folder only when the log knows it: a crash in between costs one more look.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Final, Literal, Self

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from audit import files
from audit.event import Corrupt
from audit.files import Busy, FileLock, NotRegular, StorageFailed
from audit.reader import Rewound
from audit.stamp import rfc3339
from ssot.alarms import Reading
from ssot.counted import counted
from ssot.ingest.delivery import BadPayload, Delivered, Delivery, Sender
from ssot.ingest.parcel import Parcel
from ssot.store import Refused, Store
from ssot.strict_json import NotStrictJSON

FOLDER: Final = Path(".kircerta") / "inbox"
MAX_DELIVERIES: Final = 1000
MAX_BYTES: Final = 256 * 1024 * 1024
TRIES: Final = 10
"""So often a delivery is tried by itself, over some five hours; then it waits for a person."""
FIRST_PAUSE_S: Final = 2.0
LONGEST_PAUSE_S: Final = 3600.0
A_TURN: Final = 20
"""Deliveries in one turn: others want to write, too."""
_MAX_FILE_BYTES: Final = 130 * 1024 * 1024
"""The largest body that can be set, its quotes escaped."""
_A_LARGE_ONE: Final = 32 * 1024 * 1024
_WAY_OUT: Final = "mend what they wait for, then `kircerta webhook replay --all`"
_LOG: Final = logging.getLogger("kircerta.inbox")

State = Literal["waiting", "failed", "damaged"]
Came = Literal["delivered", "known", "waiting", "failed", "damaged"]


class InboxFull(Exception):
    """Nothing more is kept: the sender has to come again."""


class Damaged(Exception):
    """A kept file that cannot be read as one. It is left where it lies."""


class KeptDelivery(BaseModel):
    """The file of a kept delivery."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", hide_input_in_errors=True)

    version: Literal[1] = 1
    key: Annotated[str, Field(pattern=r"\A[0-9a-f]{32}\z")]
    sender: Sender
    delivery_id: str
    kind: str
    task_id: str | None
    received_at: str
    error: str
    headers: dict[str, str]
    body: str

    @classmethod
    def of(cls, parcel: Parcel, delivery: Delivery, error: BaseException, now: float) -> Self:
        return cls(
            key=delivery.key,
            sender=delivery.sender,
            delivery_id=delivery.event_id,
            kind=delivery.kind,
            task_id=delivery.task_id,
            received_at=rfc3339(now),
            error=_told(error),
            headers=dict(parcel.headers),
            body=parcel.body.decode(),
        )

    def opened(self) -> Delivery:
        """What the delivery asks for. Raises NotStrictJSON, BadPayload."""
        return Parcel(self.sender, self.body.encode(), self.headers).opened()[1]


@dataclass(frozen=True, slots=True)
class Tries:
    """How often a kept delivery was tried since it came, why the last time failed, and when it is due (Unix time)."""

    count: int = 0
    due: float = 0.0
    error: str = ""

    def after(self, error: str, now: float, *, for_good: bool) -> Tries:
        pause = min(FIRST_PAUSE_S * 4.0**self.count, LONGEST_PAUSE_S)
        return Tries(TRIES if for_good else self.count + 1, now + pause, error)


@dataclass(frozen=True, slots=True)
class Standing:
    """A kept delivery as people see it."""

    key: str
    state: State
    tries: Tries
    kept: KeptDelivery | None
    problem: str = ""

    @property
    def delivery_id(self) -> str:
        return self.kept.delivery_id if self.kept else self.key

    @property
    def why(self) -> str:
        """Why it is still there."""
        return self.problem or self.tries.error or (self.kept.error if self.kept else "")


@dataclass(frozen=True, slots=True)
class Tried:
    """What a try came to. `known`: the log had the delivery already; it came again meanwhile."""

    key: str
    came: Came
    delivery_id: str = ""
    delivered: Delivered | None = None
    error: str = ""


class Inbox:
    """The inbox of a workspace. Safe to use from any number of processes."""

    def __init__(self, home: Path) -> None:
        self.folder = home / FOLDER
        self._lock = FileLock(self.folder / ".lock")

    # ----------------------------------------------------------------------------------------- keeping

    def keep(self, parcel: Parcel, delivery: Delivery, error: BaseException) -> None:
        """Keep a delivery whose effect failed; durable when this returns. Raises InboxFull, StorageFailed."""
        path = self._path(delivery.key)
        if path.exists():
            return
        kept = KeptDelivery.of(parcel, delivery, error, time.time())
        data = orjson.dumps(kept.model_dump(), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._make_room_for(len(data))
        except OSError as failed:
            raise files.storage_error(failed, str(self.folder)) from None
        # Tried first when its sender has had time to come again.
        self._save_tries(delivery.key, Tries().after("", time.time(), for_good=False))
        files.keep_durably(self.folder, path.name, data, mode=0o600)

    def _make_room_for(self, size: int) -> None:
        sizes = [size for _, _, size in self._listed()]
        if len(sizes) >= MAX_DELIVERIES or sum(sizes) + size > MAX_BYTES:
            raise InboxFull(
                f"{counted(len(sizes), 'delivery waits', 'deliveries wait')} in {self.folder} ({sum(sizes):,} bytes), "
                f"no more are kept: {_WAY_OUT}"
            )

    # ----------------------------------------------------------------------------------------- looking

    def keys(self) -> list[str]:
        """What is kept, oldest first."""
        return [key for _, key, _ in sorted(self._listed())]

    def _listed(self) -> Iterator[tuple[int, str, int]]:
        """Age, key and size of every file."""
        with suppress(FileNotFoundError), os.scandir(self.folder) as listing:
            for one in listing:
                if one.name.endswith(".json") and not one.name.startswith("."):
                    with suppress(FileNotFoundError):
                        status = one.stat(follow_symlinks=False)
                        yield status.st_mtime_ns, one.name.removesuffix(".json"), status.st_size

    def due(self, now: float) -> list[str]:
        """What is to be tried at the Unix time `now`, oldest first."""
        return [key for key in self.keys() if (tries := self._tries(key)).count < TRIES and tries.due <= now]

    def has_due(self) -> bool:
        """Whether anything is to be tried now."""
        return bool(self.due(time.time()))

    def readings(self) -> list[Reading]:
        """What people should be alarmed of: that it is full, and what was given up."""
        listed = list(self._listed())
        size = sum(one for _, _, one in listed)
        failed = sum(self._tries(key).count >= TRIES for _, key, _ in listed)
        figures = {"kept": len(listed), "bytes": size, "failed": failed}
        kept = counted(len(listed), "delivery is kept", "deliveries are kept")
        full = f"{kept} ({size:,} bytes), hardly any more will be: {_WAY_OUT}"
        told = counted(failed, "kept delivery is not tried by itself", "kept deliveries are not tried by themselves")
        given_up = f"{told} any more: {_WAY_OUT}"
        is_full = len(listed) >= MAX_DELIVERIES or size > MAX_BYTES - _A_LARGE_ONE
        return [
            Reading("inbox_full", is_full, full, figures, calm_s=0.0),
            Reading("deliveries_failed", failed > 0, given_up, figures, calm_s=0.0),
        ]

    def standings(self) -> list[Standing]:
        """Everything that is kept, oldest first."""
        return [found for key in self.keys() if (found := self.standing(key)) is not None]

    def standing(self, key: str) -> Standing | None:
        """How a kept delivery stands; None when it is not kept (any more)."""
        tries = self._tries(key)
        try:
            kept = self._read(key)
        except FileNotFoundError:
            return None
        except Damaged as damaged:
            return Standing(key, "damaged", tries, None, str(damaged))
        return Standing(key, "failed" if tries.count >= TRIES else "waiting", tries, kept)

    def _read(self, key: str) -> KeptDelivery:
        path = self._path(key)
        try:
            kept = KeptDelivery.model_validate_json(files.read_regular(path, _MAX_FILE_BYTES)[0])
        except FileNotFoundError:
            raise
        except (OSError, NotRegular) as error:
            raise Damaged(f"{path} cannot be read: {error}") from None
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise Damaged(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
        if kept.key != key:
            raise Damaged(f"{path} is not the file of the delivery that it holds")
        return kept

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.json"

    def _tries(self, key: str) -> Tries:
        with suppress(OSError, ValueError, TypeError, KeyError):
            told = orjson.loads((self.folder / f"{key}.tries").read_bytes())
            return Tries(int(told["count"]), float(told["due"]), str(told["error"]))
        return Tries()

    def _save_tries(self, key: str, tries: Tries) -> None:
        with suppress(StorageFailed):  # then it is tried sooner, and once more
            files.replace_file(self.folder / f"{key}.tries", orjson.dumps(asdict(tries)), mode=0o600)

    def _remove(self, key: str) -> None:
        for path in (self._path(key), self.folder / f"{key}.tries"):
            with suppress(OSError):  # what stays is known the next time
                os.unlink(path)

    # ---------------------------------------------------------------------------------------- trying again

    def drain(self, store: Store, *, timeout_s: float | None = None, limit: int = A_TURN) -> list[Tried]:
        """Try what is due, each once; nothing where another process is at it. Raises nothing that a try raises."""
        due = self.due(time.time())[:limit]
        if not due:
            return []
        with self._alone() as alone:
            return self._try_all(store, due, timeout_s) if alone else []

    def replay(
        self,
        store: Store,
        keys: list[str],
        progress: Callable[[int, int], None] = lambda done, total: None,
        patience_s: float = files.LOCK_TIMEOUT_S,
    ) -> list[Tried]:
        """Try these now, also those that were given up. Raises Busy when another process does not leave the inbox."""
        found = []
        with self._lock.hold(patience_s):
            for number, key in enumerate(keys):
                found.append(self._try(store, key, None))
                progress(number + 1, len(keys))
        return found

    @contextmanager
    def _alone(self) -> Iterator[bool]:
        holding = self._lock.hold(0)
        try:
            holding.__enter__()
        except (Busy, StorageFailed):
            yield False
            return
        try:
            yield True
        finally:
            holding.__exit__(None, None, None)

    def _try_all(self, store: Store, keys: list[str], timeout_s: float | None) -> list[Tried]:
        found = []
        for key in keys:
            found.append(self._try(store, key, timeout_s))
            if found[-1].came == "waiting":  # the others would fail for the same reason: they keep their turn
                break
        return found

    def _try(self, store: Store, key: str, timeout_s: float | None) -> Tried:
        try:
            kept = self._read(key)
        except FileNotFoundError:
            return Tried(key, "known")
        except Damaged as damaged:
            self._save_tries(key, self._tries(key).after(str(damaged), time.time(), for_good=True))
            return Tried(key, "damaged", error=str(damaged))
        try:
            delivered = self._deliver(store, kept, timeout_s)
        except (Refused, BadPayload, NotStrictJSON) as error:  # no repetition makes it better
            return self._failed(kept, error, for_good=True)
        except (Busy, StorageFailed, Corrupt, Rewound) as error:
            return self._failed(kept, error, for_good=False)
        except Exception as error:  # one delivery must not stop the others
            _LOG.error("the %s delivery %s: %r", kept.sender, kept.delivery_id, error, exc_info=error)
            return self._failed(kept, error, for_good=False)
        # A crash before this line: the next look finds the delivery in the log, and only removes the file.
        self._remove(key)
        return Tried(key, "delivered" if delivered else "known", kept.delivery_id, delivered)

    def _deliver(self, store: Store, kept: KeptDelivery, timeout_s: float | None) -> Delivered | None:
        """None when its sender came again meanwhile and was taken: that is no second delivery."""
        delivery = kept.opened()
        if delivery.key != kept.key:
            raise BadPayload("the body is that of another delivery")
        store.refresh()
        if bytes.fromhex(delivery.key) in store.view.deliveries:
            return None
        return store.deliver(delivery, timeout_s)

    def _failed(self, kept: KeptDelivery, error: Exception, *, for_good: bool) -> Tried:
        now = self._tries(kept.key).after(_told(error), time.time(), for_good=for_good)
        self._save_tries(kept.key, now)
        came: Came = "waiting" if now.count < TRIES else "failed"
        return Tried(kept.key, came, kept.delivery_id, error=now.error)


def _told(error: BaseException) -> str:
    """An error in a line, for people."""
    said = str(error) if isinstance(error, Refused | StorageFailed | Busy | Corrupt | BadPayload) else repr(error)
    return " ".join(said.encode("utf-8", "replace").decode().split())[:500]
