"""Keeps one agent: starts it, and sees to it that nothing the agent started outlives its session.

A script between kircerta and the agent: `python -I -S keeper.py CONTROL_FD GRACE_S COMMAND…`. Only the
standard library. The agent inherits stdin, stdout and stderr. The keeper ends, with the agent's exit code
(128 + n for signal n), in one of three ways:

- the agent ends: whatever it left behind is killed;
- a byte arrives on CONTROL_FD (the session was closed): SIGTERM to the group, SIGKILL to all after GRACE_S;
- CONTROL_FD reaches its end (kircerta is gone, kill -9 included): SIGKILL to all at once.

On Linux the keeper is a child subreaper (prctl(2), PR_SET_CHILD_SUBREAPER): a process that left the group
with setsid is still found and killed. Elsewhere the process group is what is killed. Not guaranteed: an agent
that kills its own keeper first frees its detached children; only another user or a container prevents that.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time

PR_SET_CHILD_SUBREAPER = 36
NOT_STARTED = 127


def main(arguments: list[str]) -> int:
    control, grace, command = int(arguments[0]), float(arguments[1]), arguments[2:]
    os.set_inheritable(control, False)
    ended = _hear_of_children()
    reaper = _become_subreaper()
    try:
        agent = _spawn(command, own_group=not reaper)
    except OSError as error:
        sys.stderr.write(f"{command[0]}: {error.strerror}\n")
        return NOT_STARTED
    _let_go_of_the_pipes()
    status = _wait(agent, control, ended, grace, group=0 if reaper else agent)
    _kill_all(agent, reaper=reaper)
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


def _hear_of_children() -> int:
    """Readable whenever a child has ended."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, _nothing)  # a handler, not SIG_IGN: the agent would inherit that
    hear, tell = os.pipe()
    os.set_blocking(hear, False)
    os.set_blocking(tell, False)
    signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    return hear


def _nothing(number: int, frame: object) -> None:
    """SIGTERM is for the agent; the keeper gets it too, being in the same group."""


def _become_subreaper() -> bool:
    if sys.platform != "linux":
        return False
    import ctypes  # only here: a keeper starts for every dispatch

    return bool(ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)


def _spawn(command: list[str], *, own_group: bool) -> int:
    """Start the agent with the signals as a program expects them (Python ignores SIGPIPE)."""
    defaults = (signal.SIGPIPE, signal.SIGXFSZ)
    if own_group:
        return os.posix_spawnp(command[0], command, os.environ, setpgroup=0, setsigmask=(), setsigdef=defaults)
    return os.posix_spawnp(command[0], command, os.environ, setsigmask=(), setsigdef=defaults)


def _let_go_of_the_pipes() -> None:
    """Only the agent holds them from here on, so that its closing stdout is seen as that."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nowhere, number)
    os.close(nowhere)


def _wait(agent: int, control: int, ended: int, grace: float, *, group: int) -> int:
    """Until the agent has ended, by itself or by order; its wait status."""
    while True:
        status = _reap_until(agent)
        if status is not None:
            return status
        ready, _, _ = select.select([control, ended], [], [])
        if control in ready:
            break
        os.read(ended, 4096)
    if os.read(control, 1):
        _ask_to_end(agent, ended, grace, group)
    with contextlib.suppress(ProcessLookupError):
        os.kill(agent, signal.SIGKILL)
    while (status := _reap_until(agent)) is None:
        select.select([ended], [], [], 0.1)
    return status


def _ask_to_end(agent: int, ended: int, grace: float, group: int) -> None:
    """SIGTERM to the group, and a while for the agent itself to end; it is left to be reaped."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGTERM)
    deadline = time.monotonic() + grace
    while (left := deadline - time.monotonic()) > 0:
        if os.waitid(os.P_PID, agent, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return
        ready, _, _ = select.select([ended], [], [], left)
        if ready:
            os.read(ended, 4096)


def _reap_until(agent: int) -> int | None:
    """Take in every child that has ended; the agent's status when it is among them."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return 0
        if pid == 0:
            return None
        if pid == agent:
            return status


def _kill_all(agent: int, *, reaper: bool) -> None:
    """Kill what the agent left behind. Orphans become our children, so the end is when we have none."""
    if not reaper:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(agent, signal.SIGKILL)
        return
    while True:
        for child in _children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _children() -> list[int]:
    """Processes whose parent we are. /proc/…/children is not in every kernel: read the parents instead."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with (
                contextlib.suppress(OSError, IndexError, ValueError),
                open(f"/proc/{name}/stat", "rb") as stat,
            ):
                # the command's name may hold blanks and parentheses: what counts comes after the last one
                if int(stat.read().rpartition(b")")[2].split()[1]) == os.getpid():
                    found.append(int(name))
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
