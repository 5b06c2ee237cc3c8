"""What a person must know, pure: which events call for it, whether it still holds, and how it reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from audit.event import Event
from flows.notifications.targets import Kind
from ssot.counted import counted
from ssot.task import Task

_OF_TASKS: Final[dict[str, Kind]] = {
    "verdict_received": "needs_review",
    "decision_reminder": "deadline_near",
    "decision_overdue": "decision_overdue",
    "reject_lock": "reject_lock",
}

MOST_LINES: Final = 20


@dataclass(frozen=True, slots=True)
class Notice:
    """One thing to tell: of which kind, about what (`subject`: a task's id, or an alarm's name), and why (`seq`)."""

    kind: Kind
    subject: str
    seq: int
    task_id: str | None
    correlationid: str | None
    told: str = ""
    """What the event itself says: why an alarm was raised, when a decision is due."""
    is_over: bool = False
    """Whether it is about a decision that nobody can take any more."""

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
    data = event.data
    if event.type == "alert":
        if data.get("state") == "cleared":
            return None
        return Notice("alert", alarm_of(event), event.seq, event.subject, event.correlationid, _said(data, "reason"))
    kind = _OF_TASKS.get(event.type)
    if kind is None or event.subject is None:
        return None
    is_over = data.get("outcome") == "expired"
    return Notice(kind, event.subject, event.seq, event.subject, event.correlationid, _said(data, "due"), is_over)


def alarm_of(event: Event) -> str:
    """The name under which an alert is raised and cleared."""
    return (_said(event.data, "alarm") or event.subject or "alert")[:200]


def _said(data: dict[str, Any], name: str) -> str:
    return value if isinstance(value := data.get(name), str) else ""


def still_holds(notice: Notice, task: Task | None) -> bool:
    """Whether it is worth telling: what was decided, unlocked or withdrawn meanwhile is not."""
    if notice.kind == "alert":
        return True
    if task is None:
        return False
    if notice.kind == "reject_lock":
        return task.locked
    return notice.is_over or task.status == "needs_review"


def message_of(notice: Notice, task: Task | None, api_url: str) -> Message:
    """How it reads. What others wrote is shortened, and mentions nobody."""
    about = harmless(notice.task_id or notice.subject, 200)
    lines = [harmless(task.title, 200)] if task is not None else []
    lines.append(_says(notice, task))
    if notice.task_id is not None:
        lines.append(f"{api_url.rstrip('/')}/#/tasks/{quote(notice.task_id, safe='')}")
    return Message(f"{_HEADINGS[notice.kind]}: {about}", "\n".join(line for line in lines if line))


def digest_of(notices: Sequence[Notice], tasks: Sequence[Task | None], api_url: str) -> Message:
    """Many things of one kind in one message."""
    kind = notices[0].kind
    lines = [
        f"{harmless(notice.subject, 100)}: {harmless(task.title if task else notice.told, 100)}"
        for notice, task in list(zip(notices, tasks, strict=True))[:MOST_LINES]
    ]
    if len(notices) > MOST_LINES:
        lines.append(f"and {len(notices) - MOST_LINES} more")
    lines.append(f"{api_url.rstrip('/')}/#/{'?status=needs_review' if kind == 'needs_review' else ''}")
    return Message(f"{_HEADINGS[kind]}: {len(notices)} {'alarms' if kind == 'alert' else 'tasks'}", "\n".join(lines))


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
        issues = f", with {counted(count, 'issue')}" if count else ""
        return f"Attempt {attempt.attempt} waits for a person; its reviewer says {verdict.decision}{issues}."
    if notice.kind == "reject_lock":
        return "Too many rejected attempts in a row: it is dispatched again only once a person unlocks it."
    if notice.kind == "deadline_near":
        return f"A decision is due by {notice.told}." if notice.told else "A decision is due soon."
    if notice.kind == "decision_overdue":
        ending = " Its project's policy rejected it." if notice.is_over else " It waits on."
        return f"Nobody decided by {notice.told}.{ending}" if notice.told else f"Nobody decided in time.{ending}"
    return harmless(notice.told, 1000)


def harmless(text: str, most: int) -> str:
    """Others' text on one line: without what cannot be seen, and without what a chat takes for a mention or a link."""
    seen = "".join(character if character.isprintable() else " " for character in text)
    plain = " ".join(seen.split()).replace("@", "@\u200b").replace("<", "‹").replace(">", "›")
    return plain if len(plain) <= most else f"{plain[: most - 1]}…"
