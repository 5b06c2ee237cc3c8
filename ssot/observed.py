"""What was seen from outside while an agent worked: its place, what changed there, the commands run for it. Only data.

An agent never says this: it is put into a result by who watched, and compared with what the agent claims (`facts`).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ssot.part import HexDigest, Line, Name, Part, Word, optional

Count = Annotated[int, Field(ge=0)]


class Isolation(Part):
    """What was in force around an agent. `missing` says what this system did not allow, in words."""

    namespaces: tuple[Name, ...] = ()
    network: bool = True
    """Whether the agent could reach one."""
    no_new_privileges: bool = False
    limits: dict[str, Count] = Field(default_factory=dict)
    hidden: tuple[Line, ...] = ()
    missing: tuple[Line, ...] = ()


class CommandRun(Part):
    """A command that was run for an agent, or as a check: it happened, and so it ended."""

    command: tuple[Word, ...]
    exit_code: int | None
    """None: it did not end by itself; `stopped` says why."""
    duration_ms: Count
    output_bytes: Count
    output_sha256: HexDigest
    tail: Annotated[str, Field(max_length=4096)] = ""
    """The end of what it printed."""
    stopped: Literal["time", "output", "disk", "closed"] | None = optional()


class CheckRun(CommandRun):
    """A check of a criterion, in a clean place with the change applied. It is evidence; it judges nothing."""

    criterion_ref: Name


class Observed(Part):
    """The facts of one result."""

    isolation: Isolation
    base: Line
    """The commit that the work began at."""
    tree: Line
    """Git's id of the whole tree as the agent left it."""
    changed: tuple[Line, ...] = ()
    commands_by: Literal["harness", "agent"] = "harness"
    """`agent`: it runs its commands itself, nobody saw them."""
    commands: tuple[CommandRun, ...] = ()
    checks: tuple[CheckRun, ...] = ()
