"""Audits the whole history: what each dispatch forwarded is what the attempt before it left, verbatim. Reads only.

It takes nothing from the rules that let the dispatches happen, and nothing from the task files: it follows the log's
events alone. A log that was rewritten, chain and all, with another issue in one place contradicts itself here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson
from pydantic import ValidationError

from audit.event import Corrupt, Event
from audit.reader import read_events
from ssot.blobs import Blobs
from ssot.task import Issue, issue_digest

Plain = dict[str, Any]
_SHOWN: Final = 400


@dataclass(frozen=True, slots=True)
class Difference:
    """One place where a message does not carry what it had to: the event, where in it, and both texts."""

    seq: int
    task_id: str
    attempt: int
    event: str
    where: str
    expected: str
    found: str


@dataclass(slots=True)
class Audited:
    """What an audit saw. `forwarded` counts issues that went with a dispatch, `digests` those checked by digest."""

    events: int = 0
    tasks: int = 0
    dispatches: int = 0
    redispatches: int = 0
    forwarded: int = 0
    digests: int = 0
    bare_approvals: int = 0
    """Verdicts of approve that say nothing: no summary, no issue."""
    unread_decisions: int = 0
    """Approvals by people that did not name the digest of what was read."""
    differences: list[Difference] = field(default_factory=list)
    problem: str | None = None

    @property
    def ok(self) -> bool:
        return self.problem is None and not self.differences


@dataclass(slots=True)
class _Trail:
    """What is known of one task on the way through the log."""

    attempt: int = 0
    dispatched: list[Plain] = field(default_factory=list)
    verdict: list[Plain] = field(default_factory=list)
    due: list[Plain] = field(default_factory=list)
    """What the next dispatch has to carry."""


def audit(home: Path, progress: Callable[[int], None] = lambda events: None) -> Audited:
    """Follow the log of a workspace from its beginning and compare, attempt by attempt."""
    reader = _Reader(Blobs(home / "ssot" / "blobs"))
    try:
        for event in read_events(home / "audit") if (home / "audit").is_dir() else ():
            reader.take(event)
            if reader.found.events % 1000 == 0:
                progress(reader.found.events)
    except Corrupt as error:
        reader.found.problem = str(error)
    except (KeyError, TypeError, ValueError, LookupError) as error:
        reader.found.problem = f"behind event {reader.found.events} one makes no sense: {error!r:.300}"
    reader.found.tasks = len(reader.trails)
    return reader.found


class _Reader:
    """Takes in events in their order."""

    def __init__(self, blobs: Blobs) -> None:
        self.found = Audited()
        self.trails: dict[str, _Trail] = {}
        self._blobs = blobs

    def take(self, event: Event) -> None:
        self.found.events += 1
        take = _TAKES.get(event.type)
        if take is not None and event.subject is not None:
            trail = self.trails.setdefault(event.subject, _Trail())
            self.found.differences += take(self, trail, event, self._facts(event))

    def _facts(self, event: Event) -> Plain:
        """An event's data, with what did not fit its line put back."""
        if "in_blob" not in event.data:
            return event.data
        return {**event.data, **orjson.loads(self._blobs.text(event.data["blob"]))}

    # ---------------------------------------------------------------------------------- one kind of event each

    def created(self, trail: _Trail, event: Event, data: Plain) -> list[Difference]:
        return []

    def adopted(self, trail: _Trail, event: Event, data: Plain) -> list[Difference]:
        """A file that brought attempts along: they count as they came."""
        for attempt in data["task"].get("attempts") or []:
            told = attempt.get("dispatch") or {}
            verdict = attempt.get("verdict") or {}
            trail.attempt, trail.dispatched = attempt["attempt"], list(told.get("issues") or [])
            trail.verdict = list(verdict.get("issues") or [])
            trail.due = trail.dispatched if attempt.get("ended") else trail.verdict
        return []

    def dispatched(self, trail: _Trail, event: Event, data: Plain) -> list[Difference]:
        dispatch = data["dispatch"]
        issues = dispatch["issues"]
        trail.attempt = data["attempt"]
        self.found.dispatches += 1
        self.found.redispatches += event.type == "task_redispatched"
        self.found.forwarded += len(issues)
        found = list(_unlike(trail, event, "dispatch.issues", trail.due, issues))
        if "issue_digests" in dispatch:
            self.found.digests += len(issues)
            told = [_digest(issue) for issue in issues]
            found += _unlike(trail, event, "dispatch.issue_digests", told, dispatch["issue_digests"])
        trail.dispatched, trail.verdict, trail.due = issues, [], []
        return found

    def acknowledged(self, trail: _Trail, event: Event, data: Plain) -> list[Difference]:
        return list(_unlike(trail, event, "ack.issues", trail.dispatched, data["ack"].get("issues") or []))

    def judged(self, trail: _Trail, event: Event, data: Plain) -> list[Difference]:
        verdict = data["verdict"]
        trail.verdict = trail.due = verdict.get("issues") or []
        bare = verdict["decision"] == "approve" and not (verdict.get("summary") or "").strip() and not trail.verdict
        self.found.bare_approvals += bare and not verdict.get("blob")
        return []

    def rejected(self, trail: _Trail, event: Event, data: Plain) -> list[Difference]:
        trail.due = [*trail.verdict, *(data["decision"].get("issues") or [])]
        return []

    def approved(self, trail: _Trail, event: Event, data: Plain) -> list[Difference]:
        self.found.unread_decisions += data.get("digest_given") is False
        return []

    def unlanded(self, trail: _Trail, event: Event, data: Plain) -> list[Difference]:
        """An approved attempt that has to be done anew: the next one carries what the landing said."""
        trail.due = data["unlanded"]["issues"]
        return []

    def ended(self, trail: _Trail, event: Event, data: Plain) -> list[Difference]:
        """An attempt that stopped before its verdict: the next one has to carry what this one was told."""
        trail.due = trail.dispatched
        return []


