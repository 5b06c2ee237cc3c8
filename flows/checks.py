"""A criterion's check: a command that is run where nothing stands but a commit and a change. It judges nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from flows.agents.commands import run
from flows.agents.enclosure import Enclosure
from flows.agents.git import NoWorkplace
from flows.agents.workplace import Workplace
from ssot.observed import CheckRun
from ssot.task import Criterion

_NOTHING_RAN: Final = "0" * 64


async def run_check(
    criterion: Criterion, make: Callable[[], Workplace], around: Callable[[Workplace], Enclosure]
) -> CheckRun:
    """Run a criterion's check in a clean place, with a cage around it. What could not be run says so in its tail."""
    command = (criterion.check,) if isinstance(criterion.check, str) else criterion.check or ()
    try:
        clean = await asyncio.to_thread(make)
    except NoWorkplace as error:
        return _not_run(criterion, command, str(error))
    try:
        enclosure = around(clean)
        await asyncio.to_thread(enclosure.make_folders)
        ran = await run(enclosure, command)
    except OSError as error:
        return _not_run(criterion, command, str(error))
    finally:
        await asyncio.to_thread(clean.discard)
    return CheckRun(criterion_ref=criterion.id, **dict(ran.seen))


def _not_run(criterion: Criterion, command: tuple[str, ...], why: str) -> CheckRun:
    return CheckRun(
        criterion_ref=criterion.id,
        command=command,
        exit_code=None,
        duration_ms=0,
        output_bytes=0,
        output_sha256=_NOTHING_RAN,
        tail=f"it could not be run: {why}"[:2000],
        stopped="closed",
    )
