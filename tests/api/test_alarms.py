"""What the running API raises by itself, and where it shows."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from httpx import AsyncClient

from api.alarms import AlarmWatch
from api.follower import Follower
from api.health import LoopLag, PrefectProbe
from ssot.intents import Create
from ssot.store import Store
from tests.api.scene import api, settings_for

MORE_THAN_ANY_DISK = 1 << 60


async def alarms(client: AsyncClient, count: int) -> list[str]:
    """The alarms that stand, as soon as there are so many."""
    async with asyncio.timeout(15):
        while len(found := (await client.get("/readyz")).json()["alarms"]) != count:
            await asyncio.sleep(0.05)
    return list(found)


async def test_little_space_is_an_alarm_in_the_log_the_readiness_and_the_numbers(home: Path, store: Store) -> None:
    async with api(home, alarm_disk_bytes=MORE_THAN_ANY_DISK) as client:
        assert await alarms(client, 1) == ["low_disk"]
        (raised,) = (await client.get("/readyz")).json()["raised"]
        numbers = (await client.get("/metrics")).text
    assert 'kircerta_alarm{alarm="low_disk"} 1.0' in numbers
    assert 'kircerta_alarm{alarm="loop_lag"} 0.0' in numbers
    (alert,) = [event for event in store.events() if event.type == "alert"]
    assert alert.data["state"] == "raised"
    assert raised == {"alarm": "low_disk", "seq": alert.seq, "time": alert.time, "reason": alert.data["reason"]}
    assert alert.data["figures"]["least_bytes"] == MORE_THAN_ANY_DISK
    async with api(home) as client:  # the next process finds that there is space after all
        assert await alarms(client, 0) == []


async def test_a_stalled_loop_is_an_alarm(home: Path, store: Store) -> None:
    async with api(home, alarm_loop_lag_s=0.5) as client:
        await asyncio.sleep(0.3)  # the lag is being measured
        time.sleep(0.9)
        assert await alarms(client, 1) == ["loop_lag"]
    (alert,) = [event for event in store.events() if event.type == "alert"]
    assert alert.data["figures"]["lag_s"] > 0.5


async def test_a_prefect_server_that_is_gone_is_an_alarm(home: Path, store: Store) -> None:
    async with api(home, prefect_api_url="http://127.0.0.1:9/api", alarm_gone_s=0.1) as client:
        assert await alarms(client, 1) == ["prefect_gone"]


async def test_a_prefect_server_that_was_never_seen_has_longer_to_come(home: Path, store: Store) -> None:
    probe = PrefectProbe("http://127.0.0.1:9/api")
    watch = AlarmWatch(settings_for(home, alarm_gone_s=10), LoopLag(), probe, "kircerta/api")
    watch.begin(store)

    def patience_s(state: str) -> float:
        probe.state = state
        return next(one.patience_s for one in watch.below(store) if one.alarm == "prefect_gone")

    assert patience_s("unreachable") == 40
    patience_s("ok")
    assert patience_s("unreachable") == 10


async def test_a_stream_that_stands_still_while_the_log_goes_on_is_bad(home: Path, store: Store) -> None:
    watch = AlarmWatch(settings_for(home), LoopLag(), PrefectProbe(None), "kircerta/api")
    still = Follower(store.audit_folder)  # never started: it takes nothing in
    assert not watch.stream(store, still).is_bad
    store.commit("T-9", Create("text"), actor="alice")
    assert not watch.stream(store, still).is_bad, "the log has only just gone on"
    assert watch.stream(store, still).is_bad
    moving = await Follower(store.audit_folder).start()
    assert not watch.stream(store, moving).is_bad
    await moving.stop()