_Take = Callable[[_Reader, _Trail, Event, Plain], list[Difference]]
_TAKES: Final[dict[str, _Take]] = {
    "task_created": _Reader.created,
    "task_adopted": _Reader.adopted,
    "task_dispatched": _Reader.dispatched,
    "task_redispatched": _Reader.dispatched,
    "ack_received": _Reader.acknowledged,
    "verdict_received": _Reader.judged,
    "task_rejected": _Reader.rejected,
    "task_approved": _Reader.approved,
    "approval_given": _Reader.approved,
    "landing_failed": _Reader.unlanded,
    "attempt_ended": _Reader.ended,
    "ack_timeout": _Reader.ended,
}


def _unlike(trail: _Trail, event: Event, where: str, expected: list[Any], found: list[Any]) -> Iterator[Difference]:
    """The first item that differs; two lists that are the same in their order differ nowhere."""
    for index in range(max(len(expected), len(found))):
        left = expected[index] if index < len(expected) else None
        right = found[index] if index < len(found) else None
        if _form(left) != _form(right):
            place = f"{where}[{index}]"
            yield Difference(
                event.seq, str(event.subject), trail.attempt, event.type, place, _shown(left), _shown(right)
            )
            return


def _form(item: Any) -> Any:
    """An issue in the form of the document: what was left out stands there with its default."""
    if not isinstance(item, dict):
        return item
    return Issue.model_validate(item, strict=False).model_dump_json()


def _digest(issue: Plain) -> str:
    try:
        return issue_digest(Issue.model_validate(issue, strict=False))
    except ValidationError as error:
        raise ValueError(f"an issue breaks its schema: {error.errors()[0]['msg']}") from None


def _shown(item: Any) -> str:
    text = "nothing" if item is None else item if isinstance(item, str) else orjson.dumps(item).decode()
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
