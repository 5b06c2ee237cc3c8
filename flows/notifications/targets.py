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

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal, Self, get_args

from pydantic import Field, model_validator

from audit import files
from ssot import strict_toml
from ssot.projects import ProjectName
from ssot.strict_toml import NotStrictTOML, Table

FILE: Final = Path("config") / "notifications.toml"
MAX_URL_BYTES: Final = 64 * 1024
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


class Target(Table):
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


class Notifications(Table):
    """All targets, in the order of the file."""

    dry_run: bool = False
    """On: the log says what would have gone out, and nothing goes out."""
    target: dict[TargetName, Target] = Field(default_factory=dict)

    def wanting(self, kind: Kind, project: str | None) -> dict[str, Target]:
        return {name: one for name, one in self.target.items() if one.wants(kind, project)}


def load(home: Path) -> Notifications:
    """What the workspace's file says now; no targets where there is none. Raises BadNotificationsFile."""
    try:
        raw = strict_toml.read(home / FILE)
    except NotStrictTOML as error:
        raise BadNotificationsFile(f"{FILE}: {error}") from None
    return Notifications() if raw is None else parse(raw)


def parse(raw: bytes) -> Notifications:
    """What a file's bytes say. Raises BadNotificationsFile."""
    try:
        return strict_toml.parse(raw, Notifications)
    except NotStrictTOML as error:
        raise BadNotificationsFile(f"{FILE}: {error}") from None


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
        raw, _ = files.read_regular(home / target.url_file, MAX_URL_BYTES)
        found = raw.decode().strip()
    except (OSError, files.NotRegular, UnicodeDecodeError) as error:
        raise NoURL(f"{target.url_file} cannot be read ({type(error).__name__})") from None
    if not found or "\n" in found:
        raise NoURL(f"{target.url_file} holds no URL, or more than one line")
    return found
