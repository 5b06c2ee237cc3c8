"""The log: one gapless chain over segments, crashes and many writers."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import threading
import time
from contextlib import nullcontext
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from audit import log as audit_log
from audit.event import GENESIS, MAX_LINE_BYTES, Corrupt, Draft, Event, decode, digest_of, encode
from audit.files import StorageFailed
from audit.log import AuditLog, Marker, Unfinished
from audit.reader import LogReader, Place, Rewound, after, event_at, events_of, last_event, read_events
from audit.segments import segments
from audit.stamp import Clock, rfc3339
from audit.verify import verify
from tests.builders import START_S, Ticks


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "audit").mkdir()
    return tmp_path / "audit"


class Writer:
    """One process's way of writing notes into a log."""

    def __init__(self, folder: Path, *, segment_bytes: int = 1 << 26, clock: Clock | None = None) -> None:
        self.log = AuditLog(folder, source="kircerta/test", clock=clock or Ticks().clock, segment_bytes=segment_bytes)
        self.reader = LogReader(folder)
        self.seen: list[Event] = []

    def write(self, text: str = "x", number: int = 1) -> list[Event]:
        with self.log.transact(self.reader) as transaction:
            transaction.begin(self.seen.extend)
            events = []
            place = None
            for _ in range(number):
                event = transaction.place(Draft("alert", "test", {"text": text}, "T-1"), place)
                events.append(event.sealed())
                place = after(events[-1])
            return transaction.append(events)


def lines_of(folder: Path) -> list[bytes]:
    return b"".join(path.read_bytes() for _, path in segments(folder)).split(b"\n")[:-1]


def close_all(writers: list[Writer]) -> None:
    for writer in writers:
        writer.reader.close()


# ------------------------------------------------------------------------------------------- the chain


def test_each_line_carries_the_digest_of_the_line_before_it(folder: Path) -> None:
    Writer(folder).write(number=3)
    lines = lines_of(folder)
    prevs = [decode(line).prev for line in lines]
    assert prevs == [GENESIS, digest_of(lines[0]), digest_of(lines[1])]
    assert [decode(line).seq for line in lines] == [1, 2, 3]


def test_the_sequence_has_no_gap_over_rotations(folder: Path) -> None:
    writer = Writer(folder, segment_bytes=2000)
    for number in range(40):
        writer.write(f"event {number}")
    assert len(segments(folder)) > 4
    assert [event.seq for event in read_events(folder)] == list(range(1, 41))
    found = verify(folder)
    assert (found.problem, found.events, found.segments) == (None, 40, len(segments(folder)))
    assert all(path.name == f"events-{first}.jsonl" for first, path in segments(folder)[:-1])


def test_a_closed_segment_is_never_written_over(folder: Path) -> None:
    writer = Writer(folder, segment_bytes=1)
    writer.write()
    (folder / "events-1.jsonl").write_bytes(b"somebody's copy\n")
    with pytest.raises(Corrupt, match="stands already"):
        writer.write()
    assert (folder / "events-1.jsonl").read_bytes() == b"somebody's copy\n"


def test_line_separators_of_unicode_do_not_split_a_line(folder: Path) -> None:
    text = "one\u2028two\u2029three\x85four\x0bfive\x0csix"
    Writer(folder).write(text, number=2)
    assert [event.data["text"] for event in read_events(folder)] == [text, text]
    assert verify(folder).problem is None


def test_time_never_goes_back_though_the_clock_does(folder: Path) -> None:
    readings = iter([START_S, START_S - 3600, START_S - 7200, START_S + 1])
    writer = Writer(folder, clock=Clock(lambda: next(readings)))
    for _ in range(4):
        writer.write()
    times = [event.time for event in read_events(folder)]
    assert times == [rfc3339(START_S)] * 3 + [rfc3339(START_S + 1)]
    assert verify(folder).problem is None


def test_an_event_over_64_kib_does_not_become_a_line(folder: Path) -> None:
    with pytest.raises(ValueError, match="64 KiB"):
        Writer(folder).write("x" * MAX_LINE_BYTES)
    assert lines_of(folder) == []


def test_decode_refuses_what_is_no_event() -> None:
    for line in (b"", b"[]", b"{}", b"null", b'{"seq":1}', b"\xff"):
        with pytest.raises(Corrupt):
            decode(line)


