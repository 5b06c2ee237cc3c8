"""What an event is: CloudEvents 1.0.2 with a place in the chain. Pure; nothing here reads or writes a file."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

GENESIS: Final = "sha256:" + "0" * 64
MAX_LINE_BYTES: Final = 64 * 1024 - 1


class Corrupt(Exception):
    """What stands on disk contradicts itself. Stop: asking again does not help, `kircerta doctor` says more."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One type of event: what it says, and whether it changes the task that is its subject."""

    says: str
    changes_task: bool = False


KINDS: Final[dict[str, Kind]] = {
    "task_created": Kind("A task was made from an import, the command line or a delivery.", changes_task=True),
    "task_adopted": Kind("A task file dropped or edited by hand was checked and taken over.", changes_task=True),
    "task_refreshed": Kind("The sender's newer version of a task that was never dispatched.", changes_task=True),
    "task_restored": Kind("A removed or outdated task file was written again from the log."),
    "task_invalid": Kind("A task file is held: it does not parse, breaks the schema or contradicts the log."),
    "task_dispatched": Kind("A task was handed to an executor for the first time.", changes_task=True),
    "task_redispatched": Kind(
        "A further attempt began; the issues of a rejected or unlanded one go with it verbatim.", changes_task=True
    ),
    "ack_received": Kind("The executor repeated what it was told, word for word.", changes_task=True),
    "ack_mismatch": Kind("An executor's echo differs from what it was told; the task does not go on."),
    "ack_timeout": Kind("No valid ACK came in time; the attempt is over.", changes_task=True),
    "heartbeat": Kind("The executor is alive (at most one event per dispatch in 5 s)."),
    "heartbeat_warning": Kind("The executor has been silent for too long (once per silence)."),
    "result_received": Kind("The executor delivered its result.", changes_task=True),
    "result_refused": Kind("A result was refused; the event says why."),
    "verdict_received": Kind("The reviewer judged the result; the task is at the gate.", changes_task=True),
    "verdict_refused": Kind("A verdict was refused; the event says why."),
    "mutation_detected": Kind("A reviewer changed files that it was to read only; its verdict was refused."),
    "approval_given": Kind("One of several approvals that the attempt's policy asks for.", changes_task=True),
    "task_approved": Kind("A person, the last of a quorum or a named policy approved the attempt.", changes_task=True),
    "task_landed": Kind("The approved change stands as one commit on its project's branch."),
    "landing_refused": Kind("An approved change was not landed; the event says why. Nothing was forced."),
    "landing_failed": Kind(
        "An approved change cannot stand on its project's branch: a new attempt may begin, with what was said.",
        changes_task=True,
    ),
    "landing_resumed": Kind(
        "What had failed is about to stand on its branch after all: no new attempt may begin.", changes_task=True
    ),
    "task_rejected": Kind("The attempt was rejected, or the task declined.", changes_task=True),
    "decision_reminder": Kind("The deadline of a decision is near; nobody has decided yet.", changes_task=True),
    "decision_overdue": Kind("The deadline of a decision has passed. That is never an approval.", changes_task=True),
    "projects_changed": Kind("The projects' file says something else than at the last dispatch."),
    "move_refused": Kind("A message, dispatch or decision was refused; the event says why."),
    "reject_lock": Kind("Too many rejected attempts in a row: the task is locked.", changes_task=True),
    "task_unlocked": Kind("A person unlocked the task.", changes_task=True),
    "fidelity_violation": Kind("A re-dispatch did not carry the issues verbatim; it was refused."),
    "scope_violation": Kind("A result touches paths outside the scope; it was refused."),
    "attempt_ended": Kind("An attempt stopped before its verdict.", changes_task=True),
    "build_status": Kind("A build went on; the task shows its newest state.", changes_task=True),
    "command_recorded": Kind("A comment begins with a command. It is recorded, never obeyed."),
    "webhook_ignored": Kind("A delivery that is no reason to do anything; the event says why."),
    "webhook_duplicate": Kind("A delivery that came before, in any process and at any time."),
    "webhook_rejected": Kind("Deliveries that were refused, counted."),
    "redelivery_requested": Kind(
        "GitHub was asked to send a failed delivery again; the same attempt is asked for once."
    ),
    "telegram_dedup_hit": Kind("A chat message that came before, under the same or another update."),
    "out_of_order_ignored": Kind("A delivery that tells of an older state than the one that stands."),
    "auth_denied": Kind("Requests without a valid token or role, counted."),
    "alert": Kind("An alarm of the running system: raised, with a reason and figures, or cleared again."),
    "notification_sent": Kind("Somebody was told outside of kircerta; the target stands here by its name alone."),
    "notification_failed": Kind("A notification did not go out; the event says why, without the target's URL."),
    "log_recovered": Kind("A torn tail of the log was put aside and cut off."),
    "run_started": Kind("A load run, or the calibration of a reviewer, began."),
    "run_finished": Kind("Such a run is over, or was found dead; the event says how it ended."),
    "run_removed": Kind("The folder of such a run was removed: it was old, and nobody had asked to keep it."),
}


