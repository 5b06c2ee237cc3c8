"""The workspace that a command works on: its settings, its store, who acts, and whether `kircerta up` runs for it."""

from __future__ import annotations

import getpass
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cli.failures import WrongUse
from cli.screen import note, progress

if TYPE_CHECKING:
    from ssot.settings import Settings
    from ssot.store import Store

SOURCE: Final = "kircerta/cli"
MAX_TORN_BYTES: Final = 1 << 20
"""More than a crash leaves behind the last line, and than a line has."""


@dataclass(frozen=True, slots=True)
class Running:
    """The `kircerta up` that runs for a workspace: its process, and where it serves."""

    pid: int
    api_url: str
    prefect_api_url: str

    def save(self, home: Path) -> None:
        import orjson

        from audit.files import replace_file

        replace_file(address_file(home), orjson.dumps(asdict(self)))


def address_file(home: Path) -> Path:
    return home / ".kircerta" / "up.json"


def lock_file(home: Path) -> Path:
    """Who holds this file's lock is the one `kircerta up` of the workspace."""
    return home / ".kircerta" / "up.lock"


def running(home: Path) -> Running | None:
    """The `kircerta up` of the workspace; None when none runs. What a dead one left behind does not count."""
    import orjson

    from ssot.claims import is_locked

    if not is_locked(lock_file(home)):
        return None
    with suppress(OSError, ValueError, TypeError):
        return Running(**orjson.loads(address_file(home).read_bytes()))
    return None


def settings(**overrides: Any) -> Settings:
    """The settings of this process. Addresses that nobody set are those of the `kircerta up` that runs here."""
    from ssot.settings import load

    found = load(**overrides)
    here = running(found.home)
    if here is None:
        return found
    update = {}
    if "api_url" not in found.model_fields_set:
        update["api_url"] = here.api_url
    if found.prefect_api_url is None:
        update["prefect_api_url"] = here.prefect_api_url
    return found.model_copy(update=update)


def exists(home: Path) -> bool:
    """Whether anything was ever kept in this folder. Reading commands make none."""
    return (home / "ssot" / "tasks").is_dir() or (home / "audit" / "events.jsonl").exists()


@contextmanager
def open_store(given: Settings) -> Iterator[Store]:
    """The store, with task files that were changed by hand taken over. Makes the workspace where there is none."""
    from audit.files import StorageFailed
    from ssot.store import Store
    from ssot.watch import CHECKPOINT_EVERY

    try:
        store = Store.open(given.home, source=SOURCE, settings=given.store, scan=False)
    except StorageFailed as error:
        raise WrongUse(f"{error} (KIRCERTA_HOME is {given.home})") from None
    try:
        _scan(store)
        yield store
        if store.checkpoint_age() > CHECKPOINT_EVERY:
            with suppress(StorageFailed):
                store.save_checkpoint()
    finally:
        store.close()


def _scan(store: Store) -> None:
    """Take over what was changed by hand. Where that cannot be done now, reading goes on without it."""
    from audit.files import Busy, StorageFailed

    try:
        with progress("comparing task files") as tell:
            store.scan(tell)
    except (Busy, StorageFailed) as error:
        note(f"kircerta: task files changed by hand were not taken over: {error}")


def actor() -> str:
    """Whom the log names for what this command does: the user of this machine, at the command line."""
    try:
        name = getpass.getuser()
    except (OSError, KeyError):
        name = ""
    name = re.sub(r"[^a-z0-9._-]", "-", name.lower())[:59].lstrip("._-")
    return f"{name or 'somebody'}@cli"


def last_seq(home: Path) -> int:
    """The seq of the log's last complete line; 0 where there is none. Reads the end of one file."""
    from audit.event import decode
    from audit.segments import segments

    folder = home / "audit"
    for _, path in reversed(segments(folder) if folder.is_dir() else []):
        line = _last_line(path)
        if line is not None:
            return decode(line).seq
    return 0


def _last_line(path: Path) -> bytes | None:
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 2 * MAX_TORN_BYTES))
        lines = file.read().split(b"\n")
    return lines[-2] if len(lines) > 1 else None
