"""What kircerta and an agent say to each other: one job as a line of JSON in, lines of JSON out.

This module alone knows the shape of the lines. It checks that a line is one strict JSON object of a known
type and of bounded size; what stands inside is checked by the rules, which know what the agent was told.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import orjson

from ssot import strict_json

Kind = Literal["dispatch", "review"]
Reason = Literal["not_started", "exited", "closed", "garbage", "too_much_output", "too_much_disk"]

TYPES = frozenset({"ack", "heartbeat", "result", "verdict"})


@dataclass(frozen=True, slots=True)
class Limits:
    """How much an agent may say, in bytes, and how long it has after being asked to stop, in seconds."""

    line_bytes: int = 8 * 1024 * 1024
    output_bytes: int = 32 * 1024 * 1024
    stderr_bytes: int = 4 * 1024
    grace_s: float = 1.0


LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Message:
    """One line that an agent sent: its type, the object without `type`, and the bytes as they came."""

    type: str
    body: Mapping[str, Any]
    raw: bytes

    def part(self) -> bytes:
        """The object without `type`, as JSON, which is strict: what `ssot.task.parse_checked` takes."""
        return orjson.dumps(self.body)


class Silent(Exception):
    """The agent sent nothing in the time it was given. The session goes on: ask again, or close it."""


class AgentFailed(Exception):
    """The agent cannot be listened to any more. `reason` is one of `Reason`; `detail` is for people."""

    def __init__(self, reason: Reason, detail: str, exit_code: int | None = None) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.exit_code = exit_code


class Session(Protocol):
    """One agent at work on one job."""

    async def next(self, timeout: float) -> Message:
        """The agent's next message, waited for at most `timeout` seconds.

        Raises:
            Silent: nothing came in time; the session stays open.
            AgentFailed: it ended, sent what is no message, or sent too much; there will be no more messages.
        """
        ...


@runtime_checkable
class Agent(Protocol):
    """Whom a job can be given to. `local` is false for one that comes by itself, over HTTP."""

    @property
    def name(self) -> str: ...

    @property
    def principal(self) -> str: ...

    @property
    def local(self) -> bool: ...

    @property
    def options(self) -> Mapping[str, Any]: ...

    @property
    def timeout_s(self) -> float: ...

    def open(self, job: bytes) -> AbstractAsyncContextManager[Session]:
        """Start the agent on a job. Leaving the context stops it and everything that it started."""
        ...


def job_line(
    kind: Kind,
    *,
    task_id: str,
    title: str,
    request_text: str,
    correlation_id: str,
    attempt: int,
    dispatch: Mapping[str, Any],
    result: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
) -> bytes:
    """The job as an agent gets it: one line of JSON. `result` is for a review; `options` are the agent's."""
    job: dict[str, Any] = {
        "kind": kind,
        "task_id": task_id,
        "title": title,
        "request_text": request_text,
        "correlation_id": correlation_id,
        "attempt": attempt,
        "dispatch": dispatch,
    }
    if kind == "review":
        job["result"] = result
    job["options"] = dict(options or {})
    return orjson.dumps(job) + b"\n"


def read_message(line: bytes, limits: Limits) -> Message:
    """One line as a message.

    Raises:
        AgentFailed: too long, not one strict JSON object (no NaN, no duplicate key, depth at most 64), or of
            a type that agents do not send.
    """
    if len(line) > limits.line_bytes:
        raise AgentFailed("too_much_output", f"a line is longer than {limits.line_bytes} bytes")
    try:
        found = strict_json.loads(line)
    except ValueError as error:
        raise AgentFailed("garbage", f"{error}; the line begins {_excerpt(line)}") from None
    if not isinstance(found, dict):
        raise AgentFailed("garbage", f"a message is one JSON object, this line begins {_excerpt(line)}")
    kind = found.pop("type", None)
    if not isinstance(kind, str) or kind not in TYPES:
        expected = ", ".join(sorted(TYPES))
        raise AgentFailed("garbage", f"the type is {str(kind)[:40]!r}, not one of {expected}")
    return Message(kind, found, line)


def _excerpt(line: bytes) -> str:
    return repr(line[:80].decode("utf-8", "replace"))
