"""The inbox as a flow: tries kept deliveries again, on its schedule or from the UI; needs no other process of ours."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from prefect import flow
from prefect.artifacts import acreate_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed
from pydantic import Field

from audit.files import Busy
from flows import exhibits
from flows.workspace import Workspace, current
from ssot.inbox import Inbox, Standing, Tried


@flow(name="drain_inbox", persist_result=False)
async def drain_inbox(
    limit: Annotated[int, Field(ge=1, le=1000)] = 100, given_up: bool = False, at_once: bool = False
) -> State[Any]:
    """Try deliveries again that were proven and whose effect failed; what still fails waits longer each time.

    Args:
        limit: How many to try at most, oldest first.
        given_up: Whether those that were given up are tried, too.
        at_once: Whether those whose time has not come yet are tried, too.
    """
    workspace = current()
    try:
        tried = await asyncio.to_thread(_drained, workspace, limit, given_up=given_up, at_once=at_once)
    except Busy as busy:
        return Completed(name="AnotherDrains", message=str(busy))
    left = await asyncio.to_thread(Inbox(workspace.home).standings)
    if not tried and not left:
        return Completed(name="InboxEmpty", message="no delivery is kept")
    await acreate_markdown_artifact(
        _page(workspace, tried, left), key="inbox", description="Kept deliveries, and what became of them"
    )
    done = sum(one.came in ("delivered", "known") for one in tried)
    message = f"{done} of {len(tried)} tried deliveries have their effect; {len(left)} are kept"
    failed = [one for one in left if one.state != "waiting"]
    if failed:
        return Failed(name="SomeGivenUp", message=f"{message}, {len(failed)} of them given up")
    return Completed(name="Drained" if not left else "SomeWait", message=message)


def _drained(workspace: Workspace, limit: int, *, given_up: bool, at_once: bool) -> list[Tried]:
    inbox = Inbox(workspace.home)
    if not given_up and not at_once:
        return inbox.drain(workspace.store, limit=limit)
    wanted = {"failed"} if given_up else set()
    wanted |= {"waiting"} if at_once else set()
    keys = [one.key for one in inbox.standings() if one.state in wanted]
    return inbox.replay(workspace.store, keys[:limit])


def _page(workspace: Workspace, tried: list[Tried], left: list[Standing]) -> str:
    lines = ["## Tried", ""]
    rows = (
        (
            exhibits.escaped(one.delivery_id or one.key),
            exhibits.escaped(one.came),
            _linked(workspace, one),
            exhibits.escaped(one.error),
        )
        for one in tried
    )
    lines += exhibits.table(("delivery", "came to", "task", "why"), rows)
    lines += ["", "## Kept", ""]
    kept = (
        (exhibits.escaped(one.delivery_id), one.state, str(one.tries.count), exhibits.escaped(one.why)) for one in left
    )
    lines += exhibits.table(("delivery", "state", "tries", "why"), kept)
    return "\n".join(lines) + "\n"


def _linked(workspace: Workspace, one: Tried) -> str:
    task_id = one.delivered.task_id if one.delivered else None
    return exhibits.link_to(workspace.settings.api_url, task_id) if task_id else ""
