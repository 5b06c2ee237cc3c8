"""A log that an older version wrote leads to the same documents for good."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from audit.event import KINDS
from audit.verify import verify
from ssot import fidelity, replay
from ssot.task import document_digest
from tests import builders
from tests.builders import Ticks, Walk, a_store

OLD = Path(__file__).parent / "golden" / "old-log"


def test_a_log_from_before_policies_replays_byte_for_byte_and_goes_on(tmp_path: Path) -> None:
    (tmp_path / "audit").mkdir()
    shutil.copy(OLD / "events.jsonl", tmp_path / "audit")
    store = a_store(tmp_path, ticks=Ticks(builders.START_S + 86400))
    last = {
        e.subject: e for e in builders.events(tmp_path) if e.subject and (k := KINDS.get(e.type)) and k.changes_task
    }
    assert len(last) == 5
    for task_id, event in last.items():
        raw = builders.task_path(tmp_path, str(task_id)).read_bytes()
        assert document_digest(raw) == event.data["document_sha256"]
        assert json.loads(raw)["seq"] == event.seq
    assert verify(tmp_path / "audit").problem is None
    assert replay.check(tmp_path).ok
    assert fidelity.audit(tmp_path).ok
    assert Walk(store, "T-2").dispatch().task.policy is None
