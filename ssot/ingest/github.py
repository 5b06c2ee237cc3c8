"""Reads GitHub's deliveries: issues become tasks, commands in comments are recorded, everything else is ignored.

Payloads as in https://docs.github.com/webhooks/webhook-events-and-payloads; unknown fields and values are taken as
they come.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any, Final

from ssot.importers.markdown import checklist_items
from ssot.ingest.delivery import BadPayload, Bring, Delivery, Ignore, Record
from ssot.ingest.payload import criteria, inside, moment, needed_text, needed_whole, one_line, text
from ssot.intents import Create, Refresh

MAKING: Final = frozenset({"opened", "edited", "labeled"})
"""The actions of an issue that make or refresh its task."""
_COMMAND: Final = re.compile(r"/(dispatch|approve|reject)(?=\s|$)[ \t]*(.*)")
_FULL_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9_.-]+", re.ASCII)
_MAX_LABELS: Final = 100


def read(event: str, delivery_id: str, payload: Any) -> Delivery:
    """What a delivery asks for. Raises BadPayload."""
    if not isinstance(payload, dict):
        raise BadPayload("the payload is no JSON object")
    action = text(payload, "action")
    kind = one_line(f"{event}.{action}" if action else event, 200)
    if event == "issues" and action in MAKING:
        return _issue(delivery_id, kind, payload)
    if event == "issue_comment" and action != "deleted" and (command := _command(payload)) is not None:
        return Delivery("github", delivery_id, kind, Record(command), _task_id_or_none(payload))
    facts = {"event": event, "repository": one_line(text(payload, "repository", "full_name") or "", 200)}
    return Delivery("github", delivery_id, kind, Ignore("not_followed", facts))


def _issue(delivery_id: str, kind: str, payload: dict[str, Any]) -> Delivery:
    title = one_line(needed_text(payload, "issue", "title")) or "untitled"
    body = text(payload, "issue", "body") or ""
    asked = body if body.strip() else title
    found, origin = criteria(checklist_items(body)), _origin(payload)
    create = Create(
        request_text=asked,
        source="github",
        title=title,
        acceptance_criteria=found,
        created_at=moment(inside(payload, "issue", "created_at")),
        origin=origin,
    )
    change = Refresh(asked, title, found, origin)
    return Delivery("github", delivery_id, kind, Bring(create, change), task_id_of(payload))


def _origin(payload: dict[str, Any]) -> dict[str, Any]:
    labels = inside(payload, "issue", "labels")
    names = [name for one in labels if (name := text(one, "name"))] if isinstance(labels, list) else []
    return {
        "repository": needed_text(payload, "repository", "full_name"),
        "number": needed_whole(payload, "issue", "number", least=1),
        "url": text(payload, "issue", "html_url"),
        "author": text(payload, "issue", "user", "login"),
        "labels": names[:_MAX_LABELS],
        "updated_at": moment(inside(payload, "issue", "updated_at")),
    }


def task_id_of(payload: dict[str, Any]) -> str:
    """``gh-<owner>_<repo>-<number>``, lower-cased; a longer one keeps its beginning and gets a digest. BadPayload."""
    full_name = needed_text(payload, "repository", "full_name")
    if not _FULL_NAME.fullmatch(full_name):
        raise BadPayload("repository.full_name: owner/name is expected")
    number = needed_whole(payload, "issue", "number", least=1)
    task_id = f"gh-{full_name.replace('/', '_')}-{number}".lower()
    if len(task_id) <= 128:
        return task_id
    return f"{task_id[:111]}-{hashlib.sha256(task_id.encode()).hexdigest()[:16]}"


def _task_id_or_none(payload: dict[str, Any]) -> str | None:
    try:
        return task_id_of(payload)
    except BadPayload:
        return None


def _command(payload: dict[str, Any]) -> dict[str, Any] | None:
    """The command in a comment's first line; None where there is none."""
    first = (text(payload, "comment", "body") or "").split("\n", 1)[0].rstrip("\r")
    found = _COMMAND.match(first)
    if found is None:
        return None
    return {
        "command": found[1],
        "argument": one_line(found[2]),
        "author": one_line(text(payload, "comment", "user", "login") or "", 200),
        "url": one_line(text(payload, "comment", "html_url") or ""),
    }
