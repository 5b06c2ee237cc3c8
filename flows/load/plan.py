"""What a load run sends, when, and to whom: plain, frozen values that cross into the generator's process."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import Field

from ssot.runs import Kind
from ssot.task import Part

Phase = Literal["main", "before", "during", "after"]
PHASES: Final[tuple[Phase, ...]] = ("main", "before", "during", "after")
US: Final = 1_000_000
LONGEST_S: Final = 7 * 86400.0
CYCLE_S: Final = 30.0
"""A flood comes and goes in cycles of about this length: what drifts meanwhile drifts in all three windows."""
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class BadPlan(ValueError):
    """The run cannot be carried out as it was asked for; the message says why and what to do."""


class Window(Part):
    """A stretch of the run, in µs since its first arrival."""

    phase: Phase
    begin_us: int
    end_us: int


class Plan(Part):
    """One load run. Rates are arrivals a second over all clients; 0 sends none.

    Open loop: arrivals come at fixed times whether or not earlier ones were answered, each client's one after the
    other, timed from when they were due. Closed loop (`closed`): every client sends again once it has its answer.
    """

    kind: Kind
    base_url: str
    duration_s: Annotated[float, Field(gt=0, le=LONGEST_S)]
    readers: Annotated[int, Field(ge=0, le=5000)] = 0
    read_rate: Annotated[float, Field(ge=0, le=100_000)] = 0.0
    deciders: Annotated[int, Field(ge=0, le=1000)] = 0
    write_rate: Annotated[float, Field(ge=0, le=10_000)] = 0.0
    streams: Annotated[int, Field(ge=0, le=20_000)] = 0
    flooders: Annotated[int, Field(ge=0, le=1000)] = 0
    flood_rate: Annotated[float, Field(ge=0, le=10_000)] = 0.0
    flood_bytes: tuple[Annotated[int, Field(ge=2, le=25 * 1024 * 1024)], ...] = ()
    closed: bool = False
    alarms: bool = True

    @property
    def windows(self) -> tuple[Window, ...]:
        """The run's phases, without a gap: one, or for a flood before, during and after it, over and over."""
        if self.kind != "flood":
            return (Window(phase="main", begin_us=0, end_us=int(self.duration_s * US)),)
        cycles = max(1, round(self.duration_s / CYCLE_S))
        length = self.duration_s * US / (3 * cycles)
        phases: tuple[Phase, ...] = ("before", "during", "after") * cycles
        return tuple(
            Window(phase=phase, begin_us=int(at * length), end_us=int((at + 1) * length))
            for at, phase in enumerate(phases)
        )


DEFAULTS: Final[dict[Kind, dict[str, float | int | tuple[int, ...]]]] = {
    "soak": {
        "duration_s": 7200.0,
        "readers": 10,
        "read_rate": 20.0,
        "deciders": 4,
        "write_rate": 10.0,
        "streams": 50,
    },
    "flood": {
        "duration_s": 120.0,
        "readers": 20,
        "read_rate": 100.0,
        "flooders": 50,
        "flood_rate": 50.0,
        "flood_bytes": (1024, 1024 * 1024),
    },
    "stress": {
        "duration_s": 60.0,
        "readers": 100,
        "read_rate": 200.0,
        "deciders": 10,
        "write_rate": 10.0,
        "streams": 50,
    },
    "chaos": {
        "duration_s": 60.0,
        "readers": 10,
        "read_rate": 50.0,
        "deciders": 5,
        "write_rate": 10.0,
        "streams": 10,
    },
}
"""What a run of each kind sends where nobody says otherwise."""


def plan_for(kind: Kind, base_url: str, **wishes: object) -> Plan:
    """The plan of a run: its kind's defaults, and what is wished otherwise (None: no wish). Raises BadPlan."""
    given = {name: value for name, value in wishes.items() if value is not None}
    plan = Plan.model_validate({**DEFAULTS[kind], **given, "kind": kind, "base_url": checked_url(base_url)})
    for clients, rate, name in (
        (plan.readers, plan.read_rate, "reads"),
        (plan.deciders, plan.write_rate, "decisions"),
        (plan.flooders, plan.flood_rate, "floods"),
    ):
        if rate > 0 and clients == 0:
            raise BadPlan(f"{rate:g} {name} a second need at least one client")
    if not (plan.read_rate or plan.write_rate or plan.streams or plan.flood_rate):
        raise BadPlan("nothing would be sent: give a rate or a number of streams")
    return plan


def checked_url(url: str) -> str:
    """An address on this machine, without a slash at its end. Raises BadPlan: load goes nowhere else."""
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise BadPlan(f"{url!r:.200} is no address of an API: http://127.0.0.1:8000 is one")
    if parts.username or parts.query or parts.fragment or parts.path.strip("/"):
        raise BadPlan(f"{url!r:.200} is more than an address: give scheme, host and port only")
    if not _is_loopback(parts.hostname):
        raise BadPlan(f"{parts.hostname} is not this machine: load goes to loopback addresses only")
    try:
        port = parts.port or 80
    except ValueError:
        raise BadPlan(f"{url!r:.200} has no usable port") from None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"http://{host}:{port}"


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def seconds_of(duration: str) -> float:
    """A duration such as 120s, 15m or 2h, in seconds. Raises BadPlan."""
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?)([smhd])", duration, re.ASCII)
    if found is None or not 0 < float(found[1]) * _UNITS[found[2]] <= LONGEST_S:
        raise BadPlan(f"{duration!r:.100} is no duration: a number and s, m, h or d, e.g. 120s or 2h; at most 7d")
    return float(found[1]) * _UNITS[found[2]]


def sizes_of(text: str) -> tuple[int, ...]:
    """Body sizes such as ``1KB,1MB`` (1,024 and 1,048,576 bytes). Raises BadPlan."""
    units = {"B": 1, "KB": 1024, "MB": 1024 * 1024}
    found = []
    for part in text.split(","):
        size = re.fullmatch(r"\s*(\d{1,8})\s*(B|KB|MB)\s*", part, re.ASCII)
        if size is None:
            raise BadPlan(f"{part!r:.100} is no size: a number and B, KB or MB, e.g. 1KB,1MB")
        found.append(int(size[1]) * units[size[2]])
    return tuple(found)
