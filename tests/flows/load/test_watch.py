"""The look at the machine beside a run: it goes on whatever the server does."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from flows.load import machine
from flows.load.watch import Watch


@pytest.mark.skipif(not machine.is_known(), reason="there is no /proc")
def test_a_server_that_does_not_answer_hides_nothing_of_the_machine(tmp_path: Path) -> None:
    """Else a stall as long as a short run would leave its gates without figures: INVALID instead of failed."""
    begun = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        watch = Watch(tmp_path, address, os.getpid(), lambda: int((time.monotonic() - begun) * 1e6), "")
        watch.start()
        while sum(name == "foreign_cpu" for _, name, _ in list(watch.rows)) < 2 and time.monotonic() < begun + 4:
            time.sleep(0.05)
    watch.stop()
    assert watch.mean("foreign_cpu", 0, 4_000_000) is not None
    assert sum(name == "foreign_cpu" for _, name, _ in watch.rows) >= 2
