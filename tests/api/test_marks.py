"""What is decided over HTTP bears the server's mark; what is written around the server does not."""

from __future__ import annotations

from pathlib import Path

from audit.mac import DECISIONS, MacKey
from ssot.store import Store
from tests.api.scene import SECRET, api, at_stage, bring_to, event_types, post
from tests.builders import events


async def test_decisions_over_http_bear_the_servers_mark(home: Path, store: Store) -> None:
    at_stage(store, "needs_review")
    async with api(home, max_rejects=1) as client:
        for move in ("reject", "unlock"):
            assert (await post(client, move)).status_code == 200
        store.refresh()
        bring_to(store, "needs_review", dispatch_id="d-2")
        assert (await post(client, "approve", {"reason": "fine"})).status_code == 200
    found = [event for event in events(home) if event.type in DECISIONS]
    assert [event.type for event in found] == ["task_rejected", "task_unlocked", "task_approved"]
    assert all(MacKey.derived(SECRET).holds(event) for event in found)
    store.refresh()
    assert event_types(store)[-1] == "task_approved"
