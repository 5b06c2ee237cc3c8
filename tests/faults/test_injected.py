"""Every system call of a commit fails or is the last one: what was acknowledged stands, the rest is whole or absent."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.faults import committer, injecting
from tests.faults.injecting import Committer, NoTracing
from tests.faults.world import Promise

UNINTERESTING = frozenset({"write", "exit_group", "mmap", "munmap", "mremap", "brk", "getpid", "ioctl"})
"""`write` only tells the test; a failing `mmap` is memory that ran out, which Python itself answers."""

MEMORY = Path("/dev/shm")

Template = tuple[Path, list[Promise]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """In memory where that can be: calls fail and processes die here, the disk has no part in it."""
    in_memory = MEMORY if os.access(MEMORY, os.W_OK) else tmp_path_factory.mktemp("injected")
    with TemporaryDirectory(dir=in_memory, prefix="kircerta-injected-") as made:
        yield Path(made)


@pytest.fixture(scope="module")
def template(folder: Path) -> Template:
    home = folder / "template"
    home.mkdir()
    return home, committer.prepare(home)


@pytest.fixture
def copies(folder: Path) -> Iterator[Path]:
    """Where a test puts its copies of the template."""
    with TemporaryDirectory(dir=folder) as made:
        yield Path(made)


@pytest.fixture(scope="module")
def forker() -> Iterator[Committer]:
    if injecting.STRACE is None:
        pytest.skip("strace is not installed")
    with injecting.committer() as process:
        yield process


def run_and_check(template: Template, forker: Committer, home: Path, inject: str, limit: int = 0) -> list[str]:
    """What is wrong after one injected run on a fresh copy."""
    shutil.copytree(template[0], home)
    told = forker.run(home, inject, limit=limit)
    found = injecting.check(home, told, template[1])
    shutil.rmtree(home)
    return [f"{inject}: {problem}" for problem in found]


def counted(template: Template, forker: Committer, copies: Path) -> dict[str, int]:
    """How often the untouched run makes each system call."""
    home = copies / "untouched"
    shutil.copytree(template[0], home)
    try:
        told = forker.run(home, trace=copies / "trace")
    except NoTracing as reason:
        pytest.skip(f"processes may not be traced here: {reason}")
    assert told.failures == []
    assert len(told.promises) == 5
    assert injecting.check(home, told, template[1]) == []
    counts = injecting.calls(copies / "trace")
    assert {"pwrite64", "fdatasync", "fsync", "renameat2", "flock", "openat", "unlink"} <= counts.keys()
    return {name: count for name, count in counts.items() if name not in UNINTERESTING}


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["signal=KILL", "error=EIO", "error=ENOSPC"])
def test_a_fault_at_any_system_call_of_a_commit_loses_nothing_and_leaves_nothing_half(
    template: Template, forker: Committer, copies: Path, fault: str
) -> None:
    problems = []
    for name, count in counted(template, forker, copies).items():
        for when in range(1, count + 1):
            problems += run_and_check(template, forker, copies / "home", f"{name}:{fault}:when={when}")
    assert problems == []


@pytest.mark.slow
def test_interrupted_system_calls_are_made_again(template: Template, forker: Committer, copies: Path) -> None:
    for name in ("flock", "pwrite64", "fdatasync"):
        home = copies / name
        shutil.copytree(template[0], home)
        try:
            told = forker.run(home, f"{name}:error=EINTR:when=1+2")
        except NoTracing as reason:
            pytest.skip(f"processes may not be traced here: {reason}")
        assert told.failures == []
        assert injecting.check(home, told, template[1]) == []


@pytest.mark.slow
def test_a_write_that_ends_anywhere_in_a_line_is_taken_back_or_put_aside(
    template: Template, forker: Committer, copies: Path
) -> None:
    """The process may write so far and no further; half of the times it dies before it can take the rest back."""
    end = (template[0] / "audit" / "events.jsonl").stat().st_size
    problems = []
    for cut in range(1, 700, 45):
        fault = "ftruncate:signal=KILL:when=1" if cut % 2 else "ftruncate:error=EINTR:when=99"
        problems += run_and_check(template, forker, copies / "home", fault, limit=end + cut)
    assert problems == []
