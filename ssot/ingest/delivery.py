"""One delivery from outside and what becomes of it: exactly one event, which is also what recognises it again. Pure."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from audit.event import Draft, Event
from audit.stamp import Stamp
from ssot import rules
from ssot.intents import Create, Refresh, SetBuild
from ssot.rules import Policy
from ssot.task import Task

Sender = Literal["github", "xcode", "telegram"]
Effect = Literal["created", "refreshed", "build_updated", "recorded", "ignored", "out_of_order", "duplicate"]

REPEATS: Final = frozenset({"webhook_duplicate", "telegram_dedup_hit"})
"""The types of event that tell of a delivery that came before."""


def key_of(sender: str, identity: str) -> str:
    """What recognises a delivery of a sender: 32 hex digits."""
    return hashlib.sha256(f"{sender}\n{identity}".encode()).hexdigest()[:32]


class BadPayload(Exception):
    """The payload is not what its sender documents: nothing can be made of it."""


@dataclass(frozen=True, slots=True)
class Ignore:
    """No reason to do anything. `facts` go into the event."""

    reason: str
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Record:
    """A command in a comment: recorded, not obeyed."""

    facts: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Bring:
    """Make the delivery's task, or change the one that stands. Without `create` only a task that stands is changed;
    without `change` a task that stands makes the delivery a repeat.
    """

    create: Create | None
    change: Refresh | SetBuild | None


@dataclass(frozen=True, slots=True)
class Delivery:
    """A proven delivery, read. `identity` is what recognises it again, where that is more than its `event_id`."""

    sender: Sender
    event_id: str
    kind: str
    wish: Ignore | Record | Bring
    task_id: str | None = None
    identity: str = ""

    @property
    def key(self) -> str:
        """What the log keeps to recognise it: 32 hex digits."""
        return key_of(self.sender, self.identity or self.event_id)

    def draft(self, type: str, task: Task | None, **facts: Any) -> Draft:
        """The one event of this delivery."""
        told = Draft(type, self.sender, facts, self.task_id, task.correlation_id if task else None)
        return self.signed(told)

    def signed(self, draft: Draft) -> Draft:
        """A draft that says which delivery it comes from."""
        mark = {
            "sender": self.sender,
            "delivery_id": self.event_id,
            "delivery_key": self.key,
            "delivery_kind": self.kind,
        }
        return replace(draft, data={**draft.data, **mark})


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a delivery comes to: the event, and the word that its sender is answered with."""

    draft: Draft
    effect: Effect
    duplicate: bool = False


@dataclass(frozen=True, slots=True)
class Delivered:
    """A delivery behind its commit point."""

    delivery: Delivery
    event: Event
    effect: Effect
    duplicate: bool

    @property
    def task_id(self) -> str | None:
        return self.event.subject


_EFFECTS: Final[dict[str, Effect]] = {
    "task_created": "created",
    "task_refreshed": "refreshed",
    "build_status": "build_updated",
    "out_of_order_ignored": "out_of_order",
}
_OTHER_EFFECTS: Final[dict[str, Effect]] = {
    "command_recorded": "recorded",
    "webhook_ignored": "ignored",
    **dict.fromkeys(REPEATS, "duplicate"),
}


def effect_of(event: Event) -> Effect | None:
    """The word for what a delivery came to, from its one event; None where it tells of none."""
    if "delivery_key" not in event.data:
        return None
    return _EFFECTS.get(event.type) or _OTHER_EFFECTS.get(event.type)


def judge(delivery: Delivery, task: Task | None, stamp: Stamp, policy: Policy) -> Outcome:
    """What becomes of a delivery that was not seen before. `task` is the one of its `task_id`, as it stands."""
    match delivery.wish:
        case Ignore(reason=reason, facts=facts):
            return ignored(delivery, reason, task, **facts)
        case Record(facts=facts):
            return Outcome(delivery.draft("command_recorded", task, **facts), "recorded")
        case Bring() as wish:
            return _brought(delivery, wish, task, stamp, policy)


def _brought(delivery: Delivery, wish: Bring, task: Task | None, stamp: Stamp, policy: Policy) -> Outcome:
    assert delivery.task_id is not None
    intent = wish.create if task is None else wish.change
    if task is not None and not _is_its_task(delivery, wish, task):
        return ignored(delivery, "another_task", task)
    if intent is None:
        if task is None:
            return ignored(delivery, "unknown_task")
        return Outcome(delivery.draft("telegram_dedup_hit", task), "duplicate", duplicate=True)
    ruling = rules.decide(delivery.task_id, task, intent, actor=delivery.sender, stamp=stamp, policy=policy)
    draft = ruling.drafts[0]
    if draft.type not in _EFFECTS:  # the rules said no: dispatched already
        return ignored(delivery, "not_refreshed_any_more", task, detail=draft.data.get("detail", ""))
    return Outcome(delivery.signed(draft), _EFFECTS[draft.type])


def _is_its_task(delivery: Delivery, wish: Bring, task: Task) -> bool:
    """Whether the task that stands under this id comes from the same place: two repositories can share one id."""
    if task.source != delivery.sender:
        return False
    came = wish.create.origin.get("repository") if wish.create else None
    stands = task.origin.get("repository")
    return not (isinstance(came, str) and isinstance(stands, str)) or came.casefold() == stands.casefold()


def ignored(delivery: Delivery, reason: str, task: Task | None = None, **facts: Any) -> Outcome:
    """The delivery is no reason to do anything."""
    return Outcome(delivery.draft("webhook_ignored", task, reason=reason, **facts), "ignored")


def repeated(delivery: Delivery, first: Event) -> Outcome:
    """The delivery came before; `first` told its outcome. Of a chat message that has its own type of event."""
    of_message = delivery.sender == "telegram" and isinstance(delivery.wish, Bring)
    kind = "telegram_dedup_hit" if of_message else "webhook_duplicate"
    draft = delivery.draft(kind, None, first_seq=first.seq, first_type=first.type)
    draft = replace(draft, subject=first.subject, correlationid=first.correlationid)
    return Outcome(draft, "duplicate", duplicate=True)
