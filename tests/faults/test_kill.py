"""kill -9 on writers at random moments."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import world
from tests.faults.killing import kill_writers


@pytest.mark.slow
def test_no_acknowledged_commit_is_lost_when_writers_are_killed_at_random_moments(tmp_path: Path) -> None:
    drill = kill_writers(tmp_path, kills=60, seed=1, promises=201)
    assert drill.died == []
    assert len(drill.promises) > 200
    world.settle(tmp_path)
    assert world.problems(tmp_path, drill.promises) == []
