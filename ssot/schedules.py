"""The next scheduled runs, as the dispatcher last learnt them: a private file, so that nobody waits for a server."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import orjson
from pydantic import ValidationError

from audit import files
from audit.stamp import seconds_of
from ssot.task import Name, Part, Timestamp, plain

FILE: Final = Path(".kircerta") / "schedules.json"
STALE_S: Final = 600.0
"""A file older than this tells of a dispatcher that is gone: what it says is not known to hold."""


class ScheduledRun(Part):
    """A run that is going to start by itself. `project` is null where it is the whole workspace's."""

    flow: Name
    deployment: Name
    at: Timestamp
    project: Name | None = None


class Schedules(Part):
    """What was scheduled at the moment `at`."""

    at: Timestamp
    runs: tuple[ScheduledRun, ...] = ()

    def next_for(self, project: str, flows: frozenset[str], now: float) -> ScheduledRun | None:
        """The soonest run at or behind the Unix time `now` that is the project's own, or runs `flows` for everybody."""
        if now - seconds_of(self.at) > STALE_S:
            return None
        mine = [run for run in self.runs if run.project == project or (run.project is None and run.flow in flows)]
        return min((run for run in mine if seconds_of(run.at) >= now), key=lambda run: seconds_of(run.at), default=None)


def save(home: Path, schedules: Schedules) -> None:
    """Raises StorageFailed."""
    path = home / FILE
    path.parent.mkdir(exist_ok=True)
    files.replace_file(path, orjson.dumps(plain(schedules)))


def load(home: Path) -> Schedules | None:
    """What the file says; None where there is none, or none that can be read."""
    try:
        raw, _ = files.read_regular(home / FILE)
        return Schedules.model_validate_json(raw)
    except (OSError, files.NotRegular, ValidationError):
        return None
