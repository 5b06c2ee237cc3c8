"""The cage: what a program inside can see, write and reach, and that there is no way back out."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flows.agents import cage

LIMITS = {"cpu_s": 20, "memory_bytes": 2 << 30, "file_bytes": 1 << 20, "files": 256}


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str
    in_force: dict[str, Any]


def caged(home: Path, script: str, **more: Any) -> Ran:
    """Run a shell script in a cage around `home`/tree, with everything else of `home` hidden."""
    read, write = os.pipe()
    spec = {
        "write": [str(home / "tree")],
        "hide": [str(home)],
        "network": False,
        "tmp_bytes": 1 << 20,
        "report": write,
        "limits": LIMITS,
        **more,
    }
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", cage.__file__, json.dumps(spec), "sh", "-c", script],
            capture_output=True,
            text=True,
            pass_fds=(write,),
            timeout=60,
            check=False,
        )
    finally:
        os.close(write)
    with open(read) as report:
        told = report.read()
    return Ran(done.returncode, done.stdout, done.stderr, json.loads(told) if told else {})


def namespaces_are_allowed() -> bool:
    done = subprocess.run(["unshare", "-Urmpn", "--fork", "true"], capture_output=True, check=False)
    return done.returncode == 0


needs_namespaces = pytest.mark.skipif(not namespaces_are_allowed(), reason="this system allows no user namespaces")


@pytest.fixture
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    (folder / "tree").mkdir()
    (folder / "tree" / "a.txt").write_text("work")
    (folder / "key").write_text("the secret")
    return folder


@needs_namespaces
def test_only_the_tree_and_a_private_tmp_can_be_written(home: Path, tmp_path: Path) -> None:
    elsewhere = Path(__file__).parent
    ran = caged(
        home,
        f"echo new > {home}/tree/b.txt && echo tree; touch /tmp/x-of-cage-{os.getpid()} && echo tmp; "
        f"touch {elsewhere}/planted || echo refused; touch /etc/planted || echo refused",
    )
    assert ran.out.split() == ["tree", "tmp", "refused", "refused"]
    assert (home / "tree" / "b.txt").read_text() == "new\n"
    assert not Path(f"/tmp/x-of-cage-{os.getpid()}").exists()
    assert ran.in_force["missing"] == []


@needs_namespaces
def test_what_is_hidden_cannot_be_read(home: Path) -> None:
    ran = caged(home, f"cat {home}/key; ls {home}; cat {home}/tree/a.txt")
    assert "the secret" not in ran.out + ran.err
    assert ran.out.split() == ["tree", "work"]


@needs_namespaces
def test_the_mounts_cannot_be_taken_back(home: Path) -> None:
    ran = caged(
        home, f"umount {home}; unshare -Urm sh -c 'umount {home}; mount -o remount,rw /; cat {home}/key'; echo end"
    )
    assert "the secret" not in ran.out + ran.err
    assert "end" in ran.out


@needs_namespaces
def test_processes_outside_are_neither_seen_nor_reached(home: Path) -> None:
    ran = caged(
        home,
        f"ls /proc | grep -c '^[0-9]'; kill -0 {os.getpid()} || echo unreachable; cat /proc/{os.getpid()}/environ",
    )
    assert int(ran.out.split()[0]) < 10
    assert "unreachable" in ran.out


@needs_namespaces
def test_there_is_no_network_unless_it_is_asked_for(home: Path) -> None:
    reach = 'python3 -c \'import socket; socket.create_connection(("127.0.0.1", {port}), 2); print("reached")\''
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        script = reach.format(port=listening.getsockname()[1])
        assert "reached" not in caged(home, script).out
        assert "reached" in caged(home, script, network=True).out


@needs_namespaces
def test_nothing_outlives_the_program(home: Path) -> None:
    started = time.monotonic()
    ran = caged(home, f"(setsid sh -c 'sleep 1; echo late > {home}/tree/late' </dev/null >/dev/null 2>&1 &) ; exit 7")
    assert ran.code == 7
    assert time.monotonic() - started < 30
    time.sleep(1.2)
    assert not (home / "tree" / "late").exists()


def test_a_file_cannot_grow_over_its_limit(home: Path) -> None:
    ran = caged(home, f"head -c 3000000 /dev/zero > {home}/tree/big; stat -c %s {home}/tree/big")
    assert int(ran.out.split()[-1]) <= LIMITS["file_bytes"]


@needs_namespaces
@pytest.mark.parametrize("where", ["/tmp", "/dev/shm"])
def test_what_lies_in_memory_can_be_filled_only_so_far(home: Path, where: str) -> None:
    fill = f"for n in 1 2 3; do head -c 900000 /dev/zero > {where}/$n; done; cat {where}/* | wc -c"
    assert 900_000 <= int(caged(home, fill).out) <= 1 << 20


def test_memory_and_time_are_bounded(home: Path) -> None:
    hog = "python3 -c 'x = bytearray(3 << 30); print(len(x))'"
    assert caged(home, hog).code != 0
    begun = time.monotonic()
    spinning = caged(home, "python3 -c 'while True: pass'", limits={**LIMITS, "cpu_s": 1})
    assert spinning.code != 0
    assert time.monotonic() - begun < 20


def test_what_is_in_force_is_told(home: Path) -> None:
    told = caged(home, "true").in_force
    assert told["limits"] == LIMITS
    assert told["namespaces"] or told["missing"], "either there are namespaces, or it says why not"


def test_a_program_that_does_not_exist_is_127(home: Path) -> None:
    read, write = os.pipe()
    spec = {"write": [], "hide": [], "network": False, "tmp_bytes": 1 << 20, "report": write, "limits": {}}
    try:
        command = [sys.executable, "-I", "-S", cage.__file__, json.dumps(spec), "no-such-program"]
        done = subprocess.run(command, capture_output=True, pass_fds=(write,), check=False)
    finally:
        os.close(read)
        os.close(write)
    assert done.returncode == 127
    assert b"no-such-program" in done.stderr
