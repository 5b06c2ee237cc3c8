"""Blanks: inodes that were displaced are used again, unless anybody might notice."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from audit import blank, files
from audit.blank import Blanks


@pytest.fixture
def shown(tmp_path: Path) -> Path:
    folder = tmp_path / "shown"
    folder.mkdir()
    return folder


@pytest.fixture
def blanks(tmp_path: Path, shown: Path) -> Blanks:
    return Blanks(tmp_path / "blank", shown)


def displace(blanks: Blanks, path: Path, data: bytes) -> None:
    """Show new bytes at a path, as a commit does."""
    blanks.ready()
    temporary = path.with_name(".tmp")
    blanks.fill(temporary, data)
    if files.swap_in(temporary, path):
        blanks.take_back(temporary)


def rest() -> None:
    """Until what was displaced may be used again."""
    until = time.monotonic() + blank.REST_S
    while time.monotonic() <= until:
        time.sleep(until - time.monotonic() + 0.001)


def drain(blanks: Blanks, shown: Path) -> list[int]:
    """The inodes that the next files get, until the ones at hand and those that rested are used up."""
    found = []
    for number in range(4):
        blanks.ready()
        blanks.fill(shown / f"next-{number}", b"next")
        found.append((shown / f"next-{number}").stat().st_ino)
    return found


def test_as_many_are_ready_as_are_asked_for_and_never_too_many(blanks: Blanks, tmp_path: Path) -> None:
    for asked, ready in ((3, 3), (2, 3), (1000, blank.MOST)):
        blanks.ready(asked)
        assert len(list((tmp_path / "blank").iterdir())) == ready
    blanks.close()
    assert list((tmp_path / "blank").iterdir()) == []


def test_what_was_displaced_is_used_again_with_nothing_of_it_left(blanks: Blanks, shown: Path) -> None:
    path = shown / "T-1.json"
    displace(blanks, path, b"one, which is longer\n")
    inode = path.stat().st_ino
    displace(blanks, path, b"two\n")
    rest()
    assert inode in drain(blanks, shown)
    assert path.read_bytes() == b"two\n"
    assert {(shown / f"next-{number}").read_bytes() for number in range(4)} == {b"next"}
    assert not list(shown.glob(".*"))


def test_what_was_displaced_just_now_is_left_alone_for_a_moment(blanks: Blanks, shown: Path) -> None:
    path = shown / "T-1.json"
    displace(blanks, path, b"one\n")
    with path.open("rb") as file:  # keeps its number from being given out again
        inode = path.stat().st_ino
        displace(blanks, path, b"two\n")
        assert inode not in drain(blanks, shown)
        assert file.read() == b"one\n"


@pytest.mark.parametrize("mode", ["rb", "r+b"])
def test_a_displaced_file_that_somebody_has_open_stays_what_it_was(blanks: Blanks, shown: Path, mode: str) -> None:
    path = shown / "T-1.json"
    displace(blanks, path, b"one\n")
    with path.open(mode) as file:
        inode = path.stat().st_ino
        displace(blanks, path, b"two\n")
        rest()
        assert inode not in drain(blanks, shown)
        assert file.read() == b"one\n"


@pytest.mark.parametrize(
    "mark",
    [lambda path: os.link(path, path.with_name("copy")), lambda path: path.chmod(0o600)],
    ids=["another name", "other rights"],
)
def test_a_displaced_file_that_is_marked_by_somebody_is_not_used_again(
    blanks: Blanks, shown: Path, mark: Callable[[Path], None]
) -> None:
    path = shown / "T-1.json"
    displace(blanks, path, b"one\n")
    mark(path)
    kept = os.open(path, os.O_PATH)  # keeps its number from being given out again
    displace(blanks, path, b"two\n")
    rest()
    assert os.fstat(kept).st_ino not in drain(blanks, shown)
    assert not (shown / "copy").exists() or (shown / "copy").read_bytes() == b"one\n"
    os.close(kept)


def test_where_new_files_would_get_another_group_none_are_kept(tmp_path: Path, shown: Path) -> None:
    shown.chmod(0o2755)
    blanks = Blanks(tmp_path / "blank", shown)
    displace(blanks, shown / "T-1.json", b"one\n")
    displace(blanks, shown / "T-1.json", b"two\n")
    assert (shown / "T-1.json").read_bytes() == b"two\n"
    assert list((tmp_path / "blank").iterdir()) == []


def test_a_forked_process_leaves_its_parents_blanks_alone(blanks: Blanks, shown: Path, tmp_path: Path) -> None:
    blanks.ready()
    mine = {path.name for path in (tmp_path / "blank").iterdir()}
    pid = os.fork()
    if pid == 0:
        blanks.fill(shown / "child", b"child")
        blanks.ready()
        blanks.close()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert (shown / "child").read_bytes() == b"child"
    assert {path.name for path in (tmp_path / "blank").iterdir()} == mine


def test_a_blank_that_somebody_removed_costs_nothing_but_the_shortcut(
    blanks: Blanks, shown: Path, tmp_path: Path
) -> None:
    blanks.ready()
    for path in (tmp_path / "blank").iterdir():
        path.unlink()
    blanks.fill(shown / "T-1.json", b"one\n")
    assert (shown / "T-1.json").read_bytes() == b"one\n"


def test_those_of_processes_that_died_are_removed_once_they_are_old(
    blanks: Blanks, shown: Path, tmp_path: Path
) -> None:
    blanks.ready()
    old, young = tmp_path / "blank" / "old", tmp_path / "blank" / "young"
    old.touch()
    young.touch()
    os.utime(old, (time.time() - blank.FORGOTTEN_S - 60,) * 2)
    blanks.clear_forgotten()
    assert not old.exists()
    assert young.exists()


def test_closing_removes_those_at_hand(blanks: Blanks, shown: Path, tmp_path: Path) -> None:
    displace(blanks, shown / "T-1.json", b"one\n")
    displace(blanks, shown / "T-1.json", b"two\n")
    blanks.ready()
    blanks.close()
    assert list((tmp_path / "blank").iterdir()) == []
