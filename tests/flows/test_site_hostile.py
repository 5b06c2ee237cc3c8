"""What an agent may try against its surroundings: each is stopped, or found and named."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from audit.verify import verify
from flows.agents import cage
from flows.agents.workplace import FOLDER
from flows.here import run_here
from flows.pipeline import Order
from flows.workspace import Workspace
from tests.api.running import server
from tests.flows.conftest import settings_for
from tests.flows.test_cage import LIMITS, needs_namespaces
from tests.flows.yard import EDITS, HONEST, Yard, a_yard, git

SECRET = "the-secret-of-the-harness"
FOUND = "found = []\n"
TELL = 'write("src/a.py", "\\n".join(map(str, found)) + "\\n")\nresult(op(1, "edit", "src/a.py"))\n'
TRY = """
def attempt(what, *given):
    try:
        found.append(what(*given))
    except Exception as error:
        found.append(type(error).__name__)
def plant(path, text="planted"):
    with open(path, "w") as file:
        file.write(text)
def read(path):
    with open(path, errors="replace") as file:
        return file.read()
"""


@pytest.fixture
def outside() -> Iterator[Path]:
    """A folder that is not in /tmp: that one every agent has to itself anyway."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="kircerta-test-") as folder:
        yield Path(folder)


@pytest.fixture
def yard(outside: Path) -> Iterator[Yard]:
    opened: list[Workspace] = []

    def open_workspace(**settings: Any) -> Workspace:
        opened.append(Workspace.open(settings_for(outside, **settings)))
        return opened[-1]

    yield a_yard(open_workspace, outside)
    opened[0].store.close()


def is_running(mark: str) -> bool:
    """Whether any process has the mark in its command."""
    for pid in os.listdir("/proc"):
        if pid.isdecimal():
            try:
                if mark.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                    return True
            except OSError:
                continue
    return False


def told_by(yard: Yard) -> str:
    """What the agent found out: the text that it wrote into its tree."""
    snapshot = yard.result().diff_snapshot
    assert snapshot is not None
    return snapshot.text or ""


@needs_namespaces
def test_an_agent_that_writes_outside_its_tree_writes_nowhere(yard: Yard, outside: Path) -> None:
    places = [
        outside / "planted",
        yard.checkout / "planted",
        yard.checkout / ".git" / "hooks" / "post-checkout",
        yard.home / "config" / "planted",
        Path(__file__).parent / "planted-by-an-agent",
        Path("/etc/planted-by-an-agent"),
    ]
    tries = "".join(f"attempt(plant, {str(path)!r})\n" for path in places)
    yard.agents(FOUND + TRY + tries + 'attempt(plant, "../../planted")\n' + TELL)
    yard.add()
    assert yard.run().name == "NeedsReview", yard.refusals()
    assert "+OSError" in told_by(yard)
    assert "+None" not in told_by(yard)
    assert not [path for path in places if path.exists()]
    assert not list((yard.home / ".kircerta").rglob("planted"))


@needs_namespaces
def test_an_agent_that_edits_task_files_or_the_log_changes_neither(yard: Yard) -> None:
    yard.add()
    task, log = yard.home / "ssot" / "tasks" / "T-1.json", yard.home / "audit" / "events.jsonl"
    tries = f"attempt(read, {str(task)!r})\nattempt(read, {str(log)!r})\n"
    tries += f"attempt(plant, {str(task)!r})\nattempt(plant, {str(log)!r})\nattempt(os.unlink, {str(log)!r})\n"
    yard.agents(FOUND + TRY + tries + TELL)
    assert yard.run().name == "NeedsReview", yard.refusals()
    assert "request_text" not in told_by(yard)
    assert "specversion" not in told_by(yard)
    assert not verify(yard.home / "audit").problem
    assert json.loads(task.read_bytes())["status"] == "needs_review"


