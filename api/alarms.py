"""Watches this process and what it stands on, once a second, and has alarms raised and cleared. Judges no task."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final

from api.follower import Follower
from api.health import LoopLag, PrefectProbe
from audit.event import Corrupt
from audit.files import Busy, StorageFailed
from ssot import lookout
from ssot.alarms import Lookout, Reading
from ssot.counted import counted
from ssot.settings import Settings
from ssot.store import Store

EVERY_S: Final = 1.0
FIRST_START: Final = 4
"""How many times as long a Prefect server may be away that this process has never seen."""
_LOG = logging.getLogger("kircerta.alarms")


class AlarmWatch:
    """Takes the readings of one API process."""

    def __init__(self, settings: Settings, lag: LoopLag, prefect: PrefectProbe, actor: str) -> None:
        self._settings = settings
        self._lag = lag
        self._prefect = prefect
        self._lookout = Lookout(actor)
        self._growth: lookout.Growth | None = None
        self._log_stood_at = 0
        self._prefect_was_there = False

    async def run(self, store: Store, follower: Follower) -> None:
        """Until cancelled."""
        self.begin(store)
        while True:
            await asyncio.sleep(EVERY_S)
            ours = [self._loop_lag(), self.stream(store, follower)]
            try:
                await asyncio.to_thread(self._turn, store, ours)
            except (Busy, StorageFailed, Corrupt, OSError) as error:  # looked at again in a second
                _LOG.error("%s", error)

    def begin(self, store: Store) -> None:
        """From now on growth is growth."""
        self._growth = lookout.Growth(store.audit_folder, self._settings.alarm_log_bytes)

    def _turn(self, store: Store, ours: list[Reading]) -> None:
        readings, now = [*ours, *self.below(store)], time.monotonic()
        store.tell_alarms(lambda raised: self._lookout.look(readings, raised, now))

    def _loop_lag(self) -> Reading:
        worst, most = self._lag.take_worst(), self._settings.alarm_loop_lag_s
        reason = f"the event loop stood still for {worst:.2f} s, at most {most:g} are usual: everybody waited"
        return Reading("loop_lag", worst > most, reason, {"lag_s": round(worst, 3), "most_s": most})

    def stream(self, store: Store, follower: Follower) -> Reading:
        """Whether the stream has not got to where the log stood at the look before this one."""
        behind, stood_at = self._log_stood_at - follower.ring.end.seq, follower.ring.end.seq
        self._log_stood_at = store.last_seq()
        reason = (
            follower.problem
            or f"the stream stands at seq {stood_at}, {counted(max(0, behind), 'event')} behind the log"
        )
        figures = {"seq": stood_at, "behind": max(0, behind)}
        return Reading("stream_frozen", behind > 0, reason, figures, self._settings.alarm_stream_s, calm_s=0.0)

    def below(self, store: Store) -> list[Reading]:
        """What this process stands on."""
        given, raised = self._settings, store.view.alarms
        assert self._growth is not None
        found = [
            lookout.disk(store.home, given.alarm_disk_bytes, raised="low_disk" in raised),
            self._growth.read(),
            lookout.dispatcher(store, given.alarm_gone_s),
        ]
        if self._prefect.state in ("ok", "unreachable"):
            gone = self._prefect.state == "unreachable"
            self._prefect_was_there |= not gone
            # its first start takes longer than an API's: who never saw it waits longer before calling it gone
            patience_s = given.alarm_gone_s * (1 if self._prefect_was_there else FIRST_START)
            found.append(lookout.prefect(gone, str(given.prefect_api_url), patience_s))
        return found
