"""`kircerta up` as people use it: started, used with the commands that it prints, stopped, started again, killed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import httpx
import orjson
import psutil
import pytest

from flows.server import free_port

pytestmark = [pytest.mark.slow, pytest.mark.prefect, pytest.mark.timeout(300)]
READY_S = 120.0


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.05)


@dataclass
class Machine:
    """A folder, two ports, and the `up` that runs there."""

    home: Path
    port: int = field(default_factory=free_port)
    prefect_port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None
    output: IO[bytes] | None = None
    started: list[psutil.Process] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("KIRCERTA_", "PREFECT_"))}
        return {**kept, "KIRCERTA_HOME": str(self.home), "PATH": f"{Path(sys.executable).parent}:{kept['PATH']}"}

    @property
    def log(self) -> Path:
        return self.home.parent / "up.log"

    def up(self) -> str:
        """Start it; gives what it printed once it is ready."""
        command = [sys.executable, "-m", "cli.main", "up", "--port", str(self.port)]
        self.output = self.log.open("wb")
        self.process = subprocess.Popen(
            [*command, "--prefect-port", str(self.prefect_port)],
            stdout=self.output,
            stderr=self.output,
            env=self.environment,
        )
        wait_for(self.is_ready, READY_S)
        self.started = psutil.Process(self.process.pid).children(recursive=True)
        return self.log.read_text()

    def is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        return "Ctrl-C stops everything" in self.log.read_text()

    def stop(self, number: int) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(30)
        assert self.output is not None
        self.output.close()
        return code

    def left(self) -> list[psutil.Process]:
        return [one for one in self.started if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]

    def shell(self, script: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            capture_output=True,
            text=True,
            env=self.environment,
            check=False,
            timeout=60,
        )

    def kircerta(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "cli.main", *arguments],
            capture_output=True,
            text=True,
            env=self.environment,
            check=False,
            timeout=60,
        )


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path / "ws")
    yield machine
    if machine.process is not None and machine.process.poll() is None:
        machine.process.kill()
        machine.process.wait()
    if machine.output is not None:
        machine.output.close()


def commands_of(printed: str) -> str:
    """The commands that `up` prints, as they stand."""
    return "\n".join(line[2:] for line in printed.splitlines() if re.match(r"  (export|kircerta|curl|  -d) ?", line))


def test_up_takes_examples_to_the_gate_its_own_words_decide_them_and_nothing_stays_behind(machine: Machine) -> None:
    printed = machine.up()
    page = httpx.get(f"http://127.0.0.1:{machine.port}/api/tasks").json()
    assert len(page["tasks"]) >= 5
    assert {row["status"] for row in page["tasks"]} == {"needs_review"}
    assert httpx.get(f"http://127.0.0.1:{machine.prefect_port}/api/health").status_code == 200

    script = commands_of(printed)
    assert "export KIRCERTA_TOKEN" in script
    done = machine.shell(script)
    assert done.returncode == 0, done.stderr + done.stdout
    log = (machine.home / "audit/events.jsonl").read_text()
    assert '"task_approved"' in log
    assert '"task_rejected"' in log
    rejected = next(orjson.loads(line) for line in log.splitlines() if '"task_rejected"' in line)["subject"]
    wait_for(lambda: at_second_gate(machine, rejected), 30)

    created = machine.kircerta("task", "create", "Say goodbye.", "--id", "T-1")
    assert created.returncode == 0
    served = machine.kircerta("dispatch", "T-1", "--json")
    assert served.returncode == 0, served.stderr
    assert orjson.loads(served.stdout)["served"] is True
    assert machine.kircerta("audit", "replay", "--check").returncode == 0
    assert machine.kircerta("doctor").returncode == 0

    assert machine.stop(signal.SIGINT) == 0
    assert machine.left() == []

    began = time.monotonic()
    again = machine.up()
    assert time.monotonic() - began < 30
    assert "\n  examples " not in again
    page = httpx.get(f"http://127.0.0.1:{machine.port}/api/tasks").json()
    assert {row["task_id"]: row["status"] for row in page["tasks"]}["T-1"] == "needs_review"

    killed = next(
        one for one in machine.started if "api" in one.cmdline() and "keeper.py" not in " ".join(one.cmdline())
    )
    killed.kill()
    wait_for(lambda: "API died (by SIGKILL" in machine.log.read_text(), 10)
    wait_for(lambda: is_answering(machine), 20)
    assert machine.process is not None
    machine.started = psutil.Process(machine.process.pid).children(recursive=True)

    machine.stop(signal.SIGKILL)
    wait_for(lambda: machine.left() == [], 10)


def at_second_gate(machine: Machine, task_id: str) -> bool:
    task = httpx.get(f"http://127.0.0.1:{machine.port}/api/tasks/{task_id}").json()
    return len(task["attempts"]) == 2 and task["status"] == "needs_review"


def is_answering(machine: Machine) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{machine.port}/healthz", timeout=1).status_code == 200
    except httpx.HTTPError:
        return False
