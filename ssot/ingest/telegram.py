"""Reads Telegram's updates: messages with a text become tasks, edits refresh them, everything else is ignored.

Updates as in https://core.telegram.org/bots/api#update. A message is known by its chat and its own id, never by the
update's, which begins anew after a quiet week.
"""

from __future__ import annotations

from typing import Any, Final

from ssot.importers.markdown import checklist_items
from ssot.ingest.delivery import BadPayload, Bring, Delivery, Ignore
from ssot.ingest.payload import criteria, inside, moment_of_seconds, needed_whole, one_line, text, whole
from ssot.intents import Create, Refresh

MESSAGES: Final = ("message", "channel_post")
EDITS: Final = ("edited_message", "edited_channel_post")


def read(payload: Any) -> Delivery:
    """What an update asks for. Raises BadPayload."""
    if not isinstance(payload, dict):
        raise BadPayload("the update is no JSON object")
    update_id = needed_whole(payload, "update_id")
    kind = next((name for name in (*MESSAGES, *EDITS) if name in payload), None)
    if kind is None:
        other = next((one_line(name, 100) for name in payload if name != "update_id"), "-") or "-"
        return Delivery("telegram", str(update_id), other, Ignore("not_followed"))
    return _message(str(update_id), kind, payload[kind])


def _message(update_id: str, kind: str, message: Any) -> Delivery:
    chat_id = needed_whole(message, "chat", "id")
    message_id = needed_whole(message, "message_id", least=0)
    asked = text(message, "text") or text(message, "caption") or ""
    identity = f"{update_id}:{kind}:{chat_id}:{message_id}"
    if not asked.strip():
        return Delivery("telegram", update_id, kind, Ignore("no_text"), identity=identity)
    origin = {
        "chat_id": chat_id,
        "message_id": message_id,
        "update_id": int(update_id),
        "chat_type": text(message, "chat", "type"),
        "from": text(message, "from", "username") or whole(message, "from", "id"),
        "updated_at": moment_of_seconds(inside(message, "date")),
    }
    wish = _edited(message, asked) if kind in EDITS else Bring(_created(message, asked, origin), None)
    return Delivery("telegram", update_id, kind, wish, task_id_of(chat_id, message_id), identity)


def _created(message: Any, asked: str, origin: dict[str, Any]) -> Create:
    return Create(
        request_text=asked,
        source="telegram",
        acceptance_criteria=criteria(checklist_items(asked)),
        created_at=moment_of_seconds(inside(message, "date")),
        origin=origin,
        chat_id=origin["chat_id"],
        message_id=origin["message_id"],
    )


def _edited(message: Any, asked: str) -> Bring:
    """An edit tells whole seconds: two of them may have the same."""
    edited_at = moment_of_seconds(inside(message, "edit_date")) or moment_of_seconds(inside(message, "date"))
    origin = {"updated_at": edited_at}
    return Bring(None, Refresh(asked, None, criteria(checklist_items(asked)), origin, equal_is_newer=True))


def task_id_of(chat_id: int, message_id: int) -> str:
    """``tg-<chat id>-<message id>``; the minus of a group's id is an ``n``."""
    return f"tg-{str(chat_id).replace('-', 'n')}-{message_id}"
