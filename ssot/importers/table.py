"""Reads tasks from rows: JSON Lines, a JSON document, and CSV with a header row.

A row's fields, case and separators of their names aside: `task_id` (`id`, `instance_id`), `title`,
`request_text` (`description`, `body`, `problem_statement`), `acceptance_criteria` (a list of texts or of
`{"id", "text"}`, or one text; `FAIL_TO_PASS` of SWE-bench instances), `scope`, `created_at`, `status`.
Everything else is kept as metadata. A JSON document is a list of such rows, an object with such a list as
`tasks`, `issues` or `items`, one row, or an exercise with `cases`, which become its criteria. A scope that
cannot be read refuses its row: a task must not become unlimited by a slip.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from ssot import strict_json
from ssot.counted import counted
from ssot.importers import markdown, rows, source
from ssot.importers.draft import Gathering, Item, fitted_id, made_id
from ssot.task import TASK_ID, Criterion

JSONL = "jsonl"
CSV = "csv"
_NAMES = {
    "task_id": ("task_id", "id", "instance_id"),
    "title": ("title", "summary", "name"),
    "request": ("request_text", "description", "body", "problem_statement"),
    "criteria": ("acceptance_criteria", "fail_to_pass"),
    "scope": ("scope",),
    "created": ("created_at",),
    "status": ("status", "state"),
}
_TELLING = frozenset({"task_id", "instance_id", "title", "request_text", "acceptance_criteria", "problem_statement"})
_LISTS = ("tasks", "issues", "items")
_LISTED = re.compile(r"^[ \t]*(?:[-*+•]|\d{1,9}[.)])[ \t]+\S", re.MULTILINE)


class _Unusable(ValueError):
    """A row that cannot become a task."""


def looks_like_tasks(value: Any) -> bool:
    """Whether a JSON value is about tasks at all, and not some other program's file."""
    if isinstance(value, list):
        return bool(value) and looks_like_tasks(value[0])
    if not isinstance(value, dict):
        return False
    names = {_plain(name) for name in value}
    listed = any(isinstance(value.get(name), list) and looks_like_tasks(value[name]) for name in _LISTS)
    return bool(names & _TELLING) or _is_exercise(value) or listed


def gather_json(path: Path, root: Path, gathering: Gathering) -> None:
    """Read JSON Lines, or one JSON document."""
    name = source.name_of(path, root)
    try:
        raw = source.content(path)
    except source.Unreadable as error:
        gathering.problem(name, error.line, str(error))
        return
    for line, value in _values(path, raw, name, gathering):
        _add(JSONL, value, name, line, gathering)


def _values(path: Path, raw: bytes, name: str, gathering: Gathering) -> Iterator[tuple[int | None, dict[str, Any]]]:
    lines = raw.strip().split(b"\n", 1)
    if not is_document(path, lines[0]):
        yield from rows.objects(raw, name, gathering)
        return
    try:
        document = strict_json.loads(raw)
    except ValueError as error:
        gathering.problem(name, _line_in(str(error), raw), str(error))
        return
    for number, value in enumerate(_rows_of(document), 1):
        if number > rows.MAX_ROWS:
            gathering.problem(name, None, f"more than {rows.MAX_ROWS} rows; the rest was not read")
            return
        if isinstance(value, dict):
            yield None, value
        else:
            gathering.problem(name, None, f"entry {number} is not a JSON object")


def is_document(path: Path, first_line: bytes) -> bool:
    """Whether a file is one JSON document, and not one object a line."""
    first = first_line.strip()
    if first in (b"{", b"[") or first.startswith(b"["):
        return True
    return path.suffix.lower() == ".json" and not first.endswith(b"}")


def _line_in(message: str, raw: bytes) -> int | None:
    """The line that a complaint about a document is about, where it can be told."""
    if match := re.search(r"line (\d+)", message):
        return int(match[1])
    named = re.search(r"(?:integer|number) (-?[\d.eE+-]+)", message)
    at = raw.find(named[1].encode()) if named else -1
    return raw.count(b"\n", 0, at) + 1 if at >= 0 else None