@needs_namespaces
def test_the_secrets_of_the_harness_are_in_no_environment_file_or_process(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KIRCERTA_JWT_SECRET", SECRET * 2)
    monkeypatch.setenv("SOME_TOKEN", SECRET)
    (yard.home / ".secrets").mkdir(mode=0o700)
    (yard.home / ".secrets" / "jwt_secret").write_text(SECRET)
    (yard.home / ".env").write_text(SECRET)
    places = [yard.home / ".secrets" / "jwt_secret", yard.home / ".env", yard.home / "config" / "agents.toml"]
    tries = "".join(f"attempt(read, {str(path)!r})\n" for path in places)
    tries += f'attempt(read, "/proc/{os.getpid()}/environ")\nfound.append(dict(os.environ))\n'
    tries += f'attempt(read, "/proc/1/root{places[0]}")\n'
    tries += 'for pid in os.listdir("/proc"):\n    if pid.isdecimal(): attempt(read, f"/proc/{pid}/environ")\n'
    tries += 'for up in range(1, 8): attempt(read, "../" * up + ".secrets/jwt_secret")\n'
    tries += 'for up in range(1, 8): attempt(read, "/proc/self/cwd/" + "../" * up + ".secrets/jwt_secret")\n'
    yard.agents(FOUND + TRY + tries + 'found = [str(one).replace("\\0", " ") for one in found]\n' + TELL)
    yard.add()
    assert yard.run().name == "NeedsReview", yard.refusals()
    assert "FileNotFoundError" in told_by(yard)
    assert SECRET not in told_by(yard)
    assert SECRET not in (yard.home / "audit" / "events.jsonl").read_text()


@needs_namespaces
def test_secrets_that_are_kept_elsewhere_are_as_hidden_as_those_in_the_workspace(
    yard: Yard, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a file that a variable or a target names, behind a link, in the `.env` of the folder we were started in."""
    names = ("jwt", "github", "chat", "token")
    files = {name: outside / f"{name}.key" for name in names}
    for file in files.values():
        file.write_text(SECRET)
    (outside / "link").symlink_to(files["jwt"])
    monkeypatch.setenv("KIRCERTA_JWT_SECRET_FILE", str(outside / "link"))
    (outside / "started").mkdir()
    monkeypatch.chdir(outside / "started")
    Path(".env").write_text(f"KIRCERTA_GITHUB_SECRET_FILE={files['github']}\nSECRET={SECRET}\n")
    target = f'[target.chat]\nurl_file = "{files["chat"]}"\n'
    (yard.home / "config" / "notifications.toml").write_text(target)
    (outside / "kept").mkdir()
    (outside / "kept" / "signing_key").write_text(SECRET)
    (yard.home / ".secrets").symlink_to(outside / "kept")
    monkeypatch.setenv("KIRCERTA_TOKEN_FILE", str(files["token"]))
    places = [*files.values(), outside / "link", outside / "started" / ".env", outside / "kept" / "signing_key"]
    places += [yard.home / ".secrets" / "signing_key", yard.home / "config" / "notifications.toml"]
    yard.agents(FOUND + TRY + "".join(f"attempt(read, {str(path)!r})\n" for path in places) + TELL)
    yard.add()
    assert yard.run().name == "NeedsReview", yard.refusals()
    assert SECRET not in told_by(yard)
    assert "target.chat" not in told_by(yard)
    hidden = yard.result().observed.isolation.hidden  # type: ignore[union-attr]
    assert {".secrets", "the file of KIRCERTA_JWT_SECRET_FILE", "the URL of chat"} <= set(hidden)
    assert not [one for one in hidden if str(outside) in one], "no path of this machine is told"


@needs_namespaces
def test_a_way_back_out_of_the_folder_it_stands_in_is_closed(outside: Path) -> None:
    home = outside / "home"
    (home / "tree").mkdir(parents=True)
    (home / "key").write_text(SECRET)
    report, reports = os.pipe()
    spec = {"write": [str(home / "tree")], "hide": [str(home)], "network": False, "tmp_bytes": 1 << 20}
    words = [sys.executable, "-I", "-S", cage.__file__, json.dumps({**spec, "report": reports, "limits": LIMITS})]
    try:
        ran = subprocess.run(
            [*words, "sh", "-c", "cat ../key; cat /proc/self/cwd/../key; echo end > here"],
            cwd=home / "tree",
            pass_fds=(reports,),
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        os.close(report)
        os.close(reports)
    assert SECRET not in ran.stdout
    assert (home / "tree" / "here").read_text() == "end\n"


@needs_namespaces
def test_namespaces_of_its_own_take_nothing_back(yard: Yard) -> None:
    """Whoever makes a user namespace has every capability in it, and none over what was mounted outside of it."""
    (yard.home / ".secrets").mkdir()
    (yard.home / ".secrets" / "key").write_text(SECRET)
    hidden = str(yard.home / ".secrets")
    tries = f"""
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
found.append(libc.unshare(0x10000000 | 0x20000))
found.append(libc.umount2({hidden.encode()!r}, 2))
found.append(libc.mount(None, b"/", None, ctypes.c_ulong(32 | 4096), None))
os.makedirs("/tmp/again")
libc.mount(b"/", b"/tmp/again", None, ctypes.c_ulong(4096 | 16384), None)
for start in ("", "/tmp/again"):
    attempt(read, start + {hidden + "/key"!r})
    attempt(plant, start + "/etc/planted-by-an-agent")
"""
    yard.agents(FOUND + TRY + tries + TELL)
    yard.add()
    assert yard.run().name == "NeedsReview", yard.refusals()
    told = [line[1:] for line in told_by(yard).splitlines() if line.startswith("+") and "/" not in line]
    assert told == ["0", "-1", "-1", *["FileNotFoundError", "OSError"] * 2]
    assert not Path("/etc/planted-by-an-agent").exists()


@needs_namespaces
def test_an_agent_cannot_push_into_the_checkout_that_its_work_was_cloned_from(yard: Yard) -> None:
    before = git(yard.checkout, "for-each-ref")
    push = f'done = subprocess.run(["git", "push", {str(yard.checkout)!r}, "HEAD:refs/heads/mine"])\n'
    yard.agents(FOUND + push + "found.append(done.returncode != 0)\n" + TELL)
    yard.add()
    assert yard.run().name == "NeedsReview", yard.refusals()
    assert "+True" in told_by(yard)
    assert git(yard.checkout, "for-each-ref") == before


def test_what_an_agent_forks_does_not_outlive_it(yard: Yard) -> None:
    mark = f"left-behind-{os.getpid()}"
    forks = f"""
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execv(sys.executable, [sys.executable, "-I", "-S", "-c", "import time; time.sleep(60)", "{mark}"])
    os._exit(0)
"""
    yard.agents(forks + HONEST)
    yard.add()
    assert yard.run().name == "NeedsReview", yard.refusals()
    assert not is_running(mark)


def test_an_agent_that_fills_the_disk_is_stopped_and_it_says_why(yard: Yard) -> None:
    fills = 'for n in range(100000):\n    with open(f"fill-{n}", "wb") as file: file.write(bytes(1 << 20))\n'
    yard.agents(fills + "    time.sleep(0.01)\n" + HONEST, disk_bytes=20 << 20)
    yard.add()
    assert yard.run().name == "ExecutorFailed"
    assert "too_much_disk" in yard.refusals()[-1]["detail"]
    assert list((yard.home / FOLDER).iterdir()) == []


@pytest.mark.parametrize(
    "fills",
    [
        'os.mkdir("many")\nfor n in range(20000): open(f"many/{n}", "w").close()\n',
        'kept = []\nfor n in range(6):\n    kept.append(open("big", "wb", 0))\n'
        '    os.unlink("big")\n    kept[-1].write(bytes(10 << 20))\n',
        'for n in range(3000):\n    os.mkdir("deeper")\n    os.chdir("deeper")\nopen("leaf", "w").close()\n',
    ],
    ids=["with empty files", "with files that have no name", "deeper than a path can reach"],
)
def test_a_disk_that_is_filled_out_of_sight_is_seen(yard: Yard, fills: str) -> None:
    yard.agents(fills + "time.sleep(60)\n", disk_bytes=20 << 20)
    yard.add()
    assert yard.run().name == "ExecutorFailed"
    assert "too_much_disk" in yard.refusals()[-1]["detail"]
    assert list((yard.home / FOLDER).iterdir()) == []


def test_folders_deeper_than_a_path_can_reach_are_refused_and_removed(yard: Yard) -> None:
    """Nobody looks at the disk here: what an agent leaves must not stop the harness, now or at its next start."""
    deep = (
        'here = os.getcwd()\nfor n in range(3000):\n    os.mkdir("deeper")\n    os.chdir("deeper")\n'
        'os.mkdir(".git")\nos.chdir(here)\n'
    )
    yard.agents(deep + HONEST, disk_bytes=0)
    yard.add()
    assert yard.run().name == "ResultRefused"
    assert "too deep" in yard.refusals()[0]["detail"]
    assert list((yard.home / FOLDER).iterdir()) == []


def test_a_file_that_grows_over_its_limit_is_not_written(yard: Yard) -> None:
    grows = "import signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n" + FOUND + TRY
    yard.agents(
        grows
        + 'attempt(lambda: open("src/big", "wb", 0).write(bytes(8 << 20)) > 1 << 20)\n'
        + 'os.unlink("src/big")\n'
        + TELL,
        file_bytes=1 << 20,
    )
    yard.add()
    assert yard.run().name == "NeedsReview", yard.refusals()
    assert "+True" not in told_by(yard)


def test_an_agent_that_prints_a_gigabyte_is_stopped(yard: Yard) -> None:
    prints = 'line = b"x" * 65535 + b"\\n"\nfor n in range(16384): sys.stderr.buffer.write(line)\n'
    yard.agents(prints + HONEST)
    yard.add("T-1")
    assert yard.run("T-1").name == "NeedsReview", "what it says beside the protocol is read and forgotten"
    heartbeats = 'for n in range(1 << 24): say("heartbeat", note="x" * 1000)\n'
    yard.agents(heartbeats, output_bytes=2_000_000)
    yard.add("T-2")
    assert yard.run("T-2").name == "ExecutorFailed"
    assert "too_much_output" in yard.refusals("T-2")[-1]["detail"]


def test_a_changed_git_folder_hides_nothing_and_its_hooks_are_never_run(yard: Yard, outside: Path) -> None:
    trap = outside / "trapped"
    hooks = """
for name in ("post-checkout", "post-index-change", "pre-commit", "fsmonitor-watchman"):
    write(f".git/hooks/{name}", "#!/bin/sh\\ntouch TRAP\\n")
    os.chmod(f".git/hooks/{name}", 0o755)
write(".git/config", "[core]\\n\\tfsmonitor = touch TRAP\\n[diff]\\n\\texternal = touch TRAP\\n")
write(".git/info/exclude", "*\\n")
""".replace("TRAP", str(trap))
    yard.agents(
        hooks + EDITS + 'write("src/b.py", "x\\n")\n'
        'result(op(1, "edit", "src/a.py"))\nresult(op(1, "edit", "src/a.py"), op(2, "edit", "src/b.py"))\n'
    )
    yard.add("T-1", check="sh check.sh")
    assert yard.run().name == "NeedsReview", yard.refusals()
    assert yard.refusals()[0]["unmentioned"] == ["src/b.py"]
    assert not trap.exists()
    assert git(yard.checkout, "status", "--porcelain") == ""


def test_a_planted_symlink_is_told_as_one_and_leads_nobody_out(yard: Yard, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(SECRET)
    links = f'os.symlink({str(tmp_path / "key")!r}, "src/link")\nos.symlink({str(tmp_path)!r}, "src/folder")\n'
    yard.agents(links + 'result(op(1, "edit", "src/link"), op(2, "edit", "src/folder"))\n')
    yard.add()
    assert yard.run().name == "NeedsReview", yard.refusals()
    assert told_by(yard).count("new file mode 120000") == 2
    assert SECRET not in told_by(yard)
    through = (
        f'os.symlink({str(tmp_path)!r}, "out")\n'
        + 'diff = "--- /dev/null\\n+++ b/out/planted\\n@@ -0,0 +1 @@\\n+x\\n"\n'
    )
    yard.agents(through + 'result(op(1, "edit", "out"), diff=diff)\n')
    yard.add("T-2")
    assert yard.run("T-2").name == "ResultRefused"
    assert not (tmp_path / "planted").exists()


# -------------------------------------------------------------------------------- what this system lacks


def without_namespaces(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a program where the kernel gives no namespaces any more."""
    forbid = 'echo 0 > /proc/sys/user/max_user_namespaces; exec "$@"'
    words = ["unshare", "-Ur", "sh", "-c", forbid, "sh", *command]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)


@needs_namespaces
@pytest.mark.parametrize(("required", "out", "code"), [(False, "ran\n", 0), (True, "", 127)])
def test_where_namespaces_are_missing_it_is_said_and_required_means_not_started(
    required: bool, out: str, code: int
) -> None:
    spec = {"write": [], "hide": [], "network": False, "required": required, "tmp_bytes": 1 << 20, "report": 2}
    words = [sys.executable, "-I", "-S", cage.__file__, json.dumps({**spec, "limits": LIMITS}), "echo", "ran"]
    ran = without_namespaces(*words)
    assert (ran.stdout, ran.returncode) == (out, code)
    told = json.loads(ran.stderr.splitlines()[0])
    assert told["missing"][0].startswith("namespaces: ")
    assert told["limits"] == LIMITS


@needs_namespaces
def test_what_is_missing_can_be_asked_for() -> None:
    ask = "from flows.agents.enclosure import missing_here; print(missing_here())"
    root = str(Path(cage.__file__).parents[2])
    said = without_namespaces(sys.executable, "-c", f"import sys; sys.path.insert(0, {root!r}); {ask}")
    assert "namespaces: " in said.stdout
    from flows.agents.enclosure import missing_here

    assert missing_here() == ()


def test_an_agent_that_has_to_be_shut_in_is_not_started_without_a_place(yard: Yard) -> None:
    (yard.home / "config" / "projects.toml").write_text("[project.shop]\n")
    yard.agents(isolation="required")
    yard.add()
    assert yard.run().name == "ExecutorFailed"
    assert "names no checkout" in yard.refusals()[-1]["detail"]


@needs_namespaces
def test_an_agent_that_has_to_be_shut_in_works_where_all_of_it_holds(yard: Yard) -> None:
    yard.agents(isolation="required", processes=0)
    yard.add()
    assert yard.run().name == "NeedsReview", yard.refusals()
    isolation = yard.result().observed.isolation  # type: ignore[union-attr]
    assert (isolation.missing, isolation.network, isolation.no_new_privileges) == ((), False, True)


def test_a_checkout_that_is_none_ends_the_attempt_and_is_named(yard: Yard) -> None:
    (yard.home / "config" / "projects.toml").write_text('[project.shop]\ncheckout = "nowhere"\n')
    yard.add()
    assert yard.run().name == "ExecutorFailed"
    assert "no git repository" in yard.refusals()[-1]["detail"]


# ------------------------------------------------------------------------------------------------ the harness


def flees(mark: str) -> str:
    """A program's text that leaves its group and its parent and stays; the mark is whole in that process alone."""
    stays = f"[sys.executable, '-I', '-S', '-c', 'import time; time.sleep(300)', '{mark[:4]}' + '{mark[4:]}']"
    return f"import os, sys; os.fork() or (os.setsid(), os.fork() and os._exit(0)); os.execv(sys.executable, {stays})"


@pytest.mark.parametrize(
    ("busy_with", "places"),
    [
        ("the work", ["work"]),
        ("a command for the agent", ["work"]),
        ("a check", ["check", "work"]),
        ("a review", ["review"]),
    ],
)
def test_a_killed_harness_leaves_no_process_and_no_place_behind_the_next_start(
    yard: Yard, busy_with: str, places: list[str]
) -> None:
    mark = f"at-work-{os.getpid()}"
    stays = f"subprocess.Popen([sys.executable, '-I', '-S', '-c', {flees(mark)!r}])\ntime.sleep(300)\n"
    if busy_with == "the work":
        yard.agents(stays)
    elif busy_with == "a command for the agent":
        yard.agents(f"run_for_me(sys.executable, '-I', '-S', '-c', {flees(mark)!r})\n")
    elif busy_with == "a review":
        yard.agents(HONEST, stays)
    yard.add(check=(sys.executable, "-I", "-S", "-c", flees(mark)) if busy_with == "a check" else None)
    script = (
        "from pathlib import Path; from flows.here import run_here; from flows.pipeline import Order; "
        "from flows.workspace import Workspace; from ssot.settings import load; "
        f"settings = load(home=Path({str(yard.home)!r}), prefect_api_url=None); "
        "run_here(Workspace.open(settings), ['T-1'], Order('own', 'own'))"
    )
    harness = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _until(lambda: is_running(mark))
    finally:
        harness.send_signal(signal.SIGKILL)
        harness.wait()
    _until(lambda: not is_running(mark))
    assert sorted(one.name.rpartition("~")[2] for one in (yard.home / FOLDER).iterdir()) == places
    run_here(yard.workspace, [], Order())
    assert list((yard.home / FOLDER).iterdir()) == []


def _until(holds: object, patience_s: float = 30.0) -> None:
    until = time.monotonic() + patience_s
    while not holds():  # type: ignore[operator]
        assert time.monotonic() < until, "it did not come true"
        time.sleep(0.02)


@contextmanager
def somebody_at_the_dashboard(home: Path) -> Iterator[list[float]]:
    """Asks a server of the workspace for the page, its tasks and one of them, over and over; gives the answers' times.

    Fails where one of them is not a 200.
    """
    over, times, wrong = threading.Event(), list[float](), list[int]()

    def look(port: int) -> None:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as client:
            while not over.wait(0.1):
                for path in ("/", "/api/tasks", "/api/tasks/T-7"):
                    begun = time.monotonic()
                    wrong.extend({client.get(path).status_code} - {200})
                    times.append(time.monotonic() - begun)

    with server(home) as (_, port):
        looking = threading.Thread(target=look, args=(port,))
        looking.start()
        try:
            yield times
        finally:
            over.set()
            looking.join()
    assert wrong == []


@pytest.mark.slow
def test_fifty_agents_at_once_mix_nothing_up_and_the_dashboard_is_alive(yard: Yard) -> None:
    works = """
name = job["task_id"]
write(f"src/{name}.txt", f"made by {name}\\n")
done = run_for_me("cat", f"src/{name}.txt")
assert done.stdout == f"made by {name}\\n", done
assert sorted(os.listdir("src")) == sorted(["a.py", f"{name}.txt"])
result(op(1, "edit", f"src/{name}.txt"), op(2, "test", f"cat src/{name}.txt", 0))
"""
    reads = "verdict(open(f\"src/{job['task_id']}.txt\").read())\n"
    yard.agents(works, reads)
    names = [yard.add(f"T-{number}", check=f"cat src/T-{number}.txt") for number in range(50)]

    async def all_of_them() -> list[str]:
        return [one.name for one in await asyncio.gather(*(yard.take(name) for name in names))]

    with somebody_at_the_dashboard(yard.home) as times:
        assert set(asyncio.run(all_of_them())) == {"NeedsReview"}
    assert len(times) > 30
    assert max(times) < 5.0
    for name in names:
        observed = yard.result(name).observed
        assert observed is not None
        assert observed.changed == (f"src/{name}.txt",)
        assert [one.tail for one in (*observed.commands, *observed.checks)] == [f"made by {name}\n"] * 2
        assert yard.attempt(name).verdict.summary == f"made by {name}\n"  # type: ignore[union-attr]
    assert list((yard.home / FOLDER).iterdir()) == []