def test_a_sealed_event_is_the_same_event_with_its_line() -> None:
    event = Event(7, "e-7", "s", "alert", rfc3339(START_S), "a", {"text": "x"}, GENESIS, "T-1", "c-1")
    assert event.digest != event.sealed().digest == digest_of(encode(event))
    assert event.sealed() == replace(event, line=encode(event)) == decode(encode(event))
    assert event.sealed().sealed().line == encode(event)
    changed = replace(event.sealed(), data={"text": "y"}, line=b"")
    assert changed.sealed().digest == digest_of(encode(changed)), "a digest goes with the line that it is of"


def test_an_event_survives_its_line() -> None:
    event = Event(7, "e-1", "kircerta/test", "alert", rfc3339(START_S), "alice", {"a": [1]}, GENESIS, "T-1", "c-1")
    line = encode(event)
    again = decode(line)
    assert (again.seq, again.data, again.subject, again.correlationid, again.line) == (
        7,
        {"a": [1]},
        "T-1",
        "c-1",
        line,
    )
    assert again.cursor == f"7.{digest_of(line)[7:15]}"


# ------------------------------------------------------------------------------------------- torn tails


def test_every_cut_of_the_last_line_is_put_aside_and_said_once(folder: Path) -> None:
    Writer(folder).write(number=3)
    whole = (folder / "events.jsonl").read_bytes()
    last = whole.rindex(b"\n", 0, len(whole) - 1) + 1
    for cut in range(last + 1, len(whole)):
        home = folder.parent / f"cut-{cut}"
        home.mkdir()
        (home / "events.jsonl").write_bytes(whole[:cut])
        assert verify(home).torn_bytes == cut - last
        for _ in range(2):
            Writer(home).write("on")
        kinds = [event.type for event in read_events(home)]
        assert kinds == ["alert", "alert", "log_recovered", "alert", "alert"], cut
        assert verify(home).problem is None
        (kept,) = (home / ".torn").iterdir()
        assert kept.read_bytes() == whole[last:cut]
        shutil.rmtree(home)


def test_a_torn_first_line_is_put_aside_too(folder: Path) -> None:
    (folder / "events.jsonl").write_bytes(b'{"specversion":')
    assert verify(folder).torn_bytes == 15
    Writer(folder).write()
    assert [event.type for event in read_events(folder)] == ["log_recovered", "alert"]
    assert verify(folder).problem is None


def test_a_large_tail_of_zeros_is_torn_not_corrupt(folder: Path) -> None:
    Writer(folder).write()
    with (folder / "events.jsonl").open("ab") as file:
        file.write(b"\0" * (3 << 20))
    Writer(folder).write()
    assert [event.type for event in read_events(folder)] == ["alert", "log_recovered", "alert"]
    assert verify(folder).problem is None
    (kept,) = (folder / ".torn").iterdir()
    assert kept.stat().st_size == 3 << 20


def test_garbage_in_the_middle_is_corrupt_and_stays(folder: Path) -> None:
    Writer(folder).write()
    with (folder / "events.jsonl").open("ab") as file:
        file.write(b"\0" * (2 << 20) + b"\n")
    before = (folder / "events.jsonl").stat().st_size
    with pytest.raises(Corrupt):
        Writer(folder).write()
    assert (folder / "events.jsonl").stat().st_size == before


class SyncCounting(LogReader):
    """A reader that tells when what it read is made durable."""

    synced = 0

    def sync(self) -> None:
        self.synced += 1
        super().sync()


def test_a_complete_line_that_nobody_synced_is_synced_by_the_next_holder(folder: Path) -> None:
    """Also when this process has read it before it took the lock: an answer may be built on it."""
    Writer(folder).write("died between its write and its sync")
    (folder / ".lock").write_bytes(b"")  # nobody left word that these bytes are durable
    survivor = Writer(folder)
    survivor.reader = reader = SyncCounting(folder)
    reader.read()  # without the lock
    for _ in range(2):
        with survivor.log.transact(reader) as transaction:
            transaction.begin(survivor.seen.extend)
    assert reader.synced == 1
    reader.close()


