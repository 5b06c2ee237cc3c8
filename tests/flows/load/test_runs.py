"""Whole runs against a real API: what they record, what they judge, and what they leave alone."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from audit.verify import verify
from flows.load import machine, prepare
from flows.load.place import NotHere
from flows.load.runs import carry_out
from flows.load.sender import GeneratorDied
from flows.load.session import Progress
from ssot import replay
from ssot.intents import Create
from ssot.runs import RunRecord, Runs
from ssot.store import Store
from tests.flows.load.conftest import Loaded, settings_for

pytestmark = pytest.mark.slow
SMALL = {"streams": 5, "readers": 4, "read_rate": 40.0}


def stored(loaded: Loaded) -> Store:
    return Store.open(loaded.settings.home, source="kircerta/test")


def test_a_soak_passes_and_leaves_a_whole_record(loaded: Loaded) -> None:
    users = stored(loaded)
    prepare.to_gate(users, ["T-1"])
    record = carry_out(loaded.settings, loaded.asked("soak", 3.0, "read_p95<2000", "write_p95<2000", **SMALL))
    assert (record.state, record.outcome, record.interrupted, record.problem) == ("finished", "pass", False, None)
    assert record.results["read"].count == 120
    assert record.results["write"].count == 30
    assert record.results["stream"].count == 150  # every decision at every stream
    assert record.streams["gaps"] == record.streams["missing"] == record.streams["disconnections"] == 0
    assert {one.type: one.seq is not None for one in record.alarms} == {"ack_timeout": True, "heartbeat_warning": True}
    assert record.log_seq is not None
    _check_files(loaded, record)
    _check_log(users, record)
    assert users.task("T-1").status == "needs_review"  # somebody else's: not touched
    users.close()


def _check_files(loaded: Loaded, record: RunRecord) -> None:
    folder = Runs(stored(loaded)).path(record.run_id)
    assert sorted(path.name for path in folder.iterdir()) == [
        "histograms.json",
        "run.json",
        "samples.parquet",
        "series.parquet",
    ]
    names = set(pq.read_table(folder / "series.parquet")["name"].to_pylist())
    assert {"rss_bytes", "fds", "loop_lag_ms", "log_bytes", "generator_cpu", "foreign_cpu", "dispatch_lag_ms"} <= names
    written = (folder / "run.json").read_text()
    assert "a secret for tests" not in written
    assert record.git_commit is None or len(record.git_commit) == 40


def _check_log(store: Store, record: RunRecord) -> None:
    store.refresh()
    events = {event.seq: event for event in store.events()}
    assert record.log_seq is not None
    assert events[record.log_seq[0]].type == "run_started"
    for alarm in record.alarms:
        assert alarm.seq is not None
        assert (events[alarm.seq].type, events[alarm.seq].subject) == (alarm.type, alarm.task_id)
    ours = [one for one in store.view.entries.values() if one.task_id.startswith("load-")]
    assert {one.status for one in ours} == {"approved", "rejected"}  # nothing is left at anybody's gate
    assert store.pending() == []
    assert verify(store.audit_folder).problem is None
    assert replay.check(store.home).differing == []


def test_a_server_that_stalls_breaks_a_threshold_and_is_not_excused_as_invalid(loaded: Loaded) -> None:
    def stall() -> None:
        time.sleep(2.5)
        os.kill(loaded.pid, signal.SIGSTOP)
        time.sleep(1.5)
        os.kill(loaded.pid, signal.SIGCONT)

    stalling = threading.Thread(target=stall)
    wanted = loaded.asked("stress", 4.0, readers=20, read_rate=100.0, streams=3, write_rate=5.0)
    begun = threading.Event()
    wanted.show = lambda progress: begun.set() if progress.step == "running" and progress.done_s > 0.1 else None
    threading.Thread(target=lambda: begun.wait(20) and stalling.start()).start()
    record = carry_out(loaded.settings, wanted)
    stalling.join()
    assert record.outcome == "fail"
    assert all(gate.ok for gate in record.gates)
    assert record.results["read"].p99_ms is not None
    assert record.results["read"].p99_ms > 1000


def test_a_run_that_is_called_off_keeps_what_it_has(loaded: Loaded) -> None:
    wanted = loaded.asked("soak", 600.0, "read_p95<2000", "write_p95<2000", **SMALL)
    wanted.show = lambda progress: wanted.stop.set() if progress.done_s > 1.0 else None
    record = carry_out(loaded.settings, wanted)
    assert (record.state, record.interrupted) == ("finished", True)
    assert 40 <= record.results["read"].count < 200
    assert record.results["read"].errors == 0
    assert record.measures["lasted_s"] < 5


def test_a_run_whose_generator_dies_is_neither_passed_nor_failed_and_keeps_its_samples(loaded: Loaded) -> None:
    wanted = loaded.asked("soak", 60.0, **SMALL)
    killed: list[int] = []

    def kill(progress: Progress) -> None:
        if progress.done_s > 1.0 and not killed:
            children = [pid for pid, one in machine.processes().items() if one.parent == os.getpid()]
            killed.extend(
                pid for pid in children if b"flows.load.generator" in Path(f"/proc/{pid}/cmdline").read_bytes()
            )
            os.kill(killed[0], signal.SIGKILL)

    wanted.show = kill
    with pytest.raises(GeneratorDied):
        carry_out(loaded.settings, wanted)
    store = stored(loaded)
    (record,) = Runs(store).all()
    assert (record.state, record.outcome) == ("finished", "invalid")
    assert record.problem is not None
    assert pq.read_table(Runs(store).path(record.run_id) / "samples.parquet").num_rows > 20
    assert not store.pending()
    store.close()


def test_a_flood_is_refused_and_reads_are_measured_around_it(loaded: Loaded) -> None:
    wishes = {"readers": 4, "read_rate": 40.0, "flooders": 10, "flood_bytes": (1024, 65536), "alarms": False}
    record = carry_out(loaded.settings, loaded.asked("flood", 3.0, "read_p95<2000", **wishes))
    assert record.outcome == "pass"
    assert {phase: of.count for phase, of in record.phases["read"].items()} == {"before": 40, "during": 40, "after": 40}
    assert record.results["flood"].count == 50
    assert record.results["flood"].by_error.keys() <= {"never_sent", "unanswered"}


def test_a_flood_without_a_secret_at_the_server_is_refused_with_the_way_out(tmp_path: Path) -> None:
    from tests.api.running import server

    with server(tmp_path) as (_, port):
        loaded = Loaded(settings_for(tmp_path, f"http://127.0.0.1:{port}"), "", 0)
        with pytest.raises(NotHere, match="has no KIRCERTA_GITHUB_SECRET"):
            carry_out(loaded.settings, loaded.asked("flood", 3.0, alarms=False))


def test_another_workspace_s_api_is_not_put_under_load(
    loaded: Loaded, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = settings_for(tmp_path_factory.mktemp("elsewhere"), loaded.url)
    with pytest.raises(NotHere, match="does not serve the workspace"):
        carry_out(elsewhere, Loaded(elsewhere, loaded.url, 0).asked("soak", 3.0))
    store = Store.open(elsewhere.home, source="kircerta/test")
    (record,) = Runs(store).all()
    assert (record.state, record.outcome) == ("finished", "invalid")
    assert record.problem is not None
    assert not stored(loaded).view.entries
    store.close()


def test_decisions_that_would_be_refused_are_not_begun(loaded: Loaded) -> None:
    stranger = loaded.settings.model_copy(update={"jwt_secret": None})
    with pytest.raises(NotHere, match="decisions are not taken"):
        carry_out(stranger, loaded.asked("soak", 3.0))


def test_chaos_breaks_processes_files_and_disk_but_no_promise(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, "http://127.0.0.1:9")
    wanted = Loaded(settings, "", 0).asked("chaos", 8.0, alarms=False)
    record = carry_out(settings, wanted, own_server=True)
    assert record.chaos is not None
    assert record.chaos["problems"] == []
    assert record.chaos["acknowledged"] > 20
    done = record.chaos["done"]
    assert done["API killed"] >= 1
    assert done["dispatcher killed"] >= 1
    assert done["disk full"] >= 1
    assert done["file broken by hand"] >= 1
    assert done["clock of one writer jumped"] >= 1
    assert record.outcome == "pass"
    store = Store.open(tmp_path, source="kircerta/test")
    assert [event.type for event in store.events()] == ["run_started", "run_finished"]  # its own workspace had the rest
    store.commit("T-1", Create("x"), actor="alice")
    store.close()
