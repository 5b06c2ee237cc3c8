"""Durable files: the lock, what may be opened, what is exchanged."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
import time
from pathlib import Path

import pytest

from audit import files
from audit.files import Busy, FileLock, NotRegular, StorageFailed


def test_a_held_lock_makes_others_wait_and_then_tells_them_to_try_again(tmp_path: Path) -> None:
    one, two = FileLock(tmp_path / ".lock"), FileLock(tmp_path / ".lock")
    with one.hold(), pytest.raises(Busy, match="try again"), two.hold(timeout=0.05):
        pass
    with two.hold(timeout=0.05):
        pass


def test_threads_of_one_process_exclude_each_other(tmp_path: Path) -> None:
    lock, inside, most = FileLock(tmp_path / ".lock"), [0], [0]

    def work() -> None:
        for _ in range(50):
            with lock.hold():
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                inside[0] -= 1

    crowd = [threading.Thread(target=work) for _ in range(4)]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join()
    assert most == [1]


def test_a_fork_never_inherits_a_held_lock(tmp_path: Path) -> None:
    lock, holding, stop = FileLock(tmp_path / ".lock"), threading.Event(), threading.Event()

    def hold() -> None:
        with lock.hold():
            holding.set()
            time.sleep(0.05)
        stop.wait(5)

    holder = threading.Thread(target=hold)
    holder.start()
    holding.wait()
    child = os.fork()  # waits until nobody holds it
    if child == 0:
        try:
            with lock.hold(timeout=1):
                os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    stop.set()
    holder.join()


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    (tmp_path / "plain").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "plain")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        for name in ("fifo", "folder", "link", "socket"):
            with pytest.raises(NotRegular, match=name):
                files.read_regular(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        files.read_regular(tmp_path / "nothing")


def test_a_file_over_the_limit_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(b"x" * 101)
    with pytest.raises(NotRegular, match="101 bytes"):
        files.read_regular(tmp_path / "big", limit=100)
    (tmp_path / "fits").write_bytes(b"x" * 100)
    assert files.read_regular(tmp_path / "fits", limit=100)[0] == b"x" * 100


def test_a_file_is_read_whole_whatever_its_size(tmp_path: Path) -> None:
    for size in (0, 1, 64 * 1024, 200_000):
        (tmp_path / "file").write_bytes(os.urandom(size))
        assert files.read_regular(tmp_path / "file")[0] == (tmp_path / "file").read_bytes()


def test_an_exchange_shows_what_stood_there_in_the_very_instant(tmp_path: Path) -> None:
    new, target = tmp_path / "new", tmp_path / "target"
    new.write_bytes(b"first")
    assert files.swap_in(new, target) is False
    assert not new.exists()
    new.write_bytes(b"second")
    assert files.swap_in(new, target) is True
    assert (target.read_bytes(), new.read_bytes()) == (b"second", b"first")


def test_an_append_that_fails_is_taken_back(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"one\n")
    fd = os.open(tmp_path / "log", os.O_RDONLY)
    try:
        with pytest.raises((StorageFailed, OSError)):
            files.append(fd, b"two\n", 4)
    finally:
        os.close(fd)
    assert (tmp_path / "log").read_bytes() == b"one\n"


def test_a_full_disk_is_told_apart(tmp_path: Path) -> None:
    assert files.storage_error(OSError(28, "No space left on device"), "the log").full
    assert not files.storage_error(OSError(13, "Permission denied"), "the log").full


def test_a_kept_file_that_was_changed_is_kept_anew(tmp_path: Path) -> None:
    data = b"a text" * 100
    name = hashlib.sha256(data).hexdigest()
    files.keep_durably(tmp_path, name, data)
    (tmp_path / name).write_bytes(b"somebody's scribble")
    files.keep_durably(tmp_path, name, data)
    assert (tmp_path / name).read_bytes() == data
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_local_folder_is_supported(tmp_path: Path) -> None:
    files.check_supported(tmp_path)