def leave(folder: Path, marker: Marker) -> None:
    fd = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT)
    marker.store(fd)
    os.close(fd)


def test_what_was_left_behind_before_the_last_boot_counts_no_more(folder: Path) -> None:
    writer = Writer(folder)
    writer.write()
    leave(folder, Marker("another-boot", writer.reader.inode, writer.reader.offset, applied=1))
    writer.reader.close()
    writer.reader = reader = SyncCounting(folder)
    for _ in range(2):
        with writer.log.transact(reader) as transaction:
            transaction.begin(writer.seen.extend)
            assert transaction.applied == -1, "nobody knows what the files show"
    assert reader.synced == 1
    reader.close()


def test_what_the_last_holder_left_behind_is_read_again_once_it_is_gone(folder: Path) -> None:
    writer = Writer(folder)
    writer.write()
    with writer.log.transact(writer.reader, alone=False) as transaction:
        transaction.begin_beside(writer.seen.extend)
        assert transaction.applied == 0
        with pytest.raises(Unfinished):
            transaction.check_finished()
        leave(folder, Marker(audit_log.BOOT, writer.reader.inode, writer.reader.offset, applied=1))
        transaction.be_alone(time.monotonic() + 5)
        transaction.check_finished()
        assert transaction.applied == 1
    writer.reader.close()


@pytest.mark.parametrize(
    ("changes", "is_finished"),
    [({}, True), ({"applied": 0}, False), ({"synced": 1}, False), ({"inode": 1}, False), ({"boot": "other"}, False)],
)
def test_all_is_finished_where_it_is_durable_and_shown(
    folder: Path, changes: dict[str, Any], is_finished: bool
) -> None:
    writer = Writer(folder)
    writer.write()
    leave(folder, replace(Marker(audit_log.BOOT, writer.reader.inode, writer.reader.offset, applied=1), **changes))
    with writer.log.transact(writer.reader) as transaction, nullcontext() if is_finished else pytest.raises(Unfinished):
        transaction.check_finished()
    writer.reader.close()


def test_behind_a_torn_tail_nobody_begins_beside_another(folder: Path) -> None:
    writer = Writer(folder)
    writer.write()
    with (folder / "events.jsonl").open("ab") as log:
        log.write(b'{"torn":')
    with writer.log.transact(writer.reader, alone=False) as transaction, pytest.raises(Unfinished):
        transaction.begin_beside(writer.seen.extend)
    writer.reader.close()


@pytest.mark.parametrize("left", [b"", b"\xff\x00 1 2 3\n" * 20, b"0 0 0 0 00000000\n", b"\0" * 128])
def test_what_is_no_word_of_a_holder_says_nothing(folder: Path, left: bytes) -> None:
    writer = Writer(folder)
    writer.write()
    (folder / ".lock").write_bytes(left)
    with writer.log.transact(writer.reader) as transaction:
        transaction.begin(writer.seen.extend)
        assert transaction.applied == -1
        transaction.mark_applied()
    with writer.log.transact(writer.reader) as transaction:
        assert transaction.applied == 1
    writer.reader.close()


# ------------------------------------------------------------------------------- segments that are not there


def test_a_missing_or_empty_active_log_continues_the_newest_segment(folder: Path) -> None:
    for make in (lambda path: path.unlink(missing_ok=True), lambda path: path.write_bytes(b"")):
        writer = Writer(folder)
        writer.write()
        end = writer.reader.place.seq
        active = folder / "events.jsonl"
        first = segments(folder)[-1][0]
        active.rename(folder / f"events-{first}.jsonl")
        make(active)
        event = Writer(folder).write()[0]
        assert event.seq == end + 1
        assert verify(folder).problem is None
        assert writer.write()[0].seq == end + 2, "a writer that was there before goes on, too"


def test_a_missing_segment_in_the_middle_is_said(folder: Path) -> None:
    writer = Writer(folder, segment_bytes=500)
    for _ in range(10):
        writer.write()
    middle = segments(folder)[2]
    middle[1].unlink()
    assert f"follows seq {middle[0] - 1}" in str(verify(folder).problem)
    with pytest.raises(Corrupt, match=f"segment with seq {middle[0]} is missing"):
        list(read_events(folder))


