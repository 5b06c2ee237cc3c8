"""What a ruling is, and the case that a rule looks at. Pure; it decides nothing by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from audit.event import Draft
from audit.stamp import Stamp
from ssot.past import identities
from ssot.states import Stage, move_from, stage_of, stages_of
from ssot.task import Attempt, Task


@dataclass(frozen=True, slots=True)
class Policy:
    """The settings that rules depend on."""

    max_rejects: int = 3
    trust_history: bool = False


@dataclass(frozen=True, slots=True)
class Signs:
    """Signs of life of the current dispatch, as the log knows them: Unix seconds; 0 for none."""

    last_sign: float = 0.0
    last_heartbeat_event: float = 0.0
    warned_at: float = 0.0


NO_SIGNS: Final = Signs()


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why something was refused: a stable code, a sentence for the caller, and facts for the event."""

    code: str
    detail: str
    facts: dict[str, Any] = field(default_factory=dict)


class Refused(Exception):
    """The rules said no. Ask differently; the refusal is in the log where that is worth knowing."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.detail)
        self.code = refusal.code
        self.detail = refusal.detail
        self.facts = refusal.facts


@dataclass(frozen=True, slots=True)
class Ruling:
    """The events that follow from an intent; with a refusal they record it and what it revealed."""

    drafts: tuple[Draft, ...] = ()
    refusal: Refusal | None = None


HEARTBEAT_EVENT_S: Final = 5.0
"""Heartbeats are logged at most once in this many seconds per dispatch."""


class No(Exception):
    """Carries a refusal from the check that found it to `decide`."""

    def __init__(self, code: str, detail: str, *, event: str = "move_refused", **facts: Any) -> None:
        super().__init__(detail)
        self.refusal = Refusal(code, detail, facts)
        self.event = event


@dataclass(frozen=True, slots=True)
class Case:
    """Everything a rule may look at: the task as it stands, who asks, when, and under which policy."""

    task_id: str
    task: Task | None
    actor: str
    stamp: Stamp
    policy: Policy
    signs: Signs
    on_behalf_of: str | None = None

    @property
    def who(self) -> frozenset[str]:
        """The persons whom the act counts for: who does it, and on whose behalf."""
        return identities(self.actor, self.on_behalf_of)

    @property
    def signature(self) -> dict[str, Any]:
        """What the server sets in a part: who did it, and when."""
        behalf = {} if self.on_behalf_of is None else {"on_behalf_of": self.on_behalf_of}
        return {"by": self.actor, "at": self.stamp.now, **behalf}

    def signed(self, part: dict[str, Any]) -> dict[str, Any]:
        """A part as its sender wrote it, but for the signature: that is the server's, whatever stood there."""
        part.pop("on_behalf_of", None)
        return {**part, **self.signature}

    @property
    def known(self) -> Task:
        if self.task is None:
            raise No("not_found", f"there is no task {self.task_id}")
        return self.task

    @property
    def attempt(self) -> Attempt:
        current = self.known.current
        if current is None:
            raise No("invalid_transition", f"{self.task_id} was never dispatched", stage="new")
        return current

    def draft(self, type: str, **data: Any) -> Draft:
        correlation = self.task.correlation_id if self.task else None
        return Draft(type, self.actor, data, self.task_id, correlation)

    def require(self, move: str, wish: str) -> str:
        """The event of a move, if the table allows it in the task's stage."""
        stage = stage_of(self.known)
        row = move_from(move, stage)
        if row is None:
            raise No(
                "invalid_transition",
                f"{self.task_id} is {told(self.known)}: {wish} (possible when it is {either(stages_of(move))})",
                stage=stage,
                status=self.known.status,
            )
        return row.event


def told(task: Task) -> str:
    return f"{task.status} ({stage_of(task)})" if task.status == "pending" else task.status


def either(stages: Sequence[Stage]) -> str:
    return " or ".join(stages)
