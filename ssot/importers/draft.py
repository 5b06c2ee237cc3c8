"""What every importer hands over: drafts of tasks and the problems met on the way, gathered under unique task
ids.

A draft is a task as its source tells it. It has no place in the workspace yet: only the store gives it one.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import orjson

from ssot.task import TASK_ID, Criterion

MAX_PROBLEMS = 1_000  # of one reading; the rest is counted in one last problem
MAX_TITLE = 200
MAX_CRITERIA = 1_000
MAX_METADATA_BYTES = 16_384  # metadata travels inside log lines, which stay under 64 KiB
MAX_METADATA_DEPTH = 32

_CRITERION_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_INSTANT = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)"
    r"(?:[Tt ](\d\d):(\d\d)(?::(\d\d)(?:[.,](\d{1,12}))?)?\s*([Zz]|[+-]\d\d:?\d\d)?)?"
)
_FINISHED = frozenset(
    {
        "done",
        "closed",
        "complete",
        "completed",
        "finished",
        "resolved",
        "archived",
        "merged",
        "cancelled",
        "canceled",
        "wontfix",
        "tombstone",
    }
)
_NOT_READY = frozenset({"draft", "deferred", "blocked"})


class ImportRefused(ValueError):
    """The path or the format as a whole cannot be imported; the message says what was looked for."""


@dataclass(frozen=True, slots=True)
class Draft:
    """One task as an importer read it.

    `created_at` is RFC 3339 UTC with `Z`, or None for the store's clock. `metadata["import"]` holds `format`,
    `path` (relative to what was imported), `status` (the source's own word, or None), `finished` and `draft`
    (not ready to be worked on: a draft, deferred or blocked); the source's other fields stand beside it.
    """

    task_id: str
    title: str
    request_text: str
    acceptance_criteria: tuple[Criterion, ...]
    scope: tuple[str, ...]
    created_at: str | None
    origin: dict[str, Any]
    metadata: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that could not be read: where, and why. `line` counts from 1."""

    file: str
    line: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class Reading:
    """All that one import found."""

    format: str
    drafts: tuple[Draft, ...]
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class Item:
    """One task in its source's own words, before ids, criteria and metadata are put into shape."""

    task_id: str
    title: str
    file: str
    line: int | None = None
    request_text: str = ""
    criteria: tuple[str | Criterion, ...] = ()
    scope: tuple[str, ...] = ()
    created: str | None = None
    status: str | None = None
    finished: bool = False
    not_ready: bool = False
    source_id: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)


class Gathering:
    """Collects the items of one reading: makes drafts, refuses a second one under the same id, counts
    problems.
    """

    def __init__(self) -> None:
        self._drafts: list[Draft] = []
        self._problems: list[Problem] = []
        self._unlisted = 0
        self._places: dict[str, str] = {}

    def taken(self, task_id: str) -> bool:
        return task_id.casefold() in self._places

    def add(self, form: str, item: Item) -> None:
        """Take an item in, or say why not."""
        known = self._places.get(item.task_id.casefold())
        if known is not None:
            self.problem(item.file, item.line, f"task id {item.task_id!r} was already read from {known}")
            return
        try:
            draft = _draft(form, item)
            orjson.dumps([draft.title, draft.request_text, draft.metadata, [c.text for c in draft.acceptance_criteria]])
        except (ValueError, TypeError, RecursionError) as error:
            self.problem(item.file, item.line, f"task {item.task_id!r} cannot be kept: {one_line(str(error))}")
            return
        self._places[item.task_id.casefold()] = item.file if item.line is None else f"{item.file} line {item.line}"
        self._drafts.append(draft)

    def problem(self, file: str, line: int | None, reason: str) -> None:
        if len(self._problems) < MAX_PROBLEMS:
            self._problems.append(Problem(file, line, reason))
        else:
            self._unlisted += 1

    def reading(self, form: str) -> Reading:
        problems = list(self._problems)
        if self._unlisted:
            problems.append(Problem(problems[-1].file, None, f"{self._unlisted} more problems are not listed"))
        return Reading(form, tuple(self._drafts), tuple(problems))


def _draft(form: str, item: Item) -> Draft:
    full_title = one_line(item.title) or one_line(item.request_text) or item.task_id
    title = full_title if len(full_title) <= MAX_TITLE else full_title[: MAX_TITLE - 1].rstrip() + "…"
    fields = dict(item.fields)
    if title != full_title:
        fields.setdefault("full_title", full_title)
    if item.created and instant(item.created) is None:
        fields.setdefault("created", item.created)
    about = {
        "format": form,
        "path": item.file,
        "status": item.status,
        "finished": item.finished or is_finished(item.status),
        "draft": item.not_ready or is_not_ready(item.status),
    }
    origin: dict[str, Any] = {"format": form, "path": item.file}
    if item.source_id is not None:
        origin["id"] = item.source_id
    return Draft(
        task_id=item.task_id,
        title=title,
        request_text=item.request_text if item.request_text.strip() else full_title,
        acceptance_criteria=_criteria(item.criteria, full_title),
        scope=item.scope,
        created_at=instant(item.created),
        origin=origin,
        metadata=_metadata(fields, about),
    )