@dataclass(frozen=True, slots=True)
class Draft:
    """A fact before it has its place in the log."""

    type: str
    actor: str
    data: dict[str, Any]
    subject: str | None = None
    correlationid: str | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """A fact in its place. `prev` is the digest of the previous line; `line` its own exact bytes, without newline."""

    seq: int
    id: str
    source: str
    type: str
    time: str
    actor: str
    data: dict[str, Any]
    prev: str
    subject: str | None = None
    correlationid: str | None = None
    line: bytes = b""
    _digest: str = field(default="", init=False, repr=False, compare=False)

    @property
    def digest(self) -> str:
        """The digest of its line, which is asked for several times a commit and made once."""
        if not self._digest:
            object.__setattr__(self, "_digest", digest_of(self.line))
        return self._digest

    def sealed(self) -> Event:
        """The event with its exact line. Sealing twice changes nothing. Raises ValueError over 64 KiB."""
        if self.line:
            return self
        return Event(
            self.seq,
            self.id,
            self.source,
            self.type,
            self.time,
            self.actor,
            self.data,
            self.prev,
            self.subject,
            self.correlationid,
            encode(self),
        )

    @property
    def cursor(self) -> str:
        """The id of this event on the stream: its place, and enough of its digest to notice a rewritten log."""
        return f"{self.seq}.{self.digest[7:15]}"


def digest_of(line: bytes) -> str:
    """``sha256:`` and the hex digest of exact bytes."""
    return "sha256:" + hashlib.sha256(line).hexdigest()


def encode(event: Event) -> bytes:
    """The event as one compact JSON line without newline. Raises ValueError over 64 KiB."""
    body: dict[str, Any] = {
        "specversion": "1.0",
        "id": event.id,
        "source": event.source,
        "type": event.type,
    }
    if event.subject is not None:
        body["subject"] = event.subject
    body["time"] = event.time
    body["datacontenttype"] = "application/json"
    body["data"] = event.data
    body["seq"] = event.seq
    body["prev"] = event.prev
    body["actor"] = event.actor
    if event.correlationid is not None:
        body["correlationid"] = event.correlationid
    line = orjson.dumps(body)
    if len(line) > MAX_LINE_BYTES:
        raise ValueError(f"a {event.type} event of {len(line)} bytes does not fit a line of 64 KiB")
    return line


def decode(line: bytes) -> Event:
    """The event of one line (without newline). Raises Corrupt when it is none."""
    try:
        body = orjson.loads(line)
        return Event(
            seq=body["seq"],
            id=body["id"],
            source=body["source"],
            type=body["type"],
            time=body["time"],
            actor=body["actor"],
            data=body["data"],
            prev=body["prev"],
            subject=body.get("subject"),
            correlationid=body.get("correlationid"),
            line=line,
        )
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise Corrupt(f"a line of the log is no event: {error!r}: {line[:120]!r}") from None
