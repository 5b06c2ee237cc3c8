"""What an acceptance came to: the only writer of `reports/acceptance.json`."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import orjson

from audit.files import replace_file
from ssot.task import Part

RECORD: Final = Path("reports") / "acceptance.json"
EVIDENCE: Final = Path("reports") / ".acceptance"
"""What the modules' own workspaces had in the end, one folder a module: the log that the checks' `seq` point into."""


class Check(Part):
    """One promise: whether it holds, what was done, and where in the module's log it shows."""

    name: str
    ok: bool
    detail: str = ""


class Module(Part):
    """The checks of one module; `not_shown` is what could not be seen here, and counts neither way."""

    name: str
    ok: bool
    seconds: float
    checks: tuple[Check, ...] = ()
    not_shown: tuple[str, ...] = ()


class Acceptance(Part):
    """`reports/acceptance.json`. `ok` where all checks of the modules that were run hold; `not_run` has the others."""

    started_at: str
    finished_at: str
    ok: bool
    version: str
    git_commit: str | None
    git_dirty: bool | None
    evidence: str
    modules: tuple[Module, ...]
    not_run: tuple[str, ...] = ()


def save(home: Path, found: Acceptance) -> Path:
    """Write the newest acceptance in the place of the one before; gives the file."""
    path = home / RECORD
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, orjson.dumps(found.model_dump(mode="json"), option=orjson.OPT_INDENT_2) + b"\n")
    return path
