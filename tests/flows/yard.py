"""A project with a checkout, and agents that are a few lines of Python: what tests of sites are made from."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.outcome import Outcome
from flows.pipeline import Order, take_to_gate
from flows.workspace import Workspace
from ssot.intents import Create
from ssot.task import Attempt, Criterion, Result

_BEGIN = """
import json, os, subprocess, sys, time
job = json.loads(sys.stdin.buffer.read())
told = job["dispatch"]
def say(kind, **more):
    print(json.dumps({"type": kind, "dispatch_id": told["dispatch_id"], **more}), flush=True)
def op(number, action, target="", exit_code=None):
    return {"op_id": f"OP-{number}", "at": "2026-01-31T09:00:00Z", "action": action, "target": target,
            "detail": "", "exit_code": exit_code, "criterion_refs": ["AC-1"]}
def write(path, text):
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    open(path, "w").write(text)
def run_for_me(*words):
    return subprocess.run(["run-for-me", *words], capture_output=True, text=True)
"""
EXECUTOR = (
    _BEGIN
    + """
say("ack", echo=[{"criterion_ref": one["id"], "text": one["text"]} for one in told["acceptance_criteria"]],
    scope=told["scope"], issues=told["issues"])
def result(*work_log, diff=None, outcome="completed", summary=""):
    import hashlib
    snapshot = diff if diff is None else {"format": "unified", "base": "", "text": diff,
                                          "sha256": hashlib.sha256(diff.encode()).hexdigest()}
    say("result", outcome=outcome, summary=summary, work_log=list(work_log), diff_snapshot=snapshot)
"""
)
REVIEWER = (
    _BEGIN
    + """
def verdict(summary="read", decision="approve", issues=()):
    say("verdict", decision=decision, summary=summary, issues=list(issues))
"""
)
EDITS = 'write("src/a.py", "two\\n")\n'
HONEST = EDITS + 'result(op(1, "edit", "src/a.py"))\n'
READS = "verdict()\n"


def git(folder: Path, *arguments: str) -> str:
    named = ("-c", "user.name=n", "-c", "user.email=n@example.org", "-c", "init.defaultBranch=main")
    done = subprocess.run(["git", *named, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@dataclass
class Yard:
    """A workspace whose project `shop` has a checkout, with agents that a test writes."""

    workspace: Workspace
    checkout: Path

    @property
    def home(self) -> Path:
        return self.workspace.home

    def agents(self, executor: str = HONEST, reviewer: str = READS, **confinement: Any) -> None:
        """Say what the two agents do, each a script; the words of `Confinement` hold for both."""
        lines = []
        for role, begin, script in (("executor", EXECUTOR, executor), ("reviewer", REVIEWER, reviewer)):
            command = [sys.executable, "-I", "-S", "-c", begin + script]
            lines += [
                f"[{role}.own]",
                f"command = {json.dumps(command)}",
                f'principal = "own-{role}"',
                'env = {A = "1"}',
            ]
            lines += [f"{key} = {json.dumps(value)}" for key, value in confinement.items()]
        (self.home / "config" / "agents.toml").write_text("\n".join(lines) + "\n")

    def add(self, task_id: str = "T-1", check: str | tuple[str, ...] | None = None, scope: tuple[str, ...] = ()) -> str:
        criteria = (Criterion(id="AC-1", text="It works.", check=check),)
        wish = Create("Make it work.", acceptance_criteria=criteria, scope=scope, metadata={"project": "shop"})
        self.workspace.store.commit(task_id, wish, actor="alice")
        return task_id

    async def take(self, task_id: str = "T-1") -> Outcome:
        return await take_to_gate(self.workspace, task_id, Order("own", "own"))

    def run(self, task_id: str = "T-1") -> Outcome:
        return asyncio.run(self.take(task_id))

    def attempt(self, task_id: str = "T-1") -> Attempt:
        found = self.workspace.store.task(task_id).current
        assert found is not None
        return found

    def result(self, task_id: str = "T-1") -> Result:
        found = self.attempt(task_id).result
        assert found is not None, self.refusals(task_id)
        return found

    def refusals(self, task_id: str = "T-1") -> list[dict[str, Any]]:
        """What was refused, and why an attempt ended."""
        kinds = ("result_refused", "scope_violation", "verdict_refused", "mutation_detected", "attempt_ended")
        events = self.workspace.store.events()
        return [{"type": one.type, **one.data} for one in events if one.subject == task_id and one.type in kinds]


def a_yard(open_workspace: Callable[..., Workspace], folder: Path, **settings: Any) -> Yard:
    """The checkout has one commit: src/a.py, old.txt and a test."""
    checkout = folder / "checkout"
    (checkout / "src").mkdir(parents=True)
    git(checkout, "init", "--quiet")
    (checkout / "src" / "a.py").write_text("one\n")
    (checkout / "old.txt").write_text("old\n")
    (checkout / "check.sh").write_text("grep -q two src/a.py && echo it works\n")
    git(checkout, "add", ".")
    git(checkout, "commit", "--quiet", "--message", "first")
    workspace = open_workspace(
        **{"execution_timeout_s": 60.0, "review_timeout_s": 60.0, "ack_timeout_s": 30.0, **settings}
    )
    (workspace.home / "config").mkdir()
    (workspace.home / "config" / "projects.toml").write_text(f'[project.shop]\ncheckout = "{checkout}"\n')
    yard = Yard(workspace, checkout)
    yard.agents()
    return yard
