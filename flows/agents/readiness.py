"""Whether an agent would run: its program, its version, what it is started with. Starts only `--version`."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Final

from flows.agents import profiles
from flows.agents.enclosure import missing_here
from flows.agents.registry import AgentConfig, Agents, Role
from flows.agents.subprocess_agent import environment

VERSION_TIMEOUT_S: Final = 30.0
ROLES: Final[tuple[Role, ...]] = ("executor", "reviewer")
_PARTS: Final[dict[Role, tuple[profiles.Part, ...]]] = {"executor": ("echo", "work"), "reviewer": ("review",)}


@dataclass(frozen=True, slots=True)
class Readiness:
    """One agent in one role.

    Args:
        kind: ``built-in``, ``command`` (it speaks our lines itself) or ``profile NAME``.
        program: where the program is; None where it is not found.
        version: the first line that it says to ``--version``; None where it was not asked or said nothing.
        lines: the command lines, with a place for the prompt.
        shut_in: those that take another one's place where the cage is closed around the agent.
        passed, missing: names of variables that it would get, and of those that are not set here.
        problems: why it would not run. None: it would.
        remarks: what is worth knowing all the same.
    """

    name: str
    role: Role
    kind: str
    principal: str = ""
    program: str | None = None
    version: str | None = None
    folder: str = ""
    lines: tuple[tuple[str, ...], ...] = ()
    shut_in: tuple[tuple[str, ...], ...] = ()
    passed: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    remarks: tuple[str, ...] = field(default=())

    @property
    def ok(self) -> bool:
        return not self.problems


def installed() -> dict[str, str | None]:
    """Where the program of each profile is; None where it is not installed."""
    known = {name: one.program for name, one in profiles.BUILT_IN.items() if one.program}
    return {name: shutil.which(program[0]) for name, program in known.items()}


def all_agents(agents: Agents, home: Path) -> list[Readiness]:
    """Every agent in each of its roles, without starting anything: versions are not asked."""
    return [readiness(agents, home, role, name, ask=False) for role in ROLES for name in agents.names(role)]


def readiness(agents: Agents, home: Path, role: Role, name: str, *, ask: bool = True) -> Readiness:
    """How one agent stands. `ask`: whether its program is asked for its version, and this system for a cage.

    Raises:
        UnknownAgent: there is no such agent in that role, or not with such options.
    """
    agent = agents.executor(name) if role == "executor" else agents.reviewer(name)
    base = name.partition(":")[0]
    config = agents.config(role, base)
    if config is None:
        return Readiness(name, role, "built-in", agent.principal)
    profile, options = config.as_profile(), {**config.options, **agent.options}
    lines = tuple(profile.line(part, options) for part in _PARTS[role]) if profile else (config.command,)
    caged = tuple(profile.line(part, options, shut_in=True) for part in _PARTS[role]) if profile else lines
    folder = home / config.cwd if config.cwd else home
    program = _find(lines[0][0], folder, config)
    version, problems = (
        (None, []) if program is None or not ask else _version(lines[0], program, profile, folder, config)
    )
    if program is None:
        problems.append(f"{lines[0][0]} is not on the PATH: install it, or name it in `command`")
    if not folder.is_dir():
        problems.append(f"{folder} is no folder: `cwd` names where the agent works")
    return Readiness(
        name,
        role,
        f"profile {config.profile}" if profile else "command",
        config.principal,
        program=program,
        version=version,
        folder=str(folder),
        lines=lines,
        shut_in=tuple(line for line in caged if line not in lines),
        passed=tuple(key for key in config.passed if key in os.environ or key in config.env),
        missing=tuple(key for key in config.passed if key not in os.environ and key not in config.env),
        problems=tuple(problems),
        remarks=_remarks(role, config, folder, ask=ask),
    )


def _remarks(role: Role, config: AgentConfig, folder: Path, *, ask: bool) -> tuple[str, ...]:
    found = []
    if config.cwd is None and role == "executor":
        found.append("it works in the workspace itself: `cwd` names a checkout for it")
    elif config.profile is not None and role == "executor" and not _is_in_git(folder):
        found.append("its folder is in no git work tree: its results have no diff")
    if config.profile is not None and not config.network:
        found.append("in a place of its own it gets no network: most programs need `network = true` for their model")
    if ask and (missing := _missing_here()):
        found.append(f"it cannot be shut in wholly here: {'; '.join(missing)}")
    return tuple(found)


def _is_in_git(folder: Path) -> bool:
    return any((one / ".git").exists() for one in (folder, *folder.parents))


def _find(program: str, folder: Path, config: AgentConfig) -> str | None:
    """Where the program is, with the PATH that the agent would have."""
    path = environment(config.env).get("PATH", os.defpath)
    return shutil.which(str(folder / program) if "/" in program else program, path=path)


def _version(
    line: tuple[str, ...], program: str, profile: profiles.Profile | None, folder: Path, config: AgentConfig
) -> tuple[str | None, list[str]]:
    """What the program says to `--version`; only programs of a known kind are asked. It gets no keys for that."""
    if profile is None or config.profile == "command":
        return None, []
    keys = {key: value for key, value in config.env.items() if key not in config.passed}
    command = (program, *profile.program[1:], "--version")
    try:
        done = subprocess.run(
            command,
            cwd=folder if folder.is_dir() else None,
            env=environment(keys),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=VERSION_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None, [f"{program} --version did not end within {VERSION_TIMEOUT_S:g} s"]
    except OSError as error:
        return None, [f"{program} cannot be started: {error.strerror}"]
    said = done.stdout.decode("utf-8", "replace").strip().partition("\n")[0][:200]
    if done.returncode:
        return said or None, [f"{program} --version ended with exit code {done.returncode}"]
    return said or None, []


@lru_cache(1)
def _missing_here() -> tuple[str, ...]:
    return missing_here()
