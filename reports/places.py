"""Where things lie in a workspace, as the reports look at them. Makes nothing, reads nothing but the settings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from ssot.counted import counted

RUN_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)
Home = Path | str | None
"""A workspace; None stands for the one that KIRCERTA_HOME names, else the current folder."""


class NoSuchRun(Exception):
    """There is no such run; the message says where it was looked for, and which is the newest."""


def home_of(home: Home) -> Path:
    """The workspace's folder."""
    if home is not None:
        return Path(home).absolute()
    from ssot.settings import load

    return load().home


def run_folder(home: Home, run_id: str) -> Path:
    """Where a run's record lies. Raises NoSuchRun: what is no run id never becomes a path."""
    runs = home_of(home) / "reports" / "runs"
    if RUN_ID.fullmatch(run_id) and (runs / run_id / "run.json").is_file():
        return runs / run_id
    known = sorted((path.parent.name for path in runs.glob("*/run.json")), reverse=True)
    there = counted(len(known), "run is there", "runs are there")
    hint = f"{there}, e.g. {known[0]}" if known else "there are no runs yet"
    raise NoSuchRun(f"no run {run_id!r:.140} in {runs}: {hint}")
