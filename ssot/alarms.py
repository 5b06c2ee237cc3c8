"""Alarms: what is wrong with the running system as a whole, raised once and cleared again. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from audit.event import Draft, Event

State = Literal["raised", "cleared"]
Figure = float | int | str | None

WATCHED: Final[Mapping[str, str]] = {
    "loop_lag": "The API's event loop stalls.",
    "stream_frozen": "The event stream stands still while the log goes on.",
    "low_disk": "The workspace's disk is nearly full.",
    "log_growth": "The log grows too fast.",
    "dispatcher_gone": "Work waits for a dispatcher, and none runs.",
    "prefect_gone": "The Prefect server does not answer.",
    "inbox_full": "No more deliveries are kept whose effect failed.",
    "deliveries_failed": "Kept deliveries were given up: a person has to replay them.",
    "bad_projects_file": "`config/projects.toml` cannot be used: no task from outside starts by itself.",
}
"""What a running system looks at by itself. Load runs and others may raise alarms of other names."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One look at one thing.

    `patience_s`: for how long it has to be bad before it is worth an alarm; `calm_s`: how long good, to be over.
    """

    alarm: str
    is_bad: bool
    reason: str
    figures: Mapping[str, Figure] = field(default_factory=dict)
    patience_s: float = 0.0
    calm_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Raised:
    """An alarm that stands: since which event, and what that said."""

    alarm: str
    seq: int
    time: str
    reason: str


def standing(before: Mapping[str, Raised], event: Event) -> dict[str, Raised]:
    """The alarms that stand behind an `alert` event."""
    alarm, state = event.data.get("alarm"), event.data.get("state")
    if not isinstance(alarm, str) or state not in ("raised", "cleared"):
        return dict(before)
    others = {name: raised for name, raised in before.items() if name != alarm}
    if state == "cleared":
        return others
    return {**others, alarm: Raised(alarm, event.seq, event.time, str(event.data.get("reason", "")))}


def draft(alarm: str, state: State, reason: str, figures: Mapping[str, Figure], actor: str) -> Draft:
    """The event that raises or clears an alarm."""
    return Draft("alert", actor, {"alarm": alarm, "state": state, "reason": reason, "figures": dict(figures)})


class Lookout:
    """Turns readings into the alarms of one process: nothing is raised for a moment's trouble, or twice.

    What stands is asked of the log, so that several processes raise an alarm once, and the next one clears it.
    """

    def __init__(self, actor: str) -> None:
        self._actor = actor
        self._since: dict[str, tuple[bool, float]] = {}

    def look(self, readings: Iterable[Reading], raised: Mapping[str, Raised], now: float) -> list[Draft]:
        """The events that follow from readings taken at `now` (monotonic seconds), given the alarms that stand."""
        return [found for one in readings if (found := self._judge(one, one.alarm in raised, now)) is not None]

    def _judge(self, reading: Reading, stands: bool, now: float) -> Draft | None:
        was_bad, since = self._since.get(reading.alarm, (not reading.is_bad, now))
        if was_bad != reading.is_bad:
            since = now
        self._since[reading.alarm] = (reading.is_bad, since)
        if reading.is_bad == stands:
            return None
        if now - since < (reading.patience_s if reading.is_bad else reading.calm_s):
            return None
        state: State = "raised" if reading.is_bad else "cleared"
        return draft(reading.alarm, state, reading.reason, reading.figures, self._actor)
