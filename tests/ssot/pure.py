"""The rules without a store: a task in memory, moved by `decide` and `evolve` alone. What is owed follows at once."""

from __future__ import annotations

from itertools import count
from typing import Any

import orjson

from audit.event import KINDS, Draft, Event
from audit.stamp import Stamp, rfc3339
from ssot import intents, rules
from ssot.intents import Terms
from ssot.projects import Project, ProjectPolicy
from ssot.rules import Policy, Ruling
from ssot.task import Criterion, Task
from tests import builders

BEGIN_S = 1_750_000_000.0
CRITERIA = (Criterion(id="AC-1", text="it greets"), Criterion(id="AC-2", text="fast"))


def terms_of(policy: ProjectPolicy, created_by: str = "creator") -> Terms:
    """The terms as the store finds them in the projects' file."""
    project = Project(policy=policy)
    return Terms(project.recorded("shop", created_by if policy.four_eyes else None), "fake", "fake")


class Pure:
    """One task. `do` gives the ruling; events that change the task change it."""

    def __init__(self, policy: ProjectPolicy | None = None, *, max_rejects: int = 3) -> None:
        self.terms = terms_of(policy) if policy is not None else intents.NO_PROJECT
        self.policy = Policy(max_rejects)
        self.task: Task | None = None
        self.events: list[Event] = []
        self.now = BEGIN_S
        self._ids = count(1)

    def copy(self) -> Pure:
        """Another way from here."""
        other = Pure(max_rejects=self.policy.max_rejects)
        other.terms, other.task, other.events, other.now = self.terms, self.task, list(self.events), self.now
        other._ids = count(10_000)
        return other

    @property
    def known(self) -> Task:
        assert self.task is not None
        return self.task

    def ask(self, intent: intents.Intent, actor: str, behalf: str | None = None) -> Ruling:
        """What the rules say; nothing is done."""
        if isinstance(intent, intents.Dispatch):
            intent = intents.Dispatch(
                intent.dispatch_id, intent.executor, intent.reviewer, issues=intent.issues, terms=self.terms
            )
        stamp = Stamp(rfc3339(self.now), lambda prefix: f"{prefix}-{next(self._ids)}")
        return rules.decide("T-1", self.task, intent, actor=actor, stamp=stamp, policy=self.policy, on_behalf_of=behalf)

    def do(self, intent: intents.Intent, actor: str, behalf: str | None = None) -> Ruling:
        self.now += 0.001
        ruling = self.ask(intent, actor, behalf)
        for draft in ruling.drafts:
            self._take(draft)
        return ruling

    def _take(self, draft: Draft | None) -> None:
        while draft is not None:
            seq = len(self.events) + 1
            data = orjson.loads(orjson.dumps(draft.data))
            event = Event(seq, f"e-{seq}", "pure", draft.type, rfc3339(self.now), draft.actor, data, "", "T-1")
            self.events.append(event)
            draft = None
            if KINDS[event.type].changes_task:
                self.task = rules.evolve(self.task, event, data)
                draft = rules.owed(self.task, self.policy) if event.type in rules.OWING else None

    # ------------------------------------------------------------------------------------ the straight road

    def create(self) -> Ruling:
        return self.do(intents.Create("Greet.", acceptance_criteria=CRITERIA), "creator")

    def dispatch(self, by: str = "asker") -> Ruling:
        return self.do(intents.Dispatch(f"d-{len(self.events)}"), by)

    def ack(self, by: str = builders.EXECUTOR, **changes: Any) -> Ruling:
        return self.do(intents.SendAck(builders.ack_body(self.known, **changes)), by)

    def result(self, by: str = builders.EXECUTOR, **changes: Any) -> Ruling:
        return self.do(intents.SendResult(builders.result_body(self.known, **changes)), by)

    def verdict(self, decision: str = "approve", by: str = builders.REVIEWER, **changes: Any) -> Ruling:
        return self.do(intents.SendVerdict(builders.verdict_body(self.known, decision, **changes)), by)

    def to_delivered(self) -> Pure:
        self.create()
        self.dispatch()
        self.ack()
        self.result()
        return self
