"""Which agents there are: the built-in ones, and those of the workspace's `config/agents.toml`.

    [executor.codex]
    command = ["codex-adapter", "--json"]     # found on PATH, or relative to `cwd`
    principal = "codex"                       # who its acts are signed by
    timeout_s = 1800                          # how long one attempt may take; default 3600
    cwd = "/srv/checkouts/app"                # default: the workspace
    env = { LOG_LEVEL = "info" }
    pass_env = ["OPENAI_API_KEY"]             # taken from our own environment, if there
    options = { model = "large" }             # handed to the agent with each job
    model_family = "gpt"                      # whose model it is; a project may want two families
    network = true                            # and the other words of `Confinement`: how it is shut in

A command-line agent needs less: a profile knows its arguments and reads its output (flows/agents/profiles.py).

    [executor.codex]
    profile = "codex"                         # codex, claude-code, openclaw, aider, or command: any other
    principal = "codex"
    cwd = "/srv/checkouts/app"
    options = { model = "large" }             # those that the profile knows
    # command = ["npx", "codex"]              # in place of the profile's own program
    # echo_args, work_args, review_args       # in place of the profile's own arguments

`[reviewer.NAME]` is the same for reviewers. A dispatch names an agent with its options, as in
`fake:mode=slow,seconds=2`; those stand above the file's. `timeout_s` can be given to any agent that way.
"""

from __future__ import annotations

import os
import re
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from flows.agents import fake, profiles, replay
from flows.agents.enclosure import Confinement
from flows.agents.inproc_agent import InprocessAgent
from flows.agents.play import Play
from flows.agents.protocol import Agent
from flows.agents.remote_agent import RemoteAgent
from flows.agents.subprocess_agent import FORBIDDEN_ENV, SubprocessAgent
from ssot.messages import PLAYED, REMOTE

Role = Literal["executor", "reviewer"]

BUILT_IN = (*sorted(PLAYED), REMOTE)
MAX_FILE_BYTES = 1024 * 1024
DEFAULT_TIMEOUT_S = 3600.0

_ROOT = Path(__file__).parents[2]
_FULL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:=,/@+-]{0,199}", re.ASCII)
_BASE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASS|CREDENTIAL|AUTH", re.IGNORECASE)
"""Names of variables whose values must never come out of an agent again."""
_OPTION = re.compile(r"([a-z][a-z0-9_]*)=([^,]*)", re.ASCII)
_PLAYS: dict[tuple[str, Role], Play] = {
    ("fake", "executor"): fake.executor,
    ("fake", "reviewer"): fake.reviewer,
    ("replay", "executor"): replay.executor,
    ("replay", "reviewer"): replay.reviewer,
}


class UnknownAgent(ValueError):
    """A name that is no agent, or options that it does not have. The message names those that there are."""


class BadAgentsFile(ValueError):
    """`config/agents.toml` cannot be used. The message names the file and the key."""


