"""How long runs are kept: the only remover of `reports/runs/<run_id>/`. Log and tasks are never touched."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from audit.event import Draft
from audit.files import FileLock
from audit.stamp import seconds_of
from ssot.runs import FOLDER, RUN_ID, RunRecord, is_alive, long_soaks, records
from ssot.store import Store

BASELINES: Final = Path("reports") / "baselines.txt"
"""Runs that are kept for ever: one run id a line; what follows a ``#`` is a remark."""
ACTOR: Final = "retention"
_REMOVED: Final = ".removed-"


def baselines(home: Path) -> frozenset[str]:
    """The runs that the workspace keeps for ever. Raises OSError: a list that cannot be read protects all."""
    try:
        lines = (home / BASELINES).read_text().splitlines()
    except FileNotFoundError:
        return frozenset()
    return frozenset(line.partition("#")[0].strip() for line in lines) - {""}


def removable(
    found: Sequence[RunRecord], now: float, *, keep_last: int, older_than_s: float, keep: Iterable[str] = ()
) -> Iterator[RunRecord]:
    """Runs that are over, older than that, not among the last so many of their kind, and not to be kept. Pure.

    Args:
        found: every record, oldest first.
        now: Unix seconds.
    """
    kept, left = frozenset(keep), _counted(found)
    for record in found:
        left[record.kind] -= 1
        is_old = now - seconds_of(record.finished_at or record.started_at) > older_than_s
        if record.state != "running" and is_old and left[record.kind] >= keep_last and record.run_id not in kept:
            yield record


def _counted(found: Sequence[RunRecord]) -> dict[str, int]:
    return {kind: sum(one.kind == kind for one in found) for kind in {one.kind for one in found}}


def prune(store: Store, now: float, *, keep_last: int, older_than_s: float, keep: Iterable[str] = ()) -> list[str]:
    """Remove the runs that need not be kept; gives their ids. Each is told in the log first.

    Besides `keep` and the baselines, the newest soak of two hours that passed stays: the acceptance names it.
    """
    proof = [one.run_id for one in long_soaks(store.home) if one.outcome == "pass"][-1:]
    kept = {*keep, *baselines(store.home), *proof}
    folder = store.home / FOLDER
    if not folder.is_dir() or folder.is_symlink():
        return []
    with FileLock(folder / ".lock").hold():
        _finish(folder)
        found = [one for one in records(store.home) if one.state != "running" or not is_alive(one.process)]
        chosen = list(removable(found, now, keep_last=keep_last, older_than_s=older_than_s, keep=kept))
        for record in chosen:
            store.note(removed(record))
            # A crash here leaves a run that the log calls removed: the next turn tells it again, and removes it.
            _remove(folder / record.run_id)
    return [record.run_id for record in chosen]


def removed(record: RunRecord) -> Draft:
    """The event that a run's folder goes: what is known of it from then on."""
    names = ("run_id", "kind", "started_at", "finished_at", "state", "outcome")
    return Draft("run_removed", ACTOR, {name: getattr(record, name) for name in names})


def _remove(folder: Path) -> None:
    """Out of everybody's sight at once, then from the disk. A link is taken away, never followed."""
    assert RUN_ID.fullmatch(folder.name)
    gone = folder.with_name(_REMOVED + folder.name)
    os.rename(folder, gone)
    _clear(gone)


def _finish(folder: Path) -> None:
    """What a turn that died left halfway."""
    for gone in folder.glob(f"{_REMOVED}*"):
        _clear(gone)


def _clear(gone: Path) -> None:
    if gone.is_symlink():
        gone.unlink()
    else:
        shutil.rmtree(gone)