def test_a_missing_first_segment_is_said(folder: Path) -> None:
    writer = Writer(folder, segment_bytes=500)
    for _ in range(6):
        writer.write()
    segments(folder)[0][1].unlink()
    assert verify(folder).problem is not None
    with pytest.raises(Corrupt):
        list(read_events(folder))


# --------------------------------------------------------------------------------------- a log that was edited


def test_verify_tells_where_any_byte_was_changed(folder: Path) -> None:
    """Nothing follows the last line: there only what breaks its form shows; else the head is another one."""
    Writer(folder).write(number=3)
    path = folder / "events.jsonl"
    whole = path.read_bytes()
    honest = verify(folder)
    starts = [0, *(at + 1 for at, byte in enumerate(whole) if byte == 10)]
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        found = verify(folder)
        line = max(number for number, start in enumerate(starts) if start <= at)
        if line < 2:
            assert found.problem is not None, at
            assert any(f"seq {seq}" in found.problem for seq in (line, line + 1, line + 2)), (at, found.problem)
        else:
            assert found.problem is not None or found.head != honest.head or found.torn_bytes, at


def test_verify_reports_a_first_line_that_is_no_event(folder: Path) -> None:
    (folder / "events.jsonl").write_bytes(b"hello\nworld\n")
    assert "no event" in str(verify(folder).problem)


def test_verify_says_when_time_goes_back(folder: Path) -> None:
    events, place = [], Place()
    for second in (5, 4):
        event = Event(place.seq + 1, f"e-{second}", "s", "alert", rfc3339(START_S + second), "a", {}, place.digest)
        events.append(event.sealed())
        place = after(events[-1])
    (folder / "events.jsonl").write_bytes(b"".join(event.line + b"\n" for event in events))
    assert "time goes back at seq 2" in str(verify(folder).problem)


def test_verify_of_nothing_finds_nothing(tmp_path: Path) -> None:
    found = verify(tmp_path / "nowhere")
    assert (found.problem, found.events, found.segments, found.head) == (None, 0, 0, GENESIS)


def test_a_reader_stops_where_the_chain_breaks(folder: Path) -> None:
    Writer(folder).write(number=3)
    path = folder / "events.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"text":"x"', b'"text":"y"', 1))
    with pytest.raises(Corrupt, match="seq 2"):
        list(read_events(folder))


# --------------------------------------------------------------------------------------------------- readers


def test_every_seq_is_found_by_bisection(folder: Path) -> None:
    writer = Writer(folder, segment_bytes=3000)
    for number in range(60):
        writer.write("y" * (number * 37 % 900))
    everything = list(read_events(folder))
    for seq in range(61):
        reader = LogReader.after(folder, seq)
        assert [event.seq for event in reader.read(limit=2)] == list(range(seq + 1, min(seq + 3, 61)))
        reader.close()
    assert [event_at(folder, seq) for seq in range(1, 61)] == everything
    assert event_at(folder, 0) is None
    assert event_at(folder, 61) is None
    assert event_at(folder, 2**53) is None
    with pytest.raises(Rewound):
        LogReader.after(folder, 61)
    assert last_event(folder) == everything[-1]


def test_bisection_passes_a_torn_tail_by(folder: Path) -> None:
    Writer(folder).write(number=5)
    with (folder / "events.jsonl").open("ab") as file:
        file.write(b"{" + b"x" * 70_000)
    assert [event_at(folder, seq).seq for seq in range(1, 6)] == [1, 2, 3, 4, 5]  # type: ignore[union-attr]
    assert event_at(folder, 6) is None


def test_the_events_of_one_task_are_found_over_segments(folder: Path) -> None:
    log, reader = AuditLog(folder, source="kircerta/test", segment_bytes=2000), LogReader(folder)
    for number in range(30):
        with log.transact(reader) as transaction:
            transaction.begin(lambda events: None)
            data = {"text": f'"subject":"T-{number % 3}",'}  # the needle, inside somebody's words
            transaction.append([transaction.place(Draft("alert", "a", data, f"T-{(number + 1) % 3}"))])
    assert [event.seq for event in events_of(folder, "T-1")] == list(range(1, 31, 3))
    assert list(events_of(folder, "T-9")) == []
    reader.close()


