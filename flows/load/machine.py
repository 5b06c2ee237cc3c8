"""What /proc tells of processes and of the machine. Reads only; where there is no /proc it knows nothing."""

from __future__ import annotations

import os
import platform
import subprocess
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

_PROC: Final = Path("/proc")
_LISTENING: Final = "0A"
TICKS_A_S: Final = float(os.sysconf("SC_CLK_TCK"))
_DISTRIBUTIONS: Final = (
    "kircerta",
    "aiohttp",
    "uvloop",
    "fastapi",
    "uvicorn",
    "httptools",
    "pydantic",
    "orjson",
    "prefect",
    "pyarrow",
    "hdrhistogram",
)


@dataclass(frozen=True, slots=True)
class Running:
    """One process: its name, its parent, and the CPU it has used, in the kernel's ticks."""

    name: str
    parent: int
    ticks: int


@dataclass(frozen=True, slots=True)
class Glance:
    """The machine at one moment: ticks of all cores, those that were busy or stolen, and every process."""

    total: int
    busy: int
    stolen: int
    processes: dict[int, Running]


def is_known() -> bool:
    """Whether this machine tells anything."""
    return (_PROC / "stat").exists()


def glance() -> Glance | None:
    """The machine now; None where there is no /proc. Time in interrupts belongs to nobody: it is left out."""
    try:
        told = [int(part) for part in (_PROC / "stat").read_text().partition("\n")[0].split()[1:9]]
    except (OSError, ValueError):
        return None
    user, nice, system, _, _, _, _, stolen = told
    return Glance(sum(told), user + nice + system, stolen, processes())


def cores() -> int:
    """How many cores the whole machine has: /proc counts their ticks together."""
    return os.cpu_count() or 1


def processes() -> dict[int, Running]:
    """Every process that can be seen."""
    found = {}
    for pid in _pids():
        with suppress(OSError, ValueError, IndexError):
            found[pid] = _running(_PROC / str(pid))
    return found


def _pids() -> list[int]:
    try:
        return [int(name) for name in os.listdir(_PROC) if name.isdigit()]
    except OSError:
        return []


def _running(folder: Path) -> Running:
    head, _, told = (folder / "stat").read_text().rpartition(")")
    parts = told.split()
    return Running(head.partition("(")[2], int(parts[1]), int(parts[11]) + int(parts[12]))


def family(roots: Iterable[int], among: dict[int, Running]) -> set[int]:
    """Processes and everything that they started."""
    children: dict[int, list[int]] = {}
    for pid, one in among.items():
        children.setdefault(one.parent, []).append(pid)
    found: set[int] = set()
    open_ = [pid for pid in roots if pid in among]
    while open_:
        pid = open_.pop()
        if pid not in found:
            found.add(pid)
            open_ += children.get(pid, ())
    return found


def foreign_share(before: Glance, now: Glance, ours: set[int]) -> float:
    """The share of the machine that others used between two moments, or that was stolen from it."""
    total = max(1, now.total - before.total)
    own = sum(_used(before, now, pid) for pid in ours)
    return max(0.0, now.busy - before.busy - own + now.stolen - before.stolen) / total


def used_by_others(before: Glance, now: Glance, ours: set[int]) -> Counter[str]:
    """The ticks that others used between two moments, by the name of their program."""
    used: Counter[str] = Counter()
    for pid, one in now.processes.items():
        if pid not in ours and (ticks := _used(before, now, pid)) > 0:
            used[one.name] += ticks
    return used


def _used(before: Glance, now: Glance, pid: int) -> int:
    then, since = before.processes.get(pid), now.processes.get(pid)
    if since is None or (then is not None and then.name != since.name):
        return 0
    return since.ticks - (then.ticks if then is not None else 0)


def resident_bytes(pid: int) -> int | None:
    """The memory that a process holds."""
    with suppress(OSError, ValueError, IndexError):
        pages = int((_PROC / str(pid) / "statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    return None


def open_files(pid: int) -> int | None:
    """How many descriptors a process has open."""
    with suppress(OSError):
        return len(os.listdir(_PROC / str(pid) / "fd"))
    return None


def listener(port: int) -> int | None:
    """The process that listens on a port; None where it is somebody else's, or cannot be seen."""
    sockets = {f"socket:[{inode}]" for inode in _listening_inodes(port)}
    if not sockets:
        return None
    for pid in _pids():
        folder = _PROC / str(pid) / "fd"
        with suppress(OSError):
            if any(os.readlink(folder / name) in sockets for name in os.listdir(folder)):
                return pid
    return None


def _listening_inodes(port: int) -> set[str]:
    found = set()
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in (_PROC / "net" / table).read_text().splitlines()[1:]:
                parts = line.split()
                if parts[3] == _LISTENING and int(parts[1].rpartition(":")[2], 16) == port:
                    found.add(parts[9])
    return found


# ------------------------------------------------------------------------------------------ for the record


def described() -> dict[str, Any]:
    """The machine, as far as it matters for figures."""
    return {
        "system": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "load_average": list(os.getloadavg()),
    }


def _processor() -> str:
    with suppress(OSError):
        for line in (_PROC / "cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def versions() -> dict[str, str]:
    """What is installed here."""
    found = {"python": platform.python_version()}
    for name in _DISTRIBUTIONS:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def commit() -> tuple[str | None, bool | None]:
    """The git commit of the code that runs, and whether its tree differs from it; None where it is no checkout."""
    checkout = Path(__file__).parents[2]
    head = _git(checkout, "rev-parse", "HEAD")
    status = _git(checkout, "status", "--porcelain") if head is not None else None
    return head, bool(status) if status is not None else None


def _git(folder: Path, *arguments: str) -> str | None:
    if not (folder / ".git").exists():  # a folder above may be somebody else's
        return None
    try:
        command = ["git", "-C", str(folder), *arguments]
        run = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return run.stdout.strip() if run.returncode == 0 else None
