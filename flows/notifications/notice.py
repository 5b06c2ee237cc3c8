"""What a person must know, pure: which events call for it, whether it still holds, and how it reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from audit.event import Event
from flows.notifications.targets import Kind
from ssot.task import Task

_OF_TASKS: Final[dict[str, Kind]] = {
    "verdict_received": "needs_review",
    "decision_reminder": "deadline_near",
    "decision_overdue": "decision_overdue",
    "reject_lock": "reject_lock",
}
EXPIRED: Final = frozenset({"expired", "decision_overdue"})
"""Why an attempt ends when nobody decided in time."""


@dataclass(frozen=True, slots=True)
class Notice:
    """One thing to tell: of which kind, about what (`subject`: a task's id, or an alarm's name), and why (`seq`)."""

    kind: Kind
    subject: str
    seq: int
    task_id: str | None
    correlationid: str | None
    told: str
    """What the event itself says."""

    @property
    def key(self) -> tuple[str, str]:
        return self.kind, self.subject


@dataclass(frozen=True, slots=True)
class Message:
    """What goes out: one line, and a few."""

    title: str
    body: str


def notice_of(event: Event) -> Notice | None:
    """What an event calls for; None for nothing."""
    kind = _OF_TASKS.get(event.type)
    if event.type == "attempt_ended" and _reason(event.data) in EXPIRED:
        kind = "decision_overdue"
    if kind is not None and event.subject is not None:
        return Notice(kind, event.subject, event.seq, event.subject, event.correlationid, _told(event.data))
    if event.type == "alert" and event.data.get("state") != "cleared":
        return Notice("alert", alarm_of(event), event.seq, event.subject, event.correlationid, _told(event.data))
    return None


def alarm_of(event: Event) -> str:
    """The name under which an alert is raised and cleared."""
    named = (event.data.get(name) for name in ("alarm", "what"))
    return next((name for name in named if isinstance(name, str) and name), event.subject or "alert")[:200]


def _reason(data: dict[str, Any]) -> Any:
    ended = data.get("ended")
    return ended.get("reason") if isinstance(ended, dict) else None


def _told(data: dict[str, Any]) -> str:
    words = (data.get(name) for name in ("detail", "text", "deadline", "decide_until", "due"))
    return next((word for word in words if isinstance(word, str) and word), "")


def still_holds(notice: Notice, task: Task | None) -> bool:
    """Whether it is worth telling: what was decided, unlocked or withdrawn meanwhile is not."""
    if notice.kind == "alert":
        return True
    if task is None:
        return False
    if notice.kind == "reject_lock":
        return task.locked
    ended = task.current.ended if task.current else None
    expired = notice.kind == "decision_overdue" and ended is not None and ended.reason in EXPIRED
    return task.status == "needs_review" or expired


def message_of(notice: Notice, task: Task | None, api_url: str) -> Message:
    """How it reads. What others wrote is shortened, and mentions nobody."""
    about = harmless(notice.task_id or notice.subject, 200)
    lines = [harmless(task.title, 200)] if task is not None else []
    lines.append(_says(notice, task))
    if notice.task_id is not None:
        lines.append(f"{api_url.rstrip('/')}/#/tasks/{quote(notice.task_id, safe='')}")
    return Message(f"{_HEADINGS[notice.kind]}: {about}", "\n".join(line for line in lines if line))


_HEADINGS: Final[dict[Kind, str]] = {
    "needs_review": "Needs review",
    "deadline_near": "Decision due soon",
    "decision_overdue": "Decision overdue",
    "reject_lock": "Locked",
    "alert": "Alert",
}


def _says(notice: Notice, task: Task | None) -> str:
    attempt = task.current if task is not None else None
    if notice.kind == "needs_review" and attempt is not None and attempt.verdict is not None:
        verdict = attempt.verdict
        count = len(verdict.issues)
        issues = f", with {count} issue{'' if count == 1 else 's'}" if count else ""
        return f"Attempt {attempt.attempt} waits for a person; its reviewer says {verdict.decision}{issues}."
    if notice.kind == "reject_lock":
        return "Too many rejected attempts in a row: it is dispatched again only once a person unlocks it."
    return harmless(notice.told, 1000)


def harmless(text: str, most: int) -> str:
    """Others' text on one line: without what cannot be seen, and without what a chat takes for a mention or a link."""
    seen = "".join(character if character.isprintable() else " " for character in text)
    plain = " ".join(seen.split()).replace("@", "@\u200b").replace("<", "‹").replace(">", "›")
    return plain if len(plain) <= most else f"{plain[: most - 1]}…"