class AgentConfig(Confinement):
    """One agent of `config/agents.toml`."""

    profile: str | None = None
    command: Annotated[profiles.Words, Field(validate_default=True)] = ()
    echo_args: profiles.Words | None = None
    work_args: profiles.Words | None = None
    review_args: profiles.Words | None = None
    principal: Annotated[str, Field(pattern=r"\A[a-z0-9][a-z0-9._@-]{0,63}\z")]
    timeout_s: Annotated[float, Field(gt=0, le=7 * 24 * 3600)] = DEFAULT_TIMEOUT_S
    cwd: str | None = None
    env: dict[str, str] = Field(default_factory=dict)
    pass_env: Annotated[tuple[str, ...] | None, Field(strict=False)] = None
    options: dict[str, str | int | float | bool] = Field(default_factory=dict)
    model_family: Annotated[str, Field(pattern=r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,63}\z")] | None = None

    @property
    def passed(self) -> tuple[str, ...]:
        """The names of variables that are taken from our own environment."""
        known = profiles.BUILT_IN[self.profile].pass_env if self.profile is not None else ()
        return known if self.pass_env is None else self.pass_env

    def as_profile(self) -> profiles.Profile | None:
        """The profile with what the file puts in its place; None for an agent that speaks our lines itself."""
        if self.profile is None:
            return None
        own = {"program": self.command or None, "echo": self.echo_args, "work": self.work_args}
        changes = {key: value for key, value in {**own, "review": self.review_args}.items() if value is not None}
        known = profiles.BUILT_IN[self.profile]
        shut_in = {part: words for part, words in known.shut_in.items() if part not in changes}
        return known.model_copy(update={**changes, "shut_in": shut_in})

    @model_validator(mode="after")
    def _fits_the_profile(self) -> Self:
        if self.profile is None and (self.echo_args, self.work_args, self.review_args) != (None, None, None):
            raise ValueError("echo_args, work_args and review_args belong to a profile")
        found = self.as_profile()
        if found is not None:
            found.check_options(self.options)
        return self

    @field_validator("command")
    @classmethod
    def _is_there(cls, words: tuple[str, ...], given: ValidationInfo) -> tuple[str, ...]:
        known = profiles.BUILT_IN.get(given.data.get("profile") or "")
        if not words and (known is None or not known.program):
            raise ValueError("the program is missing, with its arguments")
        return words

    @field_validator("profile")
    @classmethod
    def _is_known(cls, name: str | None) -> str | None:
        if name is not None and name not in profiles.BUILT_IN:
            raise ValueError(f"there is no profile {name!r}; there are {', '.join(profiles.BUILT_IN)}")
        return name

    @field_validator("env", "pass_env")
    @classmethod
    def _none_of_ours(cls, names: Any) -> Any:
        kept = [name for name in names or () if name.startswith(FORBIDDEN_ENV)]
        if kept:
            raise ValueError(f"{kept[0]} is kircerta's own and is never handed to an agent")
        return names


def split_name(name: str) -> tuple[str, dict[str, str]]:
    """`fake:mode=silent,seed=7` as `fake` and its options.

    Raises:
        UnknownAgent: the name has other characters, is longer than 200, or its options are no key=value list.
    """
    if not _FULL_NAME.fullmatch(name):
        raise UnknownAgent(f"{name[:80]!r} is no agent's name: at most 200 letters, digits and ._:=,/@+-")
    base, colon, listed = name.partition(":")
    options: dict[str, str] = {}
    for item in listed.split(",") if colon else ():
        found = _OPTION.fullmatch(item)
        if found is None or found[1] in options:
            raise UnknownAgent(f"{name!r}: options are written NAME:key=value,key=value, each key once")
        options[found[1]] = found[2]
    return base, options


class Agents:
    """The agents of one workspace, read once.

    `extra` adds agents by name, usable in both roles, as if the file had them.

    Raises:
        BadAgentsFile: at once, when the file is there and cannot be used; nothing of it is used then.
    """

    def __init__(self, home: Path, extra: Mapping[str, AgentConfig] | None = None) -> None:
        self._home = home
        self._configured = _read_file(home / "config" / "agents.toml")
        for name, config in (extra or {}).items():
            self._configured["executor", name] = self._configured["reviewer", name] = config

    def executor(self, name: str) -> Agent:
        """The executor of that name, with the options in it.

        Raises:
            UnknownAgent: there is none, or not with such options.
        """
        return self._find("executor", name)

    def reviewer(self, name: str) -> Agent:
        """The reviewer of that name, with the options in it.

        Raises:
            UnknownAgent: there is none, or not with such options.
        """
        return self._find("reviewer", name)

    def model_family(self, role: Role, name: str) -> str | None:
        """The family of the model behind an agent, where the file says so. Raises UnknownAgent for no name at all."""
        config = self._configured.get((role, split_name(name)[0]))
        return config.model_family if config is not None else None

    def config(self, role: Role, name: str) -> AgentConfig | None:
        """What the file has of an agent; None where it has nothing."""
        return self._configured.get((role, name))

    def names(self, role: Role) -> tuple[str, ...]:
        """Every agent in that role, built-in ones first."""
        return (*BUILT_IN, *sorted(name for known, name in self._configured if known == role))

    def _find(self, role: Role, name: str) -> Agent:
        base, options = split_name(name)
        timeout_s = _timeout(name, options)
        if base in BUILT_IN:
            return self._built_in(role, name, base, options, timeout_s or DEFAULT_TIMEOUT_S)
        config = self._configured.get((role, base))
        if config is None:
            raise UnknownAgent(f"there is no {role} {base!r}; there are {', '.join(self.names(role))}")
        passed = {key: os.environ[key] for key in config.passed if key in os.environ}
        return SubprocessAgent(
            name=name,
            principal=config.principal,
            command=_command(name, config, {**config.options, **options}),
            env={**passed, **config.env},
            cwd=self._home / config.cwd if config.cwd else self._home,
            options={**config.options, **options},
            timeout_s=timeout_s or config.timeout_s,
            confinement=config,
        )

    def _built_in(self, role: Role, name: str, base: str, options: dict[str, str], timeout_s: float) -> Agent:
        if base == "remote":
            _check_options(name, options, frozenset())
            return RemoteAgent(name, timeout_s=timeout_s)
        kind = "replay" if base == "replay" else "fake"
        if kind == "fake":
            _check_fake(role, name, options)
        else:
            _check_options(name, options, replay.OPTIONS)
            options |= {key: str(self._home / options[key]) for key in ("dir", "then") if key in options}
        play, principal = _PLAYS[kind, role], f"{kind}-{role}"
        if base == "fake-inproc":
            return InprocessAgent(name, principal, play, options=options, timeout_s=timeout_s)
        command = _program(kind, role)
        return SubprocessAgent(name, principal, command, cwd=self._home, options=options, timeout_s=timeout_s)


def _command(name: str, config: AgentConfig, options: Mapping[str, Any]) -> tuple[str, ...]:
    """What is started: the agent's own program, or the adapter that starts it. Raises UnknownAgent."""
    profile = config.as_profile()
    if profile is None:
        return config.command
    try:
        return profile.command(options, tuple(one for one in (*config.passed, *config.env) if _SECRET.search(one)))
    except ValueError as error:
        raise UnknownAgent(f"{name!r}: {error}") from None


def _program(kind: str, role: Role) -> tuple[str, ...]:
    """The command of an agent of ours: its script in the checkout, or else its module.

    `-I -S`: it needs nothing but the standard library, and starts three times as fast without the rest.
    """
    script = _ROOT / "scripts" / "validation" / f"{kind}_{role}.py"
    if script.is_file():
        return (sys.executable, "-I", "-S", str(script))
    start = (
        "import sys; sys.path.insert(0, sys.argv[1]); "
        f"from flows.agents.{kind} import {role}; from flows.agents.play import main; sys.exit(main({role}))"
    )
    return (sys.executable, "-I", "-S", "-c", start, str(_ROOT))


def _timeout(name: str, options: dict[str, str]) -> float | None:
    """Takes `timeout_s` out of the options: it is for us."""
    given = options.pop("timeout_s", None)
    if given is None:
        return None
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,3})?", given) or float(given) <= 0:
        raise UnknownAgent(f"{name!r}: timeout_s is a number of seconds above 0")
    return float(given)