def _criteria(given: tuple[str | Criterion, ...], title: str) -> tuple[Criterion, ...]:
    """Number the criteria; ids that the source gives are kept where all of them can be."""
    texts = [(one.text or "").strip() if isinstance(one, Criterion) else one.strip() for one in given]
    ids = [criterion.id if isinstance(criterion, Criterion) else "" for criterion in given]
    if len(texts) > MAX_CRITERIA:
        raise ValueError(f"it has {len(texts)} acceptance criteria, more than {MAX_CRITERIA}")
    keep = len(set(ids)) == len(ids) and all(map(_CRITERION_ID.fullmatch, ids))
    if keep and texts and all(texts):
        checks = [one.check if isinstance(one, Criterion) else None for one in given]
        return tuple(
            Criterion(id=name, text=text, check=check) for name, text, check in zip(ids, texts, checks, strict=True)
        )
    if any(isinstance(one, Criterion) and one.check is not None for one in given):
        raise ValueError("criteria with a check need ids of their own, and a text")
    texts = [text for text in texts if text] or [title]
    return tuple(Criterion(id=f"AC-{number}", text=text) for number, text in enumerate(texts, 1))


def _metadata(fields: dict[str, Any], about: dict[str, Any]) -> dict[str, Any]:
    """The source's other fields, bounded: what is too deep or too large is left out, and named."""
    if "import" in fields:
        fields["import_"] = fields.pop("import")
    omitted = {name for name, value in fields.items() if _deeper_than(value, MAX_METADATA_DEPTH)}
    kept = {name: value for name, value in fields.items() if name not in omitted}
    sizes = {name: len(orjson.dumps({name: value})) for name, value in kept.items()}
    room = MAX_METADATA_BYTES - sum(sizes.values())
    for name in sorted(sizes, key=lambda name: -sizes[name]):
        if room >= 0:
            break
        room += sizes[name]
        del kept[name]
        omitted.add(name)
    if omitted:
        about["omitted"] = sorted(name[:100] for name in omitted)[:50]
    return {**kept, "import": about}


def _deeper_than(value: Any, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    inner: Iterable[Any] = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_deeper_than(part, levels - 1) for part in inner)


def one_line(text: str) -> str:
    """The text on one line: each run of white space and control characters becomes one space."""
    return " ".join("".join(" " if unicodedata.category(mark) == "Cc" else mark for mark in text).split())


def is_finished(status: str | None) -> bool:
    return status is not None and _word(status) in _FINISHED


def is_not_ready(status: str | None) -> bool:
    return status is not None and _word(status) in _NOT_READY


def _word(status: str) -> str:
    return re.sub(r"[^a-z]", "", status.lower())


def instant(text: str | None) -> str | None:
    """A date or time in the usual spellings, as RFC 3339 UTC with microseconds; no zone means UTC. None if it
    is none.
    """
    match = _INSTANT.fullmatch(text.strip()) if text else None
    if match is None:
        return None
    year, month, day, hour, minute, second = (int(part or 0) for part in match.groups()[:6])
    fraction, zone = (match[7] or "")[:6].ljust(6, "0"), match[8]
    try:
        moment = datetime(year, month, day, hour, minute, second, int(fraction), _offset(zone)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return moment.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def _offset(zone: str | None) -> timezone:
    if not zone or zone in "Zz":
        return UTC
    distance = timedelta(hours=int(zone[1:3]), minutes=int(zone[-2:]))
    return timezone(-distance if zone[0] == "-" else distance)


def fitted_id(text: str) -> str:
    """The source's own id where it is a task id, else the nearest one; the same text always gives the same
    id.
    """
    if TASK_ID.fullmatch(text):
        return text
    return _cut(slug(text, lower=False))


def made_id(*parts: str) -> str:
    """A task id made of the slugs of some texts (a path, a title)."""
    return _cut("-".join(slug(part) for part in parts))


def _cut(task_id: str) -> str:
    if len(task_id) <= 128:
        return task_id
    return f"{task_id[:111]}-{hashlib.sha256(task_id.encode()).hexdigest()[:16]}"


def slug(text: str, *, lower: bool = True) -> str:
    """Letters, digits, dots and dashes. Where letters outside ASCII had to go, a digest keeps two texts
    apart.
    """
    plain = unicodedata.normalize("NFKD", text)
    lost = any(ord(mark) > 127 and unicodedata.category(mark)[0] in "LN" for mark in plain)
    kept = re.sub(r"[^A-Za-z0-9._]+", "-", "".join(mark for mark in plain if not unicodedata.combining(mark)))
    kept = kept.strip("._-")
    kept = kept.lower() if lower else kept
    if lost or not kept:
        return f"{kept or 'item'}-{digest(text)}"
    return kept


def digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