def _rows_of(document: Any) -> list[Any]:
    if isinstance(document, list):
        return document
    if isinstance(document, dict):
        for name in _LISTS:
            if isinstance(document.get(name), list):
                return list(document[name])
    return [document]


def gather_csv(path: Path, root: Path, gathering: Gathering) -> None:
    """Read CSV (comma, semicolon or tab) with a header row."""
    name = source.name_of(path, root)
    text = source.read_text(path, root, gathering)
    if text is None:
        return
    head = text.lstrip("\n").split("\n", 1)[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=head.count), strict=True)
    table = _csv_rows(reader, name, gathering)
    _, header = next(table, (1, []))
    names = [_plain(cell) for cell in header]
    known = {*_NAMES["title"], *_NAMES["request"]}
    if not known & set(names):
        gathering.problem(name, 1, f"no header row with one of the columns {', '.join(sorted(known))}")
        return
    if len(set(names)) < len(names):
        twice = next(cell for cell in names if names.count(cell) > 1)
        gathering.problem(name, 1, f"the column {twice!r} stands twice in the header")
        return
    for number, (line, cells) in enumerate(table, 1):
        if number > rows.MAX_ROWS:
            gathering.problem(name, line, f"more than {rows.MAX_ROWS} rows; the rest was not read")
            return
        if len(cells) > len(names):
            gathering.problem(
                name, line, f"{counted(len(cells), 'cell')}, but the header has {counted(len(names), 'column')}"
            )
            continue
        _add(
            CSV,
            {key: cell for key, cell in zip(names, cells, strict=False) if key and cell.strip()},
            name,
            line,
            gathering,
        )


def _csv_rows(reader: Any, name: str, gathering: Gathering) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not blank, each with the line on which it starts."""
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            gathering.problem(name, line, f"not CSV: {error}")
            if reader.line_num < line:
                return
            continue
        if any(cell.strip() for cell in cells):
            yield line, cells


def _add(form: str, value: dict[str, Any], name: str, line: int | None, gathering: Gathering) -> None:
    try:
        gathering.add(form, _exercise(value, name) if _is_exercise(value) else _item(form, value, name, line))
    except (_Unusable, markdown.TooLong) as error:
        gathering.problem(name, line, str(error))


def _item(form: str, value: dict[str, Any], name: str, line: int | None) -> Item:
    by_name = {_plain(key): key for key in reversed(value)}
    found = {part: _first(value, by_name, names) for part, names in _NAMES.items()}
    title, request = (_text(value, found[part]) for part in ("title", "request"))
    if title is None and request is None:
        raise _Unusable("neither a title nor a request text in this row")
    title = title or next(row for row in (request or "").splitlines() if row.strip())
    source_id = _text(value, found["task_id"])
    split = _split if form == CSV else _listed
    taken = {key for part, key in found.items() if part != "status"}
    return Item(
        task_id=_id(source_id, found["task_id"], title),
        title=title,
        file=name,
        line=line,
        request_text=request or "",
        criteria=tuple(_criteria(value.get(found["criteria"] or "", ""), split)),
        scope=tuple(_scope(value.get(found["scope"] or "", ""))),
        created=_text(value, found["created"]),
        status=_text(value, found["status"]),
        source_id=source_id,
        fields={key: part for key, part in value.items() if key not in taken},
    )


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "_", name.strip().lower())


def _first(value: dict[str, Any], by_name: dict[str, str], names: tuple[str, ...]) -> str | None:
    """The source's own name of the first of these fields that says something."""
    present = (by_name[name] for name in names if name in by_name)
    return next((key for key in present if value[key] not in (None, "", [])), None)


def _text(value: dict[str, Any], key: str | None) -> str | None:
    if key is None:
        return None
    found = value[key]
    if rows.word(value, key) is None and not (isinstance(found, str) and not found.strip()):
        raise _Unusable(f"{key} is not a text")
    return rows.word(value, key)


def _id(source_id: str | None, key: str | None, title: str) -> str:
    if source_id is None:
        return made_id(title)
    if key == "task_id" and not TASK_ID.fullmatch(source_id):
        raise _Unusable(
            f"task_id {source_id[:80]!r} is no task id: "
            "1 to 128 letters, digits, '.', '_' and '-', a letter or digit first"
        )
    return fitted_id(source_id)


