"""Load runs as flows: named states, a bar that moves, a page with the verdicts."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from flows.server import PrefectServer
from flows.workspace import Workspace, using
from tests.flows.load.conftest import LENIENT, Loaded

pytestmark = [pytest.mark.slow, pytest.mark.prefect]


def call(loaded: Loaded, name: str, **parameters: Any) -> Any:
    from flows.load import deployed

    async def run() -> Any:
        workspace = Workspace.open(loaded.settings)
        with using(workspace):
            state = await getattr(deployed, name)(**parameters, gates=LENIENT, return_state=True)
        workspace.store.close()
        return state

    return asyncio.run(run())


def artifacts(server: PrefectServer, key: str) -> list[dict[str, Any]]:
    wanted = {"artifacts": {"key": {"any_": [key]}}}
    found: list[dict[str, Any]] = httpx.post(f"{server.api_url}/artifacts/filter", json=wanted).json()
    return found


def test_a_run_ends_in_a_named_state_with_a_page_of_its_verdicts(loaded: Loaded, on_prefect: PrefectServer) -> None:
    wishes = {"duration": "1.5s", "streams": 2, "read_rate": 20.0, "write_rate": 5.0}
    state = call(loaded, "soak", **wishes, thresholds=("read_p95<3000", "write_p95<3000"))
    assert (state.name, state.type.value) == ("Passed", "COMPLETED"), state.message
    broken = call(loaded, "stress", **wishes, readers=2, deciders=2, thresholds=("read_p95<0.001",))
    assert (broken.name, broken.type.value) == ("ThresholdBroken", "FAILED")
    assert "read_p95<0.001" in broken.message
    assert "read" in artifacts(on_prefect, "load-soak")[0]["data"]
    assert artifacts(on_prefect, "load-soak-progress")[0]["data"] == 100.0


def test_what_cannot_be_carried_out_is_refused(loaded: Loaded, on_prefect: PrefectServer) -> None:
    state = call(loaded, "soak", base_url="http://example.org")
    assert (state.name, state.type.value) == ("Refused", "FAILED")
    assert "is not this machine" in state.message
    assert call(loaded, "flood", sizes="huge").name == "Refused"
