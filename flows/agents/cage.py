"""Shuts one program in: a script between keeper and agent, `python -I -S cage.py SPEC COMMAND…`. Standard library.

SPEC is JSON (no secret stands in it: arguments can be read by others):

    {"write": [paths], "read": [paths], "hide": [paths], "network": false, "required": false, "tmp_bytes": n,
     "report": fd, "limits": {"cpu_s": n, "memory_bytes": n, "file_bytes": n, "processes": n, "files": n}}

Where the kernel allows user namespaces the program gets, without anybody's privileges, a file system that is read-only
but for `write` and a /tmp of its own, empty folders where `hide` are (`read` shows through them), processes that it
alone sees, and no network. It
keeps no capability with which it could take that back. What is in force is told on `report` as one line of JSON before
the program starts. What this system does not allow stands under `missing`; where `required`, nothing starts then.

Sources: unshare(2), mount(2), mount_setattr(2), user_namespaces(7), capabilities(7), setrlimit(2).
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import stat
import sys
from contextlib import suppress
from typing import Any

NOT_STARTED = 127
SHUT_IN = "AGENT_IS_SHUT_IN"
"""A variable of the program's: the cage is closed around it, and it need not, and cannot, close one of its own."""

CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x20000, 0x10000000, 0x20000000, 0x40000000
CLONE_NEWIPC, CLONE_NEWUTS = 0x08000000, 0x04000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 8, 4096, 16384, 1 << 18
PR_SET_PDEATHSIG, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 24, 38
SYS_MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE, MOUNT_ATTR_RDONLY = 442, -100, 0x8000, 1
CAPABILITY_VERSION_3 = 0x20080522

_LIBC = ctypes.CDLL(None, use_errno=True)


def main(arguments: list[str]) -> int:
    spec, command = json.loads(arguments[0]), arguments[1:]
    in_force: dict[str, Any] = {"namespaces": [], "missing": []}
    _limit(spec["limits"], in_force)
    if not _separate(spec, in_force):
        _tell(spec, in_force)
        return NOT_STARTED if spec.get("required") else _run(command)
    # A process namespace begins with the next child: it mounts what is its own, and everything in it dies with it.
    child = os.fork()
    if child:
        return _status_of(child)
    _die_with_parent()
    _close_the_view(spec, in_force)
    _limit_processes(spec["limits"], in_force)
    _give_up_capabilities(in_force)
    _tell(spec, in_force)
    if spec.get("required") and in_force["missing"]:
        return NOT_STARTED
    os.environ[SHUT_IN] = "1"
    return _run(command)


# ------------------------------------------------------------------------------------------------ limits


def _limit(limits: dict[str, int], in_force: dict[str, Any]) -> None:
    kinds = {
        "cpu_s": resource.RLIMIT_CPU,
        "memory_bytes": resource.RLIMIT_AS,
        "file_bytes": resource.RLIMIT_FSIZE,
        "files": resource.RLIMIT_NOFILE,
    }
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    in_force["limits"] = {name: _set(kinds[name], limits[name]) for name in kinds if name in limits}


def _set(kind: int, value: int) -> int:
    hard = resource.getrlimit(kind)[1]
    most = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (most, most))
    return most


def _limit_processes(limits: dict[str, int], in_force: dict[str, Any]) -> None:
    """Processes are counted by user: only in a user namespace are they the program's alone."""
    if "processes" not in limits:
        return
    if os.getuid() == 0:
        in_force["missing"].append("processes: the kernel does not count them for root")
    else:
        in_force["limits"]["processes"] = _set(resource.RLIMIT_NPROC, limits["processes"])


# -------------------------------------------------------------------------------------------- namespaces


def _separate(spec: dict[str, Any], in_force: dict[str, Any]) -> bool:
    """Enter namespaces of our own. False where the system does not allow them: then there are limits, nothing else."""
    if not sys.platform.startswith("linux"):
        in_force["missing"].append("namespaces: not on this system")
        return False
    flags = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS
    flags |= 0 if spec["network"] else CLONE_NEWNET
    uid, gid = os.getuid(), os.getgid()
    if _LIBC.unshare(flags) != 0:
        in_force["missing"].append(f"namespaces: {os.strerror(ctypes.get_errno())}")
        return False
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"{uid} {uid} 1")
    _write("/proc/self/gid_map", f"{gid} {gid} 1")
    in_force["namespaces"] = ["user", "mount", "pid", "ipc", "uts"] + ([] if spec["network"] else ["net"])
    in_force["network"] = bool(spec["network"])
    return True


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _die_with_parent() -> None:
    """The parent is killed with the session; as the first of its namespace our end is everybody's."""
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _status_of(child: int) -> int:
    def pass_on(number: int, frame: object) -> None:
        with suppress(ProcessLookupError):
            os.kill(child, number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, pass_on)
    _, status = os.waitpid(child, 0)
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


# -------------------------------------------------------------------------------------------- file system


