"""No sequence of messages, honest or hostile, comes to `approved` around the gate: judged from the log alone."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from audit.verify import verify
from ssot import diff, fidelity, intents, replay
from ssot.store import Refused
from ssot.task import review_digest
from tests import builders
from tests.builders import BOTH, Ticks, Walk, a_store, operation

POLICIES: dict[str, dict[str, Any]] = {
    "none": {},
    "two": {"quorum": 2, "approvers": ["alice", "bob", "eve", "ed"]},
    "low": {"human_gate": False, "low_risk": ["docs/**"], "quorum": 2},
    "eyes": {"four_eyes": True, "require_reading": True, "require_run": True},
    "late": {"quorum": 2, "decision_deadline_s": 60, "reminders_s": [30], "deadline_outcome": "expired"},
}
PEOPLE = ("alice", "bob", "carol")
AGENTS = ("eve", "ed", "mallory")
"""Agents that also hold an approver's and a reviewer's token, and try everything."""
anybody = st.sampled_from(PEOPLE + AGENTS)
behalf = st.sampled_from([None, None, None, *PEOPLE, *AGENTS])
tasks = st.sampled_from(sorted(POLICIES))


class Floor(RuleBasedStateMachine):
    """One workspace; a task in each project; people, agents that are honest, and agents that are not."""

    @initialize()
    def begin(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="kircerta-floor-"))
        self.write_projects()
        self.ticks = Ticks()
        self.store = a_store(self.home, ticks=self.ticks, max_rejects=2)
        for name in POLICIES:
            self.walk(name).do(builders.create(metadata={} if name == "none" else {"project": name}), "carol")
        self.dispatches = 0

    def write_projects(self, **changes: Any) -> None:
        tables = {name: {**policy, **changes} for name, policy in POLICIES.items() if name != "none"}
        text = "".join(
            f"[project.{name}.policy]\n" + "".join(f"{key} = {_toml(value)}\n" for key, value in policy.items())
            for name, policy in tables.items()
        )
        builders.write_projects(self.home, text)

    def walk(self, name: str) -> Walk:
        return Walk(self.store, name)

    def try_it(self, name: str, intent: intents.Intent, actor: str, for_whom: str | None = None) -> None:
        with suppress(Refused):
            self.store.commit(name, intent, actor=actor, on_behalf_of=for_whom)

    # ------------------------------------------------------------------------------------------- messages

    @rule(name=tasks, actor=anybody)
    def dispatch(self, name: str, actor: str) -> None:
        self.dispatches += 1
        self.try_it(name, intents.Dispatch(f"d-{self.dispatches}"), actor)

    @rule(name=tasks, actor=anybody, for_whom=behalf, wrong=st.sampled_from([{}, {}, {"echo": ()}, {"scope": ("x",)}]))
    def ack(self, name: str, actor: str, for_whom: str | None, wrong: dict[str, Any]) -> None:
        with suppress(AssertionError):  # never dispatched: there is nothing to echo
            body = builders.ack_body(self.store.task(name), **wrong)
            self.try_it(name, intents.SendAck(body), actor, for_whom)

    @rule(name=tasks, actor=anybody, data=st.data())
    def result(self, name: str, actor: str, data: st.DataObject) -> None:
        changes = data.draw(st.sampled_from(RESULTS))
        with suppress(AssertionError):
            self.try_it(name, intents.SendResult(builders.result_body(self.store.task(name), **changes)), actor)

    @rule(name=tasks, actor=anybody, for_whom=behalf, data=st.data())
    def verdict(self, name: str, actor: str, for_whom: str | None, data: st.DataObject) -> None:
        changes = data.draw(st.sampled_from(VERDICTS))
        with suppress(AssertionError):
            body = builders.verdict_body(self.store.task(name), **changes)
            self.try_it(name, intents.SendVerdict(body), actor, for_whom)

    @rule(name=tasks, agents=st.permutations(AGENTS), path=st.sampled_from(["docs/a.md", "src/a.py"]))
    def honest_attempt(self, name: str, agents: list[str], path: str) -> None:
        for one in self.store.open_attempts():
            if one.task_id == name:
                self.try_it(name, intents.EndAttempt(one.dispatch_id, "orphaned"), "watchdog")
        self.try_it(name, intents.Unlock("again"), "bob")
        self.dispatch(name, "carol")
        self.ack(name, agents[0], None, {})
        with suppress(AssertionError):
            task = self.store.task(name)
            log = (operation(1, target=path, criterion_refs=BOTH), operation(2, action="run", target="make"))
            shown = {"work_log": log, "diff_snapshot": builders.snapshot(builders.diff_text(path))}
            self.try_it(name, intents.SendResult(builders.result_body(task, **shown)), agents[0])
            self.try_it(name, intents.SendVerdict(builders.verdict_body(task)), agents[1])

    # ------------------------------------------------------------------------------------------ decisions

    @rule(name=tasks, actor=anybody, for_whom=behalf, reason=st.sampled_from(["read", ""]), given=st.integers(0, 2))
    def approve(self, name: str, actor: str, for_whom: str | None, reason: str, given: int) -> None:
        current = review_digest(self.store.task(name))
        digest = (None, current, "sha256:" + "0" * 64)[given]
        self.try_it(name, intents.Approve(reason, digest), actor, for_whom)

    @rule(name=tasks, agents=st.permutations(AGENTS), people=st.permutations(PEOPLE))
    def honest_round(self, name: str, agents: list[str], people: list[str]) -> None:
        self.honest_attempt(name, agents, "src/a.py")
        self.everybody_approves(name, people)

    @rule(name=tasks, people=st.permutations(PEOPLE))
    def everybody_approves(self, name: str, people: list[str]) -> None:
        for actor in people:
            self.try_it(name, intents.Approve("read", review_digest(self.store.task(name))), actor)

    @rule(name=tasks, actor=anybody)
    def reject(self, name: str, actor: str) -> None:
        self.try_it(name, intents.Reject("no"), actor)

    @rule(name=tasks, actor=anybody)
    def unlock(self, name: str, actor: str) -> None:
        self.try_it(name, intents.Unlock("again"), actor)

    @rule(name=tasks, ahead=st.sampled_from([1.0, 40.0, 90.0]))
    def watchdog(self, name: str, ahead: float) -> None:
        self.ticks.ahead(ahead)
        due = self.store.view.due.get(name)
        for finding in due.findings(self.ticks.now) if due else ():
            self.try_it(name, finding, "watchdog")
        for one in self.store.open_attempts():
            if one.task_id == name and one.stage == "dispatched":
                self.try_it(name, intents.TimeOutAck(one.dispatch_id), "watchdog")

    # ------------------------------------------------------------------------------------- the world around

    @rule(name=tasks, text=st.sampled_from(["one", "two"]))
    def edit(self, name: str, text: str) -> None:
        builders.drop(self.home, name, {**builders.read(self.home, name), "request_text": text})
        self.store.scan()

    @rule(name=tasks)
    def forge(self, name: str) -> None:
        document = builders.read(self.home, name)
        if document["attempts"]:
            said = {"decision": "approved", "by": "eve", "at": document["created_at"], "reason": "", "issues": []}
            document["attempts"][-1]["decision"] = {**said, "review_digest": None}
            builders.drop(self.home, name, document)
            self.store.scan()
            builders.task_path(self.home, name).unlink()
            self.store.scan()

    @rule(changes=st.sampled_from([{}, {"quorum": 1, "approvers": []}, {"human_gate": False, "low_risk": ["**"]}]))
    def loosen_the_projects(self, changes: dict[str, Any]) -> None:
        self.write_projects(**changes)

    @rule(checkpoint=st.booleans(), reboot=st.booleans())
    def restart(self, checkpoint: bool, reboot: bool) -> None:
        if checkpoint:
            self.store.save_checkpoint()
        self.store.close()
        if reboot:
            (self.home / "audit" / ".lock").write_bytes(b"")
        self.store = a_store(self.home, ticks=self.ticks, max_rejects=2)

    # -------------------------------------------------------------------------------------------------- laws

    @invariant()
    def whoever_is_approved_came_through_the_gate(self) -> None:
        for name in POLICIES:
            document = builders.read(self.home, name)
            for attempt in document["attempts"]:
                if attempt["decision"] and attempt["decision"]["decision"] == "approved":
                    check_approved(document, attempt)

    def teardown(self) -> None:
        if not hasattr(self, "store"):
            return
        self.store.close()
        assert verify(self.home / "audit").problem is None
        assert replay.check(self.home).ok
        assert fidelity.audit(self.home).ok
        shutil.rmtree(self.home)


def check_approved(document: dict[str, Any], attempt: dict[str, Any]) -> None:
    """What must be there, read from the plain document; nothing of the rules is used."""
    dispatch, ack, result, verdict = (attempt[name] for name in ("dispatch", "ack", "result", "verdict"))
    told = [{"criterion_ref": one["id"], "text": one["text"]} for one in dispatch["acceptance_criteria"]]
    assert ack["echo"] == told
    assert (ack["scope"], ack["issues"]) == (dispatch["scope"], dispatch["issues"])
    assert result["work_log"]
    assert result["by"] == ack["by"]
    if result["outcome"] == "completed":
        shown = {ref for operation in result["work_log"] for ref in operation["criterion_refs"]}
        assert shown >= {one["id"] for one in dispatch["acceptance_criteria"]}
    assert not who(verdict) & who(ack), "a verdict by another principal"
    policy, decision = dispatch.get("policy"), attempt["decision"]
    if decision["by"].startswith("policy:"):
        check_low_risk(policy, attempt)
        return
    given = attempt["approvals"] if policy and policy["quorum"] > 1 else [decision]
    given = [one for one in given if one["review_digest"] == decision["review_digest"]]
    deciders = [who(one) for one in given]
    assert len(deciders) >= (policy["quorum"] if policy else 1)
    assert sum(map(len, deciders)) == len(set().union(*deciders)), "each person counts once"
    agents = set().union(*(who(a[part]) for a in document["attempts"] for part in PARTS if a[part]))
    assert not set().union(*deciders) & agents, "nobody decides their own work"
    if policy and policy["approvers"]:
        assert {one["by"] for one in given} <= set(policy["approvers"])
    if policy and policy["four_eyes"]:
        asked = {a["dispatch"]["by"] for a in document["attempts"] if a["dispatch"]} | {"carol"}
        assert not set().union(*deciders) & asked


PARTS = ("ack", "result", "verdict")


def who(part: dict[str, Any]) -> set[str]:
    return {part["by"], part.get("on_behalf_of", part["by"])}


def check_low_risk(policy: dict[str, Any], attempt: dict[str, Any]) -> None:
    result, verdict = attempt["result"], attempt["verdict"]
    assert attempt["decision"]["by"] == f"policy:{policy['project']}"
    assert policy["human_gate"] is False
    assert (verdict["decision"], verdict["issues"]) == ("approve", [])
    assert verdict["summary"].strip()
    touched = [*diff.paths(result["diff_snapshot"]["text"])]
    touched += [operation["target"] for operation in result["work_log"] if operation["action"] == "edit"]
    assert touched
    assert all(diff.in_scope(diff.normalise(path), policy["low_risk"]) for path in touched)


def _toml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)


_DOCS = builders.snapshot(builders.diff_text("docs/a.md"))
RESULTS: list[dict[str, Any]] = [
    {},
    {"work_log": (operation(1),)},
    {"work_log": ()},
    {"outcome": "failed"},
    {"diff_snapshot": _DOCS, "work_log": (operation(1, target="docs/a.md", criterion_refs=BOTH),)},
    {"diff_snapshot": _DOCS, "work_log": (operation(1, target="docs/../src/a.py", criterion_refs=BOTH),)},
    {"diff_snapshot": None, "work_log": (operation(1, action="note", target="", criterion_refs=BOTH),)},
]
VERDICTS: list[dict[str, Any]] = [
    {},
    {"summary": ""},
    {"issues": (builders.issue(1, severity="blocker"),)},
    {"issues": (builders.issue(1, severity="minor"),)},
    {"decision": "reject"},
]

_QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


class TestAFewFloors(Floor.TestCase):  # type: ignore[misc, valid-type]
    settings = settings(max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=_QUIET)


@pytest.mark.slow
class TestManyFloors(Floor.TestCase):  # type: ignore[misc, valid-type]
    settings = settings(max_examples=80, stateful_step_count=50, deadline=None, suppress_health_check=_QUIET)
