"""Failed deliveries of GitHub's: judges which are worth asking for again, asks, and keeps in the log what was asked.

The log is the memory: a delivery that it knows is not asked for, and neither is the same attempt a second time.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal

from audit.event import Draft
from flows.github import Answered, CannotAsk, Failed, GitHub, Hook, failed_of
from flows.workspace import Workspace
from ssot.ingest.delivery import key_of

ACTOR: Final = "backfill_github"
Fate = Literal["known", "asked before", "given up", "left over"] | Answered
"""What became of a failed delivery. `known`: it was taken, only its answer was lost."""
GOOD: Final[frozenset[Fate]] = frozenset({"known", "asked before", "asked"})


@dataclass(frozen=True, slots=True)
class Wish:
    """What one run is to do.

    Args:
        since: attempts before then are not looked at.
        limit: how many deliveries are asked for at most.
        most_tries: a delivery that failed so often is given up.
        again: whether attempts that were asked for before are asked for once more.
    """

    hooks: tuple[Hook, ...]
    since: datetime
    limit: int
    most_tries: int
    again: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """What became of one failed delivery."""

    hook: Hook
    failed: Failed
    fate: Fate
    detail: str = ""


@dataclass(slots=True)
class Report:
    """What a run came to. `trouble` is what stopped it, or the last hook that nothing could be learned of."""

    rows: list[Row] = field(default_factory=list)
    trouble: CannotAsk | None = None
    unreadable: int = 0

    def requests(self) -> int:
        """How often GitHub was asked to send something again."""
        return sum(row.fate in ("asked", "refused", "unsure") for row in self.rows)

    def counts(self) -> Counter[Fate]:
        return Counter(row.fate for row in self.rows)


async def backfill(workspace: Workspace, github: GitHub, wish: Wish) -> Report:
    """Ask for the failed deliveries of all hooks, each at most once. What could not be done is in the report."""
    report = Report()
    for hook in wish.hooks:
        try:
            await _one_hook(workspace, github, wish, hook, report)
        except CannotAsk as error:
            report.trouble = error
            if error.trouble != "HookUnknown":  # what is wrong with one hook is no reason to leave out the others
                break
    report.unreadable = github.unreadable
    return report


async def _one_hook(workspace: Workspace, github: GitHub, wish: Wish, hook: Hook, report: Report) -> None:
    failed = failed_of(await github.deliveries(hook, wish.since))
    await asyncio.to_thread(workspace.store.refresh)  # behind the list: what was taken meanwhile is known
    for one in failed:
        fate = _known_fate(workspace, wish, hook, one)
        if fate is None and report.requests() >= wish.limit:
            fate = "left over"
        if fate is not None:
            report.rows.append(Row(hook, one, fate))
            continue
        answered, detail = await github.redeliver(hook, one.newest)
        if answered == "asked":
            await asyncio.to_thread(workspace.store.note, redelivery_requested(hook, one))
        report.rows.append(Row(hook, one, answered, detail))


def _known_fate(workspace: Workspace, wish: Wish, hook: Hook, failed: Failed) -> Fate | None:
    """Why a delivery is not asked for; None where it is."""
    known = workspace.store.view.deliveries
    if bytes.fromhex(key_of("github", failed.newest.guid)) in known:
        return "known"
    if bytes.fromhex(_request_key(hook, failed)) in known and not wish.again:
        return "asked before"
    return "given up" if failed.tries >= wish.most_tries and not wish.again else None


def _request_key(hook: Hook, failed: Failed) -> str:
    return key_of("redelivery", f"{hook.name.lower()}:{failed.newest.id}")


def redelivery_requested(hook: Hook, failed: Failed) -> Draft:
    """The record that GitHub said yes. A crash before it costs one more redelivery, which is recognised."""
    facts = {
        "hook": hook.name,
        "guid": failed.newest.guid[:200],
        "attempt": failed.newest.id,
        "tries": failed.tries,
        "status_code": failed.newest.status_code,
        "event": failed.newest.event[:100],
        "delivery_key": _request_key(hook, failed),
    }
    return Draft("redelivery_requested", ACTOR, facts)