def _check_fake(role: Role, name: str, options: Mapping[str, str]) -> None:
    executes = role == "executor"
    _check_options(name, options, fake.EXECUTOR_OPTIONS if executes else fake.REVIEWER_OPTIONS)
    modes = fake.EXECUTOR_MODES if executes else fake.REVIEWER_MODES
    if options.get("mode", "ok") not in modes:
        raise UnknownAgent(f"{name!r}: the {role} has no mode {options['mode']!r}; there are {', '.join(modes)}")


def _check_options(name: str, options: Mapping[str, str], known: frozenset[str]) -> None:
    for key in options:
        if key not in known:
            listed = ", ".join(sorted({*known, "timeout_s"}))
            raise UnknownAgent(f"{name!r} has no option {key!r}; there are {listed}")


def _read_file(path: Path) -> dict[tuple[Role, str], AgentConfig]:
    raw = _bytes_of(path)
    if raw is None:
        return {}
    try:
        found = tomllib.loads(raw.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise BadAgentsFile(f"{path}: not TOML: {error}") from None
    configured: dict[tuple[Role, str], AgentConfig] = {}
    for role, agents in found.items():
        if role not in ("executor", "reviewer") or not isinstance(agents, dict):
            raise BadAgentsFile(f"{path}: {role}: only [executor.NAME] and [reviewer.NAME] stand here")
        for name, table in agents.items():
            key: tuple[Role, str] = ("executor" if role == "executor" else "reviewer", name)
            configured[key] = _config(path, f"{role}.{name}", name, table)
    return configured


def _bytes_of(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise BadAgentsFile(f"{path}: cannot be read: {error.strerror}") from None
    if len(raw) > MAX_FILE_BYTES:
        raise BadAgentsFile(f"{path}: larger than {MAX_FILE_BYTES} bytes")
    return raw


def _of_the_profile(config: AgentConfig) -> dict[str, Any]:
    """What a profile says of how its program is shut in, where the file does not."""
    if config.profile is None:
        return {}
    # a program of others runs its commands itself: what its events tell of them is all there is
    asked = {"commands": "reported", "memory_bytes": profiles.BUILT_IN[config.profile].memory_bytes}
    return {key: value for key, value in asked.items() if value is not None and key not in config.model_fields_set}


def _config(path: Path, key: str, name: str, table: Any) -> AgentConfig:
    if name in BUILT_IN or not _BASE_NAME.fullmatch(name):
        raise BadAgentsFile(f"{path}: {key}: a name of letters, digits, '.', '_' and '-', none of {BUILT_IN}")
    try:
        found = AgentConfig.model_validate(table)
        return found.model_copy(update=_of_the_profile(found))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join([key, *(str(part) for part in first["loc"])])
        raise BadAgentsFile(f"{path}: {where}: {first['msg']}") from None
