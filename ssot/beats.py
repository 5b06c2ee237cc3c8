"""Signs of life that are too frequent for the log: the times of private files, one a dispatch."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from ssot.task import TASK_ID

_FOLDER: Final = Path(".kircerta") / "beats"


def keep_sign(home: Path, dispatch_id: str) -> None:
    """The executor is alive now. A sign that cannot be kept costs a warning at worst."""
    path = _file(home, dispatch_id)
    if path is None:
        return
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def last_sign(home: Path, dispatch_id: str) -> float:
    """When the last sign was kept, in Unix seconds; 0 for none."""
    path = _file(home, dispatch_id)
    if path is None:
        return 0.0
    try:
        return os.stat(path).st_mtime
    except OSError:
        return 0.0


def forget_signs(home: Path, dispatch_id: str) -> None:
    """The dispatch is over."""
    path = _file(home, dispatch_id)
    if path is not None:
        with suppress(OSError):
            path.unlink()


def _file(home: Path, dispatch_id: str) -> Path | None:
    return home / _FOLDER / dispatch_id if TASK_ID.fullmatch(dispatch_id) else None
