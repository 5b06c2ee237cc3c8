"""The calibration as a flow: a named end and a page."""

from __future__ import annotations

import asyncio

import pytest

from flows.workspace import Workspace, using
from ssot.runs import Runs

pytestmark = [pytest.mark.slow, pytest.mark.prefect]


@pytest.mark.parametrize(
    ("reviewer", "limit", "name"),
    [("replay", 1.0, "Passed"), ("replay", 0.2, "ThresholdBroken"), ("nobody", 1.0, "Refused")],
)
def test_a_run_ends_in_a_named_state(
    on_prefect: object, workspace: Workspace, reviewer: str, limit: float, name: str
) -> None:
    from flows.calibration.deployed import calibrate_reviewer

    with using(workspace):
        state = asyncio.run(calibrate_reviewer(reviewer, max_miss=limit, return_state=True))
    assert state.name == name
    assert len(list(Runs(workspace.store).all())) == (name != "Refused")
