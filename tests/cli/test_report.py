"""`kircerta report`."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.cli.conftest import Run
from tests.reports import data


def test_a_report_is_written_and_its_verdicts_printed(run: Run, home: Path) -> None:
    data.latency_run(home)
    made = run("report", "stress-1")
    assert made.code == 0
    lines = made.out.splitlines()
    assert lines[-1] == str(home / "reports" / "runs" / "stress-1" / "report.html")
    assert any(line.split() == ["ok", "read_p95<200", "95"] for line in lines)
    assert Path(lines[-1]).read_text().startswith("<!doctype html>")
    assert Path(lines[-1]).with_suffix(".ipynb").is_file()


def test_a_run_that_is_not_there_is_no_wrong_use(run: Run, home: Path) -> None:
    """As of a task that is not there: 1. What can be no run's id is wrong use, as what can be no task's."""
    for arguments in (("nope",), ("acceptance",)):
        assert run("report", *arguments).code == run("task", "show", "NO-SUCH").code == 1, arguments
    for arguments in (("../x",), ("audit", "--against", "x"), ()):
        assert run("report", *arguments).code == 2, arguments
    assert run("task", "show", "../x").code == 2
    assert "there are no runs yet" in run("report", "nope").err
    assert "`kircerta accept` makes one" in run("report", "acceptance").err


def test_runs_are_compared_with_those_that_are_named_and_machines_get_json(run: Run, home: Path) -> None:
    data.latency_run(home, "a")
    data.latency_run(home, "b")
    told = run("report", "b", "--against", "a", "--json").json
    assert (told["title"], told["ok"], told["address"]) == ("Comparison", True, "reports/runs/b/compare.html")
    assert Path(told["html"]) == home / told["address"]
    assert {one["ok"] for one in told["verdicts"]} == {None}
    assert "too few runs" in told["verdicts"][0]["value"]
    assert run("report", "b", "--against", "c").code == 1


@pytest.mark.slow
def test_ctrl_c_ends_the_kernel_and_leaves_nothing_half_written(home: Path) -> None:
    data.a_log(home)
    command = [sys.executable, "-m", "cli.main", "report", "audit"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        kernels = kernels_of(process.pid)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 130, said
    assert b"Traceback" not in said
    assert psutil.wait_procs(kernels, timeout=10)[1] == []
    assert not (home / "reports").exists()


def kernels_of(pid: int) -> list[psutil.Process]:
    """The kernels that a process started, as soon as there is one."""
    ends = time.monotonic() + 30
    while time.monotonic() < ends:
        found = [one for one in psutil.Process(pid).children(recursive=True) if "ipykernel_launcher" in one.cmdline()]
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError("no kernel was started")
