"""Reads Beads stores: `issues.jsonl`, one issue a line.

The request is the issue's description, with its design and notes below it. The lines of `acceptance_criteria`
(a checklist, a list, or one text) are the criteria. Closed issues and tombstones count as finished; deferred
and blocked ones are not ready. The sides of a merge conflict are both read: its marker lines are problems,
and so is an issue's second version.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ssot.importers import markdown, rows, source
from ssot.importers.draft import Gathering, Item, fitted_id

NAME = "beads"
_TAKEN = frozenset({"id", "title", "description", "design", "notes", "acceptance_criteria", "status", "created_at"})
_STORES = ("issues.jsonl", "beads.jsonl")


def store_of(path: Path) -> Path | None:
    """The store file of a project root, a .beads folder or a file."""
    for folder in (path / ".beads", path):
        for name in _STORES:
            if (folder / name).is_file():
                return folder / name
    return None


def is_issue(value: Any) -> bool:
    """Whether a JSON object looks like a Beads issue."""
    return isinstance(value, dict) and {"id", "title", "status", "issue_type"} <= value.keys()


def gather(path: Path, root: Path, gathering: Gathering) -> None:
    """Read the issues of a file, or of the store in a folder."""
    file = (store_of(path) or path) if source.is_folder_or_root(path) else path
    name = source.name_of(file, root)
    for line, value in rows.json_lines(file, name, gathering):
        try:
            item = _item(value, name, line, gathering)
        except markdown.TooLong as error:
            gathering.problem(name, line, f"acceptance_criteria: {error}")
            continue
        if item is not None:
            gathering.add(NAME, item)


def _item(value: dict[str, Any], name: str, line: int, gathering: Gathering) -> Item | None:
    source_id, title = rows.word(value, "id"), rows.word(value, "title")
    if not source_id or not title:
        gathering.problem(name, line, "an issue needs an id and a title, each a text")
        return None
    return Item(
        task_id=fitted_id(source_id),
        title=title,
        file=name,
        line=line,
        request_text=_request(value),
        criteria=tuple(markdown.criteria_of(rows.word(value, "acceptance_criteria") or "")),
        created=rows.word(value, "created_at"),
        status=rows.word(value, "status"),
        source_id=source_id,
        fields={key: part for key, part in value.items() if key not in _TAKEN},
    )


def _request(value: dict[str, Any]) -> str:
    parts = [rows.word(value, "description") or ""]
    more = ((section, rows.word(value, section)) for section in ("design", "notes"))
    parts += [f"## {section.capitalize()}\n\n{text}" for section, text in more if text]
    return "\n\n".join(part for part in parts if part.strip())
