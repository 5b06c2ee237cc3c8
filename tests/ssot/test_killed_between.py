"""Who dies between any two steps of an attempt leaves it where it was: each step is a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from audit.verify import verify
from ssot import fidelity, replay
from ssot.store import Store
from tests import builders
from tests.builders import a_store, projects_file
from tests.ssot import dying

STEPS: dict[str, list[str]] = {
    "quorum": ["dispatch", "ack", "result", "verdict reject", "reject carol", "unlock", "dispatch", "ack", "result",
               "verdict", "approve alice", "approve alice", "approve bob"],
    "low risk": ["dispatch", "ack", "result", "verdict"],
}  # fmt: skip
STAGES: dict[str, list[str]] = {
    "quorum": ["dispatched", "acknowledged", "delivered", "needs_review", "rejected", "rejected", "dispatched",
               "acknowledged", "delivered", "needs_review", "needs_review", "needs_review", "approved"],
    "low risk": ["dispatched", "acknowledged", "delivered", "approved"],
}  # fmt: skip
POLICIES: dict[str, dict[str, Any]] = dying.POLICIES
CHILD = (
    "import os, signal, sys\nfrom pathlib import Path\nfrom tests.builders import Walk\nfrom tests.ssot import dying\n"
    "walk = Walk(dying.open_store(Path(sys.argv[1])))\nstep, _, word = sys.argv[2].partition(' ')\n"
    "try:\n    getattr(walk, step)(*([word] if word else []))\nfinally:\n    os.kill(os.getpid(), signal.SIGKILL)\n"
)


def take(home: Path, step: str) -> None:
    """One step, in a process that is killed right behind it."""
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    ran = subprocess.run([sys.executable, "-c", CHILD, str(home), step], env=environment, cwd=root, check=False)
    assert ran.returncode == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize("policy", STEPS)
@pytest.mark.parametrize("reboot", [False, True])
def test_a_kill_between_any_two_steps_loses_nothing(tmp_path: Path, policy: str, reboot: bool) -> None:
    projects_file(tmp_path, **POLICIES[policy])
    store = a_store(tmp_path)
    builders.Walk(store).create(metadata={"project": "shop"})
    store.close()
    for step, stage in zip(STEPS[policy], STAGES[policy], strict=True):
        take(tmp_path, step)
        if reboot:
            (tmp_path / "audit" / ".lock").write_bytes(b"")
            builders.task_path(tmp_path, "T-1").unlink()
        store = Store.open(tmp_path, source="kircerta/test")
        assert store.view.entries["T-1"].stage == stage, step
        store.close()
    assert verify(tmp_path / "audit").problem is None
    assert replay.check(tmp_path).ok
    assert fidelity.audit(tmp_path).ok
    assert builders.types(tmp_path, "T-1").count("task_approved") == 1