def _criteria(found: Any, split: Any) -> Iterator[str | Criterion]:
    if isinstance(found, str):
        yield from _json_list(found) or split(found)
        return
    if not isinstance(found, list):
        raise _Unusable("acceptance_criteria is neither a list nor a text")
    for part in found:
        if isinstance(part, str):
            yield part
        elif isinstance(part, dict) and isinstance(part.get("text"), str):
            given, check = part.get("id"), _check(part.get("check"))
            if isinstance(given, str) and TASK_ID.fullmatch(given):
                yield Criterion(id=given, text=part["text"], check=check)
            elif check is not None:
                raise _Unusable("an acceptance criterion with a check needs an id")
            else:
                yield part["text"]
        else:
            raise _Unusable('an acceptance criterion is neither a text nor {"id", "text"}')


def _check(found: Any) -> str | tuple[str, ...] | None:
    """The command that shows a criterion: a line, or a list of words."""
    words = (found,) if isinstance(found, str) else found
    if found is None:
        return None
    if not isinstance(words, list | tuple) or not words or not all(isinstance(one, str) and one for one in words):
        raise _Unusable("check is neither a command line nor a list of words")
    return found if isinstance(found, str) else tuple(found)


def _json_list(text: str) -> list[str] | None:
    """A list of texts that was written into one text, as SWE-bench tables do."""
    if not text.lstrip().startswith('["'):
        return None
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return found if isinstance(found, list) and all(isinstance(part, str) for part in found) else None


def _listed(text: str) -> list[str]:
    return markdown.criteria_of(text)


def _split(text: str) -> list[str]:
    """A cell's criteria: a list where it is one, else its lines and what semicolons part."""
    if _LISTED.search(text):
        return markdown.criteria_of(text)
    return [part.strip() for part in re.split(r"[\n;]", text) if part.strip()]


def _scope(found: Any) -> list[str]:
    globs = [part.strip() for part in re.split(r"[\n;,]", found)] if isinstance(found, str) else found
    if not isinstance(globs, list) or not all(isinstance(part, str) for part in globs):
        raise _Unusable("scope is neither a list of globs nor a text")
    globs = [part for part in globs if part.strip()]
    for part in globs:
        if part.startswith("/") or ".." in part.split("/") or len(part) > 4096 or not part.isprintable():
            raise _Unusable(f"scope {part[:80]!r} is no glob below the project's root")
    return globs


def _is_exercise(value: dict[str, Any]) -> bool:
    return isinstance(value.get("exercise"), str) and isinstance(value.get("cases"), list)


def _exercise(value: dict[str, Any], name: str) -> Item:
    """An exercise with its canonical cases: each case is a criterion."""
    slug = value["exercise"]
    words = slug.replace("-", " ").strip()
    if not words:
        raise _Unusable("an exercise without a name")
    comments = value.get("comments", [])
    remarks = [part for part in comments if isinstance(part, str)] if isinstance(comments, list) else []
    return Item(
        task_id=fitted_id(slug),
        title=words[:1].upper() + words[1:],
        file=name,
        request_text="\n".join(
            [f"Implement the exercise {slug}: every case holds.", *(["", *remarks] if remarks else [])]
        ),
        criteria=tuple(_cases(value["cases"], ())),
        source_id=slug,
    )


def _cases(cases: list[Any], groups: tuple[str, ...]) -> Iterator[str]:
    for case in cases:
        if not isinstance(case, dict):
            raise _Unusable("a case is not an object")
        name = str(case.get("description", "")).strip()
        if isinstance(case.get("cases"), list):
            yield from _cases(case["cases"], (*groups, name))
            continue
        given, expected = _compact(case.get("input")), _compact(case.get("expected"))
        told = " – ".join(part for part in (*groups, name) if part)
        yield f"{told}: {case.get('property', 'result')}({given}) = {expected}"


def _compact(value: Any) -> str:
    return orjson.dumps(value).decode()
