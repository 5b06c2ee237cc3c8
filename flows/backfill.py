"""Failed deliveries of GitHub's: judges which are worth asking for again, asks, and keeps in the log what was asked.

The log is the memory: a delivery that it knows is not asked for, and neither is the same attempt a second time.
Needs no Prefect.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, Literal, Self

import httpx

from audit.event import Draft
from flows.github import Answered, CannotAsk, Failed, GitHub, Hook, failed_of, quiet_logs
from flows.turn import Turn
from flows.workspace import Workspace
from ssot.counted import counted
from ssot.ingest.delivery import key_of
from ssot.settings import Settings

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

    @classmethod
    def of(cls, hooks: Sequence[str], hours: float, limit: int, most_tries: int, *, again: bool) -> Self:
        """The wish of a form or a command line. Raises CannotAsk."""
        if not hooks:
            raise CannotAsk(
                "NotConfigured", "no webhook is named: KIRCERTA_GITHUB_HOOKS is empty, and nobody named one"
            )
        named = {name.lower(): Hook.named(name) for name in hooks}
        return cls(tuple(named.values()), datetime.now(UTC) - timedelta(hours=hours), limit, most_tries, again)


@dataclass(frozen=True, slots=True)
class Row:
    """What became of one failed delivery."""

    hook: Hook
    failed: Failed
    fate: Fate
    detail: str = ""


Told = Callable[[Row], None]


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

    @property
    def outcome(self) -> str:
        """How the run ended, in one word."""
        if self.trouble is not None:
            return self.trouble.trouble
        if self.unreadable or any(fate not in GOOD for fate in self.counts()):
            return "SomeLeft"
        return "Asked" if self.counts()["asked"] else "NothingFailed"

    @property
    def is_good(self) -> bool:
        """Whether all is well, or will be."""
        return self.outcome in ("Asked", "NothingFailed")

    @property
    def message(self) -> str:
        """The run in a line."""
        counts = self.counts()
        told = ", ".join(f"{count} {fate}" for fate, count in sorted(counts.items()))
        line = f"{counted(counts.total(), 'delivery', 'deliveries')} failed" + (f": {told}" if told else "")
        if self.unreadable:
            entries = counted(self.unreadable, "entry", "entries")
            line += f"; {entries} of GitHub's list could not be read"
        return line if self.trouble is None else f"{self.trouble}; {line}"


def token_of(settings: Settings) -> str:
    """The token that GitHub is asked with. Raises CannotAsk."""
    token = settings.github_token.get_secret_value().strip() if settings.github_token else ""
    if not token or not token.isascii() or not token.isprintable():
        raise CannotAsk("NotConfigured", "KIRCERTA_GITHUB_TOKEN is not set, or is no token: GitHub tells nobody else")
    return token


async def ask(
    workspace: Workspace, token: str, wish: Wish, turn: Turn, seconds: float, told: Told = lambda row: None
) -> Report:
    """One run against the GitHub that the settings name, in the turn of its token; it takes so long at most."""
    quiet_logs()
    async with httpx.AsyncClient() as client:
        github = GitHub(client, workspace.settings.github_api, token, time.monotonic() + seconds, turn)
        return await backfill(workspace, github, wish, told)


async def backfill(workspace: Workspace, github: GitHub, wish: Wish, told: Told = lambda row: None) -> Report:
    """Ask for the failed deliveries of all hooks, each at most once. What could not be done is in the report.

    Args:
        told: called with each delivery as soon as it is known what became of it.
    """
    report = Report()
    for hook in wish.hooks:
        try:
            await _one_hook(workspace, github, wish, hook, report, told)
        except CannotAsk as error:
            report.trouble = error
            if error.trouble != "HookUnknown":  # what is wrong with one hook is no reason to leave out the others
                break
    report.unreadable = github.unreadable
    return report


async def _one_hook(workspace: Workspace, github: GitHub, wish: Wish, hook: Hook, report: Report, told: Told) -> None:
    failed = failed_of(await github.deliveries(hook, wish.since))
    await asyncio.to_thread(workspace.store.refresh)  # behind the list: what was taken meanwhile is known
    for one in failed:
        fate = _known_fate(workspace, wish, hook, one)
        if fate is None and report.requests() >= wish.limit:
            fate = "left over"
        report.rows.append(Row(hook, one, fate) if fate is not None else await _asked(workspace, github, hook, one))
        told(report.rows[-1])


async def _asked(workspace: Workspace, github: GitHub, hook: Hook, failed: Failed) -> Row:
    answered, detail = await github.redeliver(hook, failed.newest)
    if answered == "asked":
        await asyncio.to_thread(workspace.store.note, redelivery_requested(hook, failed))
    return Row(hook, failed, answered, detail)


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
