"""Signed heads: what a kept checkpoint gives away, and what is never signed."""

from __future__ import annotations

import hashlib
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import orjson
import pytest

from audit.elsewhere import Elsewhere
from audit.event import Draft
from audit.head import KEPT_WHOLE, Checkpoints, Head, HeadCheck, open_checkpoint, origin_of
from audit.keys import Ring, SigningKey
from audit.log import AuditLog
from audit.merkle import Frontier, leaf_hash
from audit.note import Unproven
from audit.reader import LogReader
from audit.signer import NothingToSign, Rewritten, Signer
from audit.verify import verify
from tests.audit.flipping import flips

KEY, OTHER = SigningKey(b"k" * 32), SigningKey(b"o" * 32)


def write(folder: Path, count: int, *, segment_bytes: int = 3000) -> None:
    """Append some events."""
    folder.mkdir(exist_ok=True)
    log, reader = AuditLog(folder, source="kircerta/test", segment_bytes=segment_bytes), LogReader(folder)
    for number in range(count):
        with log.transact(reader) as transaction:
            transaction.begin(lambda news: None)
            transaction.append([transaction.place(Draft("alert", "test", {"number": number}))])
    reader.close()


def lines_of(folder: Path) -> list[bytes]:
    reader = LogReader(folder)
    found = [event.line for event in reader.read()]
    reader.close()
    return found


def rewrite(folder: Path, lines: list[bytes], change: Callable[[list[dict]], None]) -> None:  # type: ignore[type-arg]
    """Another history with a chain that holds, as the process that keeps the log could write it."""
    bodies = [orjson.loads(line) for line in lines]
    change(bodies)
    for path in folder.glob("events*.jsonl"):
        path.unlink()
    prev, out = "sha256:" + "0" * 64, b""
    for seq, body in enumerate(bodies, 1):
        line = orjson.dumps({**body, "seq": seq, "prev": prev})
        prev, out = "sha256:" + hashlib.sha256(line).hexdigest(), out + line + b"\n"
    (folder / "events.jsonl").write_bytes(out)
    assert verify(folder).problem is None


def problems(folder: Path, *notes: bytes) -> list[str]:
    """What kept checkpoints say of a log."""
    check = HeadCheck([("kept", open_checkpoint(note, [KEY.public])[0]) for note in notes])
    assert verify(folder, also=[check.look]).problem is None
    check.end()
    return check.problems


def test_a_head_is_over_the_exact_lines(tmp_path: Path) -> None:
    write(tmp_path, 23)
    lines = lines_of(tmp_path)
    signed = Signer(tmp_path, [KEY]).sign()
    head, held = open_checkpoint(signed.note, [KEY.public])
    assert held == [KEY.public]
    assert head == signed.head == Head(origin_of(lines[0]), 23, Frontier().grown([leaf_hash(x) for x in lines]).root)
    assert signed.note.decode().split("\n")[1] == "23"
    assert len(list(tmp_path.glob("events-*.jsonl"))) > 1
    assert problems(tmp_path, signed.note) == []


def test_going_on_gives_what_the_whole_log_gives(tmp_path: Path) -> None:
    for count in (1, 2, 5, 60):
        write(tmp_path, count)
        signed = Signer(tmp_path, [KEY]).sign()
        assert signed.is_new
        shutil.copytree(tmp_path, tmp_path.parent / "fresh", ignore=shutil.ignore_patterns(".*"), dirs_exist_ok=True)
    fresh = Signer(tmp_path.parent / "fresh", [KEY]).sign()
    assert (fresh.head.size, fresh.note) == (68, signed.note)
    assert Checkpoints(tmp_path).sizes() == [1, 3, 8, 68]
    assert problems(tmp_path, *(Checkpoints(tmp_path).load(size) for size in (1, 3, 8, 68))) == []


def test_what_is_signed_is_not_signed_again(tmp_path: Path) -> None:
    write(tmp_path, 3)
    first = Signer(tmp_path, [KEY]).sign()
    again = Signer(tmp_path, [KEY]).sign()
    assert (again.note, again.is_new) == (first.note, False)
    with pytest.raises(NothingToSign):
        Signer(tmp_path / "empty", [KEY]).sign()


@pytest.mark.parametrize("victim", [0, 1, 10, 19])
def test_a_rewritten_log_with_a_recomputed_chain_is_told_by_the_kept_checkpoint(tmp_path: Path, victim: int) -> None:
    write(tmp_path, 20)
    kept = Signer(tmp_path, [KEY]).sign().note

    def forge(bodies: list[dict]) -> None:  # type: ignore[type-arg]
        bodies[victim]["actor"] = "somebody-else"

    rewrite(tmp_path, lines_of(tmp_path), forge)
    assert "rewritten" in problems(tmp_path, kept)[0]
    with pytest.raises(Rewritten):
        Signer(tmp_path, [KEY]).sign()
    write(tmp_path, 5)
    with pytest.raises(Rewritten):
        Signer(tmp_path, [KEY]).sign()
    (tmp_path / ".checkpoints" / ".edge.json").unlink()
    with pytest.raises(Rewritten):
        Signer(tmp_path, [KEY]).sign()


