"""Files by hand: what a changed task file means. Pure; it reads bytes that others fetched and judges them."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from audit.files import MAX_FILE_BYTES
from audit.stamp import Stamp
from ssot.history import contradiction
from ssot.rules import criteria_or_title, title_from
from ssot.task import Attempt, Invalid, Task, check_json, document_bytes, parse_known, plain
from ssot.texts import KEPT_WHOLE, externalise

EDITABLE: Final[tuple[str, ...]] = ("title", "request_text", "acceptance_criteria", "scope", "metadata")
"""What people may change in a task file; it counts from the next dispatch on."""
RECOMPUTED: Final = frozenset({"status", "revision", "seq", "updated_at"})
"""What the store computes; a file may say anything here."""
REQUIRED: Final[tuple[str, ...]] = ("task_id", "source", "request_text", "created_at")
_ROOM_TO_STAMP: Final = 1024
_WITH_OFFSET: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?[+-]\d\d:\d\d", re.ASCII)
FIELDS: Final = frozenset(field.alias or name for name, field in Task.model_fields.items())


@dataclass(frozen=True, slots=True)
class Held:
    """The file stays as it is, untouched, until somebody repairs or removes it."""

    reason: str
    field: str
    detail: str


@dataclass(frozen=True, slots=True)
class Outdated:
    """Not an edit: nothing, zeros, or a version that the log made. The file is written again."""

    why: str


@dataclass(frozen=True, slots=True)
class Adopted:
    """An edit to take over: the fields of the `task_adopted` event, and the texts that go into blobs."""

    task: dict[str, Any]
    new: bool
    with_history: bool
    blobs: dict[str, bytes]


Judgement = Held | Outdated | Adopted


def judge(
    task_id: str,
    raw: bytes,
    current: Task | None,
    *,
    version_at: Callable[[int], Task | None],
    made_by_log: Callable[[int], bool],
    has_blob: Callable[[str], bool],
    stamp: Stamp,
) -> Judgement:
    """What the bytes of ``<task_id>.json`` mean beside what the log says.

    Args:
        current: the task as the log has it, None when the log does not know it.
        version_at: the task as it stood after the event with this seq, for edits that began from an older version.
        made_by_log: whether exactly these bytes are the version of the event with this seq.
        has_blob: whether a text named by ``sha256:…`` is kept.
    """
    if current is not None and not raw.strip(b"\x00"):
        return Outdated("empty" if not raw else "zeros")
    try:
        document = check_json(raw)
    except Invalid as error:
        return Held("not_json", error.field, error.reason)
    try:
        if not isinstance(document, dict):
            raise Invalid("", "a task file holds one JSON object")
        seq = document.get("seq")
        if current is not None and isinstance(seq, int) and seq != current.seq and made_by_log(seq):
            return Outdated("older version")
        _check_shape(task_id, document)
        _check_blobs(document, has_blob)
        if current is None:
            return _judge_new(task_id, document, stamp)
        base = version_at(seq) if isinstance(seq, int) and seq < current.seq else None
        return _judge_edit(document, current, base or current)
    except _Breach as breach:
        return breach.held
    except Invalid as error:
        return Held("schema", error.field, error.reason)


class _Breach(Exception):
    def __init__(self, reason: str, field: str, detail: str) -> None:
        super().__init__(detail)
        self.held = Held(reason, field, detail)


def _check_shape(task_id: str, document: dict[str, Any]) -> None:
    for name in document:
        if name not in FIELDS:
            raise _Breach("unknown_field", name[:200], "no such field is known in a task file")
    for name in REQUIRED:
        if name not in document and not (name == "request_text" and "blob" in document):
            raise Invalid(name, "this field is missing")
    if document["task_id"] != task_id:
        raise _Breach(
            "wrong_name", "task_id", f"the file is named for {task_id}, but says {document['task_id']!r:.200}"
        )
    if not _same(document.get("schema", 1), 1):
        raise Invalid("schema", "only schema 1 is known")


def _check_blobs(value: Any, has_blob: Callable[[str], bool]) -> None:
    if isinstance(value, dict):
        blob = value.get("blob")
        if isinstance(blob, str) and not has_blob(blob):
            raise Invalid("blob", f"the text {blob[:80]} is not kept in ssot/blobs")
        for name, item in value.items():
            if name not in KEPT_WHOLE:
                _check_blobs(item, has_blob)
    elif isinstance(value, list):
        for item in value:
            _check_blobs(item, has_blob)


# ----------------------------------------------------------------------------------------- a new file


def _judge_new(task_id: str, document: dict[str, Any], stamp: Stamp) -> Adopted:
    if document.get("locked", False) is not False:
        raise _Breach("field_changed", "locked", "only the log locks a task")
    document = {name: value for name, value in document.items() if value is not None}  # null says nothing
    attempts = _history(document.get("attempts", []))
    task = {
        "title": document.get("title") or _title(document.get("request_text")),
        "source": document.get("source"),
        "request_text": document.get("request_text"),
        "acceptance_criteria": document.get("acceptance_criteria", []),
        "scope": document.get("scope", []),
        "created_at": _in_utc(document.get("created_at")),
        "correlation_id": document.get("correlation_id") or stamp.new_id("c"),
        "origin": document.get("origin", {}),
        "build": document.get("build"),
        "attempts": attempts,
        "metadata": document.get("metadata", {}),
    }
    task.update({name: document[name] for name in ("chat_id", "message_id", "blob") if name in document})
    adopted = _adopted(task_id, task, new=True, with_history=bool(attempts))
    _check_history(attempts)
    return adopted


def _history(attempts: Any) -> list[Any]:
    """Attempts that a new file brings: up to a verdict, each marked as not witnessed by this log."""
    if not isinstance(attempts, list):
        raise Invalid("attempts", "a list is expected")
    for index, attempt in enumerate(attempts):
        where = f"attempts[{index}]"
        if not isinstance(attempt, dict):
            raise Invalid(where, "an object is expected")
        if attempt.get("decision") is not None or attempt.get("approvals"):
            raise _Breach(
                "forged_decision",
                f"{where}.decision",
                "the log knows no such decision: nobody decides by a file",
            )
        said = next((name for name in ("low_risk", "reminded", "overdue_at", "unlanded") if attempt.get(name)), None)
        if said is not None:
            raise _Breach("history_changed", f"{where}.{said}", "only the log says this of an attempt")
        if attempt.get("unlocked") is not None:
            raise _Breach("forged_decision", f"{where}.unlocked", "the log knows no such unlock")
        if attempt.get("dispatch") is None:
            raise Invalid(f"{where}.dispatch", "an attempt begins with its dispatch")
        if index < len(attempts) - 1 and attempt.get("ended") is None:
            raise _Breach(
                "history_changed",
                where,
                "a further attempt follows, but this one neither ended nor was decided",
            )
        if attempt.get("attempt") != index + 1:
            raise Invalid(f"{where}.attempt", f"attempts are numbered from 1 in order: {index + 1} is expected")
    return [{**attempt, "witnessed": False} for attempt in attempts]


def _check_history(attempts: list[Any]) -> None:
    """What no rule would have taken is no history, though it has the form of one."""
    found = contradiction([Attempt.model_validate_json(orjson.dumps(attempt)) for attempt in attempts])
    if found is not None:
        raise Invalid(*found)


def _in_utc(moment: Any) -> Any:
    """A time with another offset than Z, as most languages write it, in the form of the document."""
    if isinstance(moment, str) and _WITH_OFFSET.fullmatch(moment):
        with suppress(ValueError):
            return datetime.fromisoformat(moment).astimezone(UTC).isoformat().replace("+00:00", "Z")
    return moment


def _title(request_text: Any) -> str:
    return title_from(request_text) if isinstance(request_text, str) else "untitled"


def _adopted(task_id: str, task: dict[str, Any], *, new: bool, with_history: bool) -> Adopted:
    """Check the whole, fill in what is missing, move long texts out."""
    if not task["acceptance_criteria"] and isinstance(task["title"], str):
        task = {**task, "acceptance_criteria": [plain(c) for c in criteria_or_title((), task["title"])]}
    slim, blobs = externalise(task)
    stamped = {"schema": 1, "task_id": task_id, "status": "pending", "revision": 1, "seq": 1, "locked": False}
    whole = {**stamped, **slim, "updated_at": task["created_at"]}
    checked = parse_known(orjson.dumps(whole))  # raises Invalid with the field
    if (size := len(document_bytes(checked))) > MAX_FILE_BYTES - _ROOM_TO_STAMP:
        raise _Breach("too_large", "", f"the task would have {size} bytes, more than {MAX_FILE_BYTES}")
    kept = plain(checked)
    return Adopted({name: kept[name] for name in slim if name in kept}, new, with_history, blobs)


# --------------------------------------------------------------------------------------------- an edit


def _judge_edit(document: dict[str, Any], current: Task, base: Task) -> Judgement:
    """Take over what a person changed against the version they began from; everything else must stand as it was."""
    old, now = (orjson.loads(orjson.dumps(plain(task))) for task in (base, current))
    document = _as_a_new_file_would_say(document, old)
    for name, value in document.items():
        if name not in EDITABLE and name not in RECOMPUTED and name != "blob" and not _same(value, old.get(name)):
            raise _breach_of(name, value, old.get(name))
    edited = [name for name in EDITABLE if name in document and not _same(document[name], old[name])]
    changed = {name: document[name] for name in edited if not _same(document[name], now[name])}
    if document.get("blob", old.get("blob")) != old.get("blob"):
        changed.update(request_text=document.get("request_text"), blob=document.get("blob"))
    if not changed:
        return Outdated("recomputed")
    if isinstance(changed.get("request_text"), str):
        changed["blob"] = None
    whole = {**now, **changed}
    if whole.get("blob") is None:
        whole.pop("blob", None)
    adopted = _adopted(current.task_id, whole, new=False, with_history=False)
    # `blob` goes with its text: null where a text that was long is short now
    fields = {*changed, *(["blob"] if "request_text" in changed else [])}
    return Adopted({name: adopted.task.get(name) for name in sorted(fields)}, False, False, adopted.blobs)


def _as_a_new_file_would_say(document: dict[str, Any], old: dict[str, Any]) -> dict[str, Any]:
    """An edit with what a new file may leave to us filled in: who writes files writes the same ones again."""
    said = {name: value for name, value in document.items() if value is not None or old.get(name)}
    said["created_at"] = _in_utc(document["created_at"])
    title = said.get("title", old["title"])
    if said.get("acceptance_criteria") == [] and isinstance(title, str):
        said["acceptance_criteria"] = [plain(c) for c in criteria_or_title((), title)]
    return said


def _same(left: Any, right: Any) -> bool:
    """Whether two values are the same JSON; Python alone takes 1, 1.0 and true for equal."""
    return orjson.dumps(left, option=orjson.OPT_SORT_KEYS) == orjson.dumps(right, option=orjson.OPT_SORT_KEYS)


def _breach_of(name: str, value: Any, old: Any) -> _Breach:
    if name != "attempts":
        return _Breach("field_changed", name, f"{name} cannot be changed by hand")
    theirs = value if isinstance(value, list) else []
    ours = old if isinstance(old, list) else []
    for index, attempt in enumerate(theirs):
        known = ours[index] if index < len(ours) else {}
        decided = attempt.get("decision") if isinstance(attempt, dict) else None
        if decided is not None and decided != known.get("decision"):
            return _Breach(
                "forged_decision",
                f"attempts[{index}].decision",
                "the log knows no such decision: nobody decides by a file",
            )
    where = next((i for i, (a, b) in enumerate(zip(theirs, ours, strict=False)) if a != b), min(len(theirs), len(ours)))
    return _Breach("history_changed", f"attempts[{where}]", "the attempts differ from what the log says")
