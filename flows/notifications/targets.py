"""Whom to tell of what, from `config/notifications.toml`. Only `load` and `url_of` read; a URL is never kept or shown.

    [target.team]
    url_env = "TEAM_CHAT_URL"                 # an Apprise URL; or url_file = ".secrets/team-chat"
    kinds = ["needs_review", "reject_lock"]   # without it: all of them
    projects = ["shop"]                       # without it: every task, and what is no task's

    [target.console]
    url = "log://"                            # only what has no secret in it stands in the file

A file that cannot be read as it is meant is used in no part: nothing goes out.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from audit import files
from ssot.projects import ProjectName

FILE: Final = Path("config") / "notifications.toml"
MAX_FILE_BYTES: Final = 1024 * 1024
LOG_URL: Final = "log://"
"""The dispatcher's own log, as a target."""
_WITHOUT_SECRET: Final = (LOG_URL, "syslog://")

Kind = Literal["needs_review", "deadline_near", "decision_overdue", "reject_lock", "alert"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
TargetName = Annotated[str, Field(pattern=r"\A[a-z0-9][a-z0-9._-]{0,63}\z")]


class BadNotificationsFile(ValueError):
    """`config/notifications.toml` cannot be used. The message names the file and the key, never a value."""


class NoURL(Exception):
    """A target's URL is not there; the message says where it was looked for."""


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", hide_input_in_errors=True)


class Target(_Table):
    """One place to tell: where its Apprise URL comes from, of which kinds it is told, and of which projects."""

    url: Annotated[str, Field(max_length=200)] | None = None
    url_env: Annotated[str, Field(pattern=r"\A[A-Za-z_][A-Za-z0-9_]{0,199}\z")] | None = None
    url_file: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    """A path; a relative one begins at the workspace."""
    kinds: Annotated[tuple[Kind, ...], Field(strict=False, max_length=20)] = ()
    projects: Annotated[tuple[ProjectName, ...], Field(strict=False, max_length=1000)] = ()

    @model_validator(mode="after")
    def _one_url_without_a_secret(self) -> Self:
        if [self.url, self.url_env, self.url_file].count(None) != 2:
            raise ValueError("exactly one of url, url_env and url_file says where to send")
        if self.url is not None and self.url not in _WITHOUT_SECRET:
            raise ValueError(
                f"url is {' or '.join(_WITHOUT_SECRET)}: any other may hold a secret; name it by url_env or url_file"
            )
        return self

    @property
    def source(self) -> str:
        """Where the URL comes from, for people."""
        return self.url or (f"${self.url_env}" if self.url_env else f"file {self.url_file}")

    def wants(self, kind: Kind, project: str | None) -> bool:
        """Whether it is to be told of a kind of thing about a task of a project (None: of no known one)."""
        return (not self.kinds or kind in self.kinds) and (not self.projects or project in self.projects)


class Notifications(_Table):
    """All targets, in the order of the file."""

    dry_run: bool = False
    """On: the log says what would have gone out, and nothing goes out."""
    target: dict[TargetName, Target] = Field(default_factory=dict)

    def wanting(self, kind: Kind, project: str | None) -> dict[str, Target]:
        return {name: one for name, one in self.target.items() if one.wants(kind, project)}


def load(home: Path) -> Notifications:
    """What the workspace's file says now; no targets where there is none. Raises BadNotificationsFile."""
    try:
        raw, _ = files.read_regular(home / FILE, MAX_FILE_BYTES)
    except FileNotFoundError:
        return Notifications()
    except (OSError, files.NotRegular) as error:
        raise BadNotificationsFile(f"{FILE} cannot be read: {error}") from None
    return parse(raw)


def parse(raw: bytes) -> Notifications:
    """What a file's bytes say. Raises BadNotificationsFile."""
    try:
        told: Any = tomllib.loads(raw.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise BadNotificationsFile(f"{FILE}: {_position(error)}") from None
    try:
        return Notifications.model_validate(told)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadNotificationsFile(f"{FILE}: {where}: {first['msg'].removeprefix('Value error, ')}") from None


def _position(error: Exception) -> str:
    """What is wrong with a file that is no TOML, without the text that stands there: it might be a secret."""
    place = str(error).rpartition("(")[2].rstrip(")") if "(at " in str(error) else ""
    return f"it is no TOML {place}".rstrip()


def url_of(target: Target, home: Path, environment: Mapping[str, str]) -> str:
    """The target's URL, read anew each time. Raises NoURL."""
    if target.url is not None:
        return target.url
    if target.url_env is not None:
        found = environment.get(target.url_env, "").strip()
        if not found:
            raise NoURL(f"the environment variable {target.url_env} is not set")
        return found
    assert target.url_file is not None
    try:
        raw, _ = files.read_regular(home / target.url_file, MAX_FILE_BYTES)
        found = raw.decode().strip()
    except (OSError, files.NotRegular, UnicodeDecodeError) as error:
        raise NoURL(f"{target.url_file} cannot be read ({type(error).__name__})") from None
    if not found or "\n" in found:
        raise NoURL(f"{target.url_file} holds no URL, or more than one line")
    return found