@pytest.mark.parametrize("cut", [1, 19, 20])
def test_lines_cut_off_the_end_are_missed_by_the_kept_checkpoint(tmp_path: Path, cut: int) -> None:
    write(tmp_path, 20, segment_bytes=10**6)
    kept = Signer(tmp_path, [KEY]).sign().note
    (tmp_path / "events.jsonl").write_bytes(b"".join(line + b"\n" for line in lines_of(tmp_path)[:-cut]))
    assert verify(tmp_path).problem is None, "the chain alone cannot see it"
    assert "cut" in problems(tmp_path, kept)[0]
    with pytest.raises(Rewritten):
        Signer(tmp_path, [KEY]).sign()


def test_a_log_with_any_byte_flipped_is_told(tmp_path: Path) -> None:
    write(tmp_path, 4, segment_bytes=10**6)
    kept = Signer(tmp_path, [KEY]).sign().note
    head = open_checkpoint(kept, [KEY.public])[0]
    true = (tmp_path / "events.jsonl").read_bytes()
    for flipped in flips(true):
        (tmp_path / "events.jsonl").write_bytes(flipped)
        check = HeadCheck([("kept", head)])
        broken = verify(tmp_path, also=[check.look]).problem
        check.end()
        assert broken or check.problems


def test_a_checkpoint_with_any_byte_flipped_is_refused(tmp_path: Path) -> None:
    write(tmp_path, 2)
    note = Signer(tmp_path, [KEY]).sign().note
    for flipped in flips(note):
        with pytest.raises(Unproven):
            open_checkpoint(flipped, [KEY.public])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "o\n1\n",
        "o\n01\nAAAA\n",
        "o\n-1\n" + "A" * 43 + "=\n",
        "o\n1\n" + "A" * 44 + "\n",
        "\n1\n" + "A" * 43 + "=\n",
    ],
)
def test_what_is_no_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(Unproven, match="no checkpoint"):
        Head.of(text)


def test_a_checkpoint_that_is_not_ours_stops_the_signer(tmp_path: Path) -> None:
    write(tmp_path, 2)
    Signer(tmp_path, [KEY]).sign()
    for path in Ring(tmp_path).folder.iterdir():
        path.unlink()
    write(tmp_path, 1)
    with pytest.raises(Unproven):
        Signer(tmp_path, [OTHER]).sign()


def test_a_following_key_is_vouched_for_by_the_one_before(tmp_path: Path) -> None:
    write(tmp_path, 2)
    Signer(tmp_path, [KEY]).sign()
    both = Signer(tmp_path, [OTHER, KEY]).sign()
    assert both.is_new
    assert open_checkpoint(both.note, [KEY.public])[0] == open_checkpoint(both.note, [OTHER.public])[0]
    write(tmp_path, 2)
    later = Signer(tmp_path, [OTHER]).sign()
    with pytest.raises(Unproven):
        open_checkpoint(later.note, [KEY.public])
    assert open_checkpoint(Checkpoints(tmp_path).load(2), Ring(tmp_path).all())[0].size == 2


# ---------------------------------------------------------------------------------------------- crashes, caches


def test_a_crash_between_any_two_steps_leaves_nothing_that_contradicts(tmp_path: Path) -> None:
    """The steps are: the key is remembered, the checkpoint kept, its edge saved, the copy made."""
    write(tmp_path, 5)
    elsewhere = tmp_path.parent / "elsewhere.txt"
    Signer(tmp_path, [KEY], Elsewhere(elsewhere)).sign()
    old_edge, old_copy = (tmp_path / ".checkpoints/.edge.json").read_bytes(), elsewhere.read_bytes()
    write(tmp_path, 5)
    whole = Signer(tmp_path, [KEY], Elsewhere(elsewhere)).sign()
    after = {
        "before the checkpoint": [tmp_path / ".checkpoints/10.txt", tmp_path / ".checkpoints/.edge.json", elsewhere],
        "before the edge": [tmp_path / ".checkpoints/.edge.json", elsewhere],
        "before the copy": [elsewhere],
    }
    for undone in after.values():
        for path in undone:
            if path.name == "10.txt":
                path.unlink()
            else:
                path.write_bytes(old_edge if path.name == ".edge.json" else old_copy)
        (tmp_path / ".checkpoints/.11.txt.1.1.tmp").write_bytes(b"half a no")
        again = Signer(tmp_path, [KEY], Elsewhere(elsewhere)).sign()
        assert (again.note, elsewhere.read_bytes()) == (whole.note, whole.note)