def _close_the_view(spec: dict[str, Any], in_force: dict[str, Any]) -> None:
    here = os.getcwd()
    _mount("none", "/", None, MS_REC | MS_PRIVATE)
    shown = [path for path in spec.get("read", ()) if os.path.exists(path)]
    kept = {path: os.open(path, os.O_PATH | os.O_CLOEXEC) for path in (*shown, *spec["write"])}
    _mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    for path in ("/tmp", "/dev/shm"):
        if os.path.isdir(path):
            _mount("tmpfs", path, "tmpfs", MS_NOSUID | MS_NODEV, f"mode=1777,size={spec['tmp_bytes']}")
    covered = [path for path in spec["hide"] if _hide(path)]
    # What may be written, or read all the same, is mounted again by itself, over whatever hides it.
    for path, fd in kept.items():
        _make_room(path, fd)
        _mount(f"/proc/self/fd/{fd}", path, None, MS_BIND)
    _set_read_only("/", read_only=True)
    for path in (*spec["write"], "/tmp", "/dev/shm"):
        if os.path.isdir(path):
            _set_read_only(path, read_only=False)
    for fd in kept.values():
        os.close(fd)
    # The folder that we stand in is still the one below the mounts: from there `..` would lead behind what hides.
    os.chdir(here if os.path.isdir(here) else "/")
    in_force["writable"] = [*spec["write"], "/tmp"]
    in_force["hidden"] = covered


def _make_room(path: str, fd: int) -> None:
    """Something to mount on, where what hides the path left nothing."""
    if stat.S_ISDIR(os.fstat(fd).st_mode):
        os.makedirs(path, exist_ok=True)
    elif not os.path.lexists(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))


def _hide(path: str) -> bool:
    """Put something empty in the place of a folder or file; False where there is none."""
    try:
        kind = os.lstat(path).st_mode
    except OSError:
        return False
    if stat.S_ISDIR(kind):
        _mount("tmpfs", path, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0755,size=64k")
        return True
    if stat.S_ISREG(kind) or stat.S_ISSOCK(kind):
        _mount("/dev/null", path, None, MS_BIND)
        return True
    return False


def _mount(source: str, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    given = [None if one is None else one.encode() for one in (source, target, kind, options)]
    if _LIBC.mount(given[0], given[1], given[2], ctypes.c_ulong(flags), given[3]) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), target)


class _MountAttributes(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("attr_set", "attr_clr", "propagation", "userns_fd")]


def _set_read_only(path: str, *, read_only: bool) -> None:
    on, off = (MOUNT_ATTR_RDONLY, 0) if read_only else (0, MOUNT_ATTR_RDONLY)
    attributes = _MountAttributes(on, off, 0, 0)
    flags = AT_RECURSIVE if read_only else 0
    done = _LIBC.syscall(
        SYS_MOUNT_SETATTR, AT_FDCWD, path.encode(), flags, ctypes.byref(attributes), ctypes.sizeof(attributes)
    )
    if done != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), path)


# ------------------------------------------------------------------------------------------- capabilities


class _CapabilityHeader(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _CapabilitySets(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable")]


def _give_up_capabilities(in_force: dict[str, Any]) -> None:
    """Whoever is root inside could undo the mounts: nothing that is started from here on gets a capability again."""
    last = 63
    for number in range(last + 1):
        _LIBC.prctl(PR_CAPBSET_DROP, number, 0, 0, 0)
    header, sets = _CapabilityHeader(CAPABILITY_VERSION_3, 0), (_CapabilitySets * 2)()
    if _LIBC.capset(ctypes.byref(header), ctypes.byref(sets)) != 0:
        raise OSError(ctypes.get_errno(), "capset")
    if _LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "no_new_privs")
    in_force["no_new_privileges"] = True


# ----------------------------------------------------------------------------------------------- the program


def _tell(spec: dict[str, Any], in_force: dict[str, Any]) -> None:
    fd = spec["report"]
    os.write(fd, json.dumps(in_force).encode() + b"\n")
    os.close(fd)


def _run(command: list[str]) -> int:
    """Start the program and be the parent of whatever it leaves behind, until it has ended."""
    try:
        agent = os.posix_spawnp(
            command[0], command, os.environ, setsigmask=(), setsigdef=(signal.SIGPIPE, signal.SIGXFSZ)
        )
    except OSError as error:
        sys.stderr.write(f"{command[0]}: {error.strerror}\n")
        return NOT_STARTED
    for number in (0, 1, 2):  # only the program holds them: its closing stdout is seen as that
        with suppress(OSError):
            os.close(number)

    def pass_on(number: int, frame: object) -> None:
        with suppress(ProcessLookupError):
            os.kill(agent, number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, pass_on)
    while True:
        try:
            pid, status = os.waitpid(-1, 0)
        except ChildProcessError:
            return NOT_STARTED
        if pid == agent:
            return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


if __name__ == "__main__":
    try:
        code = main(sys.argv[1:])
    except OSError as error:
        sys.stderr.write(f"the cage could not be closed: {error}\n")
        code = NOT_STARTED
    os._exit(code)
