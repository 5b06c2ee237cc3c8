"""Alarms: raised once, not for a moment's trouble, and cleared again."""

from __future__ import annotations

from pathlib import Path

from audit.event import Draft
from ssot.alarms import Lookout, Reading
from ssot.claims import try_claim
from ssot.intents import Create, Dispatch
from ssot.lookout import Growth, disk, dispatcher
from ssot.presence import become_dispatcher
from ssot.store import Store


def reading(*, bad: bool, patience_s: float = 5.0, calm_s: float = 10.0) -> Reading:
    return Reading("low_disk", bad, "1 MiB is free", {"free_bytes": 1}, patience_s, calm_s)


def told(store: Store) -> list[tuple[str, str]]:
    return [(event.data["alarm"], event.data["state"]) for event in store.events() if event.type == "alert"]


def turn(store: Store, lookout: Lookout, one: Reading, now: float) -> list[str]:
    store.tell_alarms(lambda raised: lookout.look([one], raised, now))
    return [state for _, state in told(store)]


def opened(home: Path) -> Store:
    home.mkdir(exist_ok=True)
    return Store.open(home, source="kircerta/tests")


def test_an_alarm_is_raised_after_its_patience_once_and_cleared_after_its_calm(tmp_path: Path) -> None:
    store, lookout = opened(tmp_path), Lookout("kircerta/tests")
    assert turn(store, lookout, reading(bad=True), 100.0) == []
    assert turn(store, lookout, reading(bad=True), 104.9) == []
    assert turn(store, lookout, reading(bad=True), 105.0) == ["raised"]
    assert turn(store, lookout, reading(bad=True), 500.0) == ["raised"]
    assert turn(store, lookout, reading(bad=False), 501.0) == ["raised"]
    assert turn(store, lookout, reading(bad=False), 511.0) == ["raised", "cleared"]
    assert store.view.alarms == {}


def test_a_moments_trouble_raises_nothing(tmp_path: Path) -> None:
    store, lookout = opened(tmp_path), Lookout("kircerta/tests")
    for now, bad in enumerate([True, False, True, True, False, True]):
        assert turn(store, lookout, reading(bad=bad), float(now)) == []


def test_two_processes_raise_an_alarm_once_and_another_one_clears_it(tmp_path: Path) -> None:
    first, second = opened(tmp_path), opened(tmp_path)
    bad, good = reading(bad=True, patience_s=0.0), reading(bad=False, calm_s=0.0)
    stale = dict(second.view.alarms)
    turn(first, Lookout("one"), bad, 1.0)
    other = Lookout("two")
    assert other.look([bad], stale, 1.0), "by what it knew, the second would raise it, too"
    turn(second, other, bad, 1.0)
    assert told(first) == [("low_disk", "raised")]
    assert turn(opened(tmp_path), Lookout("three"), good, 9.0) == ["raised", "cleared"]


def test_what_stands_is_known_after_a_restart_from_the_checkpoint(tmp_path: Path) -> None:
    store = opened(tmp_path)
    turn(store, Lookout("one"), reading(bad=True, patience_s=0.0), 1.0)
    store.save_checkpoint()
    store.close()
    again = opened(tmp_path)
    assert again.view.alarms["low_disk"].reason == "1 MiB is free"


def test_an_alert_without_a_name_stands_for_nothing(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.note(Draft("alert", "x", {"what": "disk"}))
    assert store.view.alarms == {}


def test_a_full_disk_is_bad_and_needs_some_more_to_be_good_again(tmp_path: Path) -> None:
    free = disk(tmp_path, 0, raised=False).figures["free_bytes"]
    assert isinstance(free, int)
    assert disk(tmp_path, free * 2, raised=False).is_bad
    assert not disk(tmp_path, free // 2, raised=False).is_bad
    just_enough = int(free * 0.95)
    assert not disk(tmp_path, just_enough, raised=False).is_bad
    assert disk(tmp_path, just_enough, raised=True).is_bad


def test_a_log_that_grows_faster_than_usual_is_bad(tmp_path: Path) -> None:
    store = opened(tmp_path)
    growth = Growth(store.audit_folder, most_bytes=10_000)
    assert not growth.read().is_bad
    store.commit("T-1", Create("text"), actor="alice")
    assert not growth.read().is_bad
    store.commit("T-2", Create("x" * 20_000), actor="alice")
    assert growth.read().is_bad


def test_a_dispatcher_is_missed_only_where_work_waits_for_one(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.commit("T-1", Create("text"), actor="alice")
    store.commit("T-2", Create("text"), actor="alice")
    store.commit("T-2", Dispatch("d-2", executor="remote"), actor="alice")
    assert not dispatcher(store, 0.0).is_bad
    store.commit("T-1", Dispatch("d-1"), actor="alice")
    assert dispatcher(store, 0.0).is_bad
    claim = try_claim(tmp_path, "d-1")
    assert claim is not None
    with claim:
        assert not dispatcher(store, 0.0).is_bad, "a process runs it"
    lock = become_dispatcher(tmp_path)
    assert lock >= 0
    assert not dispatcher(store, 0.0).is_bad
