"""Retention as a flow: old load runs go, those that somebody named stay; the log and the tasks are never touched."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any, Final

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed
from pydantic import Field

from flows.workspace import current
from ssot.retention import BASELINES, prune

_DAY_S: Final = 86_400.0


@flow(name="prune_runs", persist_result=False)
async def prune_runs(
    keep_last: Annotated[int, Field(ge=1, le=100_000)] = 50,
    older_than_days: Annotated[float, Field(ge=0, le=36_500)] = 90.0,
    keep: tuple[str, ...] = (),
) -> State[Any]:
    """Remove the folders of old load runs; each removal is an event in the log.

    What `reports/baselines.txt` names stays, and so does the newest soak of two hours that passed.

    Args:
        keep_last: How many runs of each kind stay, however old.
        older_than_days: Only runs that ended longer ago than this go.
        keep: Ids of more runs that stay.
    """
    store = current().store
    older_than_s = older_than_days * _DAY_S
    try:
        gone = await asyncio.to_thread(
            prune, store, time.time(), keep_last=keep_last, older_than_s=older_than_s, keep=keep
        )
    except (OSError, UnicodeDecodeError) as error:
        return Failed(name="NotPruned", message=f"{BASELINES} or a run's folder: {error}")
    if not gone:
        return Completed(name="NothingToRemove", message="no run is old enough, or all are to be kept")
    return Completed(name="Removed", message=f"{len(gone)} removed: {', '.join(gone[:20])}")