def test_a_reader_gets_every_line_once_while_others_write_and_rotate(folder: Path) -> None:
    writers = [Writer(folder, segment_bytes=1500) for _ in range(2)]
    readers = [LogReader(folder) for _ in range(2)]
    seen: list[list[int]] = [[], []]
    verdicts: list[str | None] = []
    done = threading.Event()

    def follow(which: int) -> None:
        while True:
            last = done.is_set()
            batch = readers[which].read(limit=7)
            seen[which] += [event.seq for event in batch]
            if last and not batch:
                return

    def check() -> None:
        while not done.is_set():
            verdicts.append(verify(folder).problem)
            assert all(event.subject == "T-1" for event in events_of(folder, "T-1"))

    threads = [threading.Thread(target=follow, args=(which,)) for which in range(2)] + [threading.Thread(target=check)]
    for thread in threads:
        thread.start()
    for number in range(150):
        writers[number % 2].write(f"event {number}")
    done.set()
    for thread in threads:
        thread.join()
    assert seen == [list(range(1, 151))] * 2
    assert set(verdicts) <= {None}
    for reader in readers:
        reader.close()
    close_all(writers)


def _write_many(folder: str, name: str, number: int) -> None:
    writer = Writer(Path(folder), segment_bytes=4000, clock=Clock())
    for each in range(number):
        writer.write(f"{name} {each}")


@pytest.mark.slow
def test_processes_write_one_gapless_log(folder: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    crowd = [spawn.Process(target=_write_many, args=(str(folder), f"w{n}", 60)) for n in range(4)]
    for process in crowd:
        process.start()
    reader, seen = LogReader(folder), []
    while any(process.is_alive() for process in crowd) or len(seen) < 240:
        seen += [event.seq for event in reader.read()]
    for process in crowd:
        process.join()
        assert process.exitcode == 0
    assert seen == list(range(1, 241))
    assert verify(folder).problem is None
    texts = [event.data["text"] for event in read_events(folder)]
    for name in ("w0", "w1", "w2", "w3"):
        assert [text for text in texts if text.startswith(name)] == [f"{name} {each}" for each in range(60)]
    reader.close()


def test_a_log_replaced_by_an_older_copy_is_noticed(folder: Path) -> None:
    writer = Writer(folder)
    writer.write(number=2)
    copy = (folder / "events.jsonl").read_bytes()
    writer.write()
    reader = LogReader(folder)
    assert len(reader.read()) == 3
    (folder / "copy").write_bytes(copy)
    (folder / "copy").rename(folder / "events.jsonl")
    assert not reader.is_current()
    with pytest.raises(Rewound):
        reader.read()


def test_a_log_that_was_cut_is_noticed(folder: Path) -> None:
    Writer(folder).write(number=3)
    reader = LogReader(folder)
    reader.read()
    size = (folder / "events.jsonl").stat().st_size
    os.truncate(folder / "events.jsonl", size // 2)
    with pytest.raises(Rewound):
        reader.read()


def test_a_log_that_is_gone_is_noticed(folder: Path) -> None:
    Writer(folder).write()
    reader = LogReader(folder)
    reader.read()
    (folder / "events.jsonl").unlink()
    with pytest.raises(Corrupt, match="the log is gone"):
        reader.read()


def test_is_current_costs_one_look(folder: Path) -> None:
    reader = LogReader(folder)
    assert reader.is_current()
    writer = Writer(folder)
    writer.write()
    assert not reader.is_current()
    reader.read()
    assert reader.is_current()
    with (folder / "events.jsonl").open("ab") as file:
        file.write(b"{torn")
    assert not reader.is_current()
    reader.read()
    assert reader.is_current(), "what is no line yet has been seen"
    reader.close()


# --------------------------------------------------------------------------------------------- what fails


def test_a_log_in_an_unwritable_place_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "audit").write_text("a file")
    with pytest.raises(StorageFailed, match="could not be written"):
        Writer(tmp_path / "audit").write()


def test_ids_and_cursors_are_unique(folder: Path) -> None:
    numbers = count()
    writer = Writer(folder, clock=Clock(lambda: START_S, lambda prefix: f"{prefix}-{next(numbers)}"))
    writer.write(number=20)
    found = list(read_events(folder))
    assert len({event.id for event in found}) == len({event.cursor for event in found}) == 20