@pytest.mark.slow
def test_a_signer_that_is_killed_at_any_moment_leaves_nothing_that_contradicts(tmp_path: Path) -> None:
    folder, copy, dice = tmp_path / "audit", tmp_path / "copy.txt", random.Random(7)
    command = [sys.executable, "-m", "tests.audit.signing", str(folder), str(copy)]
    for _ in range(15):
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"up\n"
            with suppress(subprocess.TimeoutExpired):
                process.wait(dice.random() * 0.06)
            assert process.poll() is None, "it failed by itself"
            process.kill()
    last = Signer(folder, [KEY], Elsewhere(copy)).sign()
    kept = Checkpoints(folder)
    assert problems(folder, copy.read_bytes(), last.note, *(kept.load(size) for size in kept.sizes())) == []


@pytest.mark.parametrize("junk", [b"", b"{}", b'{"size": 3, "hashes": [], "digest": ""}', b'{"size": -1}'])
def test_a_spoilt_cache_costs_time_and_nothing_else(tmp_path: Path, junk: bytes) -> None:
    write(tmp_path, 5)
    Signer(tmp_path, [KEY]).sign()
    write(tmp_path, 1)
    (tmp_path / ".checkpoints/.edge.json").write_bytes(junk)
    assert problems(tmp_path, Signer(tmp_path, [KEY]).sign().note) == []


def test_a_head_is_signed_while_others_write(tmp_path: Path) -> None:
    import threading

    write(tmp_path, 3)
    writing = threading.Thread(target=write, args=(tmp_path, 150))
    writing.start()
    notes = [Signer(tmp_path, [KEY]).sign().note]
    while writing.is_alive():
        notes.append(Signer(tmp_path, [KEY]).sign().note)
    writing.join()
    assert problems(tmp_path, *notes, Signer(tmp_path, [KEY]).sign().note) == []


def test_older_checkpoints_are_thinned_out_by_day(tmp_path: Path) -> None:
    import os

    kept = Checkpoints(tmp_path)
    kept.folder.mkdir()
    for size in range(1, KEPT_WHOLE + 8):
        (kept.folder / f"{size}.txt").write_bytes(b"")
        moment = 1_790_000_000 + (size - 1) // 3 * 86400
        os.utime(kept.folder / f"{size}.txt", (moment, moment))
    kept.keep(Head("o", KEPT_WHOLE + 8, bytes(32)), b"note")
    assert kept.sizes() == [3, 6, *range(8, KEPT_WHOLE + 9)]


# ---------------------------------------------------------------------------------------------------- elsewhere


def test_a_copy_elsewhere_outlives_the_workspace_and_is_never_replaced_by_a_lie(tmp_path: Path) -> None:
    folder, copy = tmp_path / "audit", tmp_path / "safe.txt"
    write(folder, 6)
    true = Signer(folder, [KEY], Elsewhere(copy)).sign()
    assert (true.copied, copy.read_bytes()) == (str(copy), true.note)

    def forge(bodies: list[dict]) -> None:  # type: ignore[type-arg]
        bodies[2]["actor"] = "mallory"

    rewrite(folder, lines_of(folder), forge)
    for path in (folder / ".checkpoints").glob("*.txt"):
        path.unlink()
    (folder / ".checkpoints/.edge.json").unlink()
    with pytest.raises(Rewritten):
        Signer(folder, [KEY], Elsewhere(copy)).sign()
    shutil.rmtree(folder / ".checkpoints")
    with pytest.raises(Rewritten):
        Signer(folder, [KEY], Elsewhere(copy)).sign()
    assert copy.read_bytes() == true.note


def test_a_folder_keeps_each_and_a_git_repository_commits_each(tmp_path: Path) -> None:
    folder, many, repository = tmp_path / "audit", tmp_path / "many", tmp_path / "repository"
    many.mkdir()
    subprocess.run(["git", "init", "--quiet", str(repository)], check=True)
    for _ in range(3):
        write(folder, 2)
        Signer(folder, [KEY], Elsewhere(many)).sign()
        assert Signer(folder, [KEY], Elsewhere(repository)).sign().not_copied is None
    assert sorted(path.name for path in many.iterdir()) == ["2.txt", "4.txt", "6.txt"]
    log = subprocess.run(
        ["git", "-C", str(repository), "log", "--format=%an %s"], capture_output=True, text=True, check=True
    )
    assert [line.rsplit(" ", 1)[1] for line in log.stdout.splitlines()] == ["6", "4", "2"]
    assert Signer(folder, [KEY], Elsewhere(repository)).sign().copied == str(repository)


def test_a_copy_that_fails_is_told_and_the_head_is_signed_all_the_same(tmp_path: Path) -> None:
    write(tmp_path / "audit", 2)
    broken = tmp_path / "broken"
    (broken / ".git").mkdir(parents=True)
    signed = Signer(tmp_path / "audit", [KEY], Elsewhere(broken)).sign()
    assert signed.is_new
    assert "git add" in str(signed.not_copied)
    signed = Signer(tmp_path / "audit", [KEY], Elsewhere(tmp_path / "no" / "folder.txt")).sign()
    assert signed.not_copied is not None
