"""Reads Backlog.md projects: one Markdown file a task, in tasks/, completed/, drafts/ and archive/.

The criteria are the checklist of the section "Acceptance Criteria", one a line and without their `#1`. The
request is the rest of the text, without what was written down during and after the work (notes, summaries).
"""

from __future__ import annotations

import re
from pathlib import Path

from ssot.importers import front_matter, markdown, source
from ssot.importers.draft import Gathering, Item, fitted_id, made_id

NAME = "backlog"
_TASK_FOLDERS = ("tasks", "completed", "drafts", "archive/tasks", "archive/drafts")
_PROJECT_FOLDERS = ("backlog", ".backlog")
_TAKEN = frozenset({"id", "title", "status", "created_date"})
_NUMBER = re.compile(r"#\d+[ \t]+")
_FILE_ID = re.compile(r"([A-Za-z]+-\d+(?:\.\d+)*)(?![\w.]*\d)")
_CRITERIA = re.compile(r"<!--[ \t]*AC:BEGIN[ \t]*-->(.*?)(?:<!--[ \t]*AC:END[ \t]*-->|\Z)", re.DOTALL)
_BEGIN = re.compile(r"[ \t]*<!--[ \t]*SECTION:(NOTES|FINAL_SUMMARY|COMMENTS)[\w.:-]*:BEGIN[ \t]*-->")
_END = re.compile(r"[ \t]*<!--[ \t]*SECTION:(NOTES|FINAL_SUMMARY|COMMENTS)[\w.:-]*:END[ \t]*-->")
_MARKER = re.compile(r"^[ \t]*<!--[ \t]*[A-Z_]+(?::[\w.-]+)*:(?:BEGIN|END)[ \t]*-->[ \t]*\n?", re.MULTILINE)
_ASKED = frozenset({"description", "implementation plan", "definition of done"})
_RECORDED = frozenset({"implementation notes", "final summary", "implementation summary", "comments"})


def folder_of(path: Path) -> Path | None:
    """The folder that holds tasks/ and its like, or a single such folder; None where there is none."""
    for folder in (path, *(path / name for name in _PROJECT_FOLDERS)):
        if any(_has_tasks(folder / name) for name in _TASK_FOLDERS):
            return folder
    return path if _has_tasks(path) else None


def _has_tasks(folder: Path) -> bool:
    if not source.is_folder_or_root(folder):
        return False
    files = (path for path in source.entries(folder, folder) if path.suffix.lower() == ".md")
    return any(is_task_file(path) for _, path in zip(range(5), files, strict=False))


def is_task_file(path: Path) -> bool:
    """Whether a Markdown file carries the front matter of a Backlog.md task."""
    try:
        found = front_matter.read(source.text(path))
    except source.Unreadable:
        return False
    return found.present and "id" in found.fields and bool({"title", "status"} & found.fields.keys())


def gather(path: Path, root: Path, gathering: Gathering) -> None:
    """Read one file, or every task file of a project."""
    if not source.is_folder_or_root(path):
        _gather_file(path, root, gathering)
        return
    base = folder_of(path) or path
    folders = [base / name for name in _TASK_FOLDERS if source.is_folder(base / name)] or [base]
    for folder in folders:
        for file in source.entries(folder, root, gathering):
            if file.suffix.lower() == ".md" and file.stem.lower() != "readme":
                _gather_file(file, root, gathering)


def _gather_file(path: Path, root: Path, gathering: Gathering) -> None:
    name = source.name_of(path, root)
    text = source.read_text(path, root, gathering)
    if text is None:
        return
    front = front_matter.read(text)
    if front.problem:
        gathering.problem(name, front.line, front.problem)
    try:
        outline = markdown.outline(front.body)
        item = _item(path, name, front, outline)
    except markdown.TooLong as error:
        gathering.problem(name, None, str(error))
        return
    gathering.add(NAME, item)


def _item(path: Path, name: str, front: front_matter.FrontMatter, outline: markdown.Outline) -> Item:
    source_id = front.word("id")
    folders = {part.lower() for part in path.absolute().parent.parts[-2:]}
    return Item(
        task_id=fitted_id(source_id) if source_id else _id_of_file(path),
        title=front.word("title") or path.stem,
        file=name,
        request_text=_request(outline),
        criteria=tuple(_criteria(front.body, outline)),
        created=front.word("created_date"),
        status=front.word("status"),
        finished=path.parent.name.lower() == "completed" or "archive" in folders,
        not_ready=path.parent.name.lower() == "drafts",
        source_id=source_id,
        fields={key: value for key, value in front.fields.items() if key not in _TAKEN},
    )


def _id_of_file(path: Path) -> str:
    match = _FILE_ID.match(path.stem)
    return fitted_id(match[1].upper()) if match else made_id(path.stem)


def _criteria(body: str, outline: markdown.Outline) -> list[str]:
    if match := _CRITERIA.search(body):
        section = match[1]
    else:
        section = "\n".join(
            outline.source(heading.end, heading.section_end)
            for heading in outline.headings
            if heading.level == 2 and heading.text.lower() == "acceptance criteria"
        )
    items = (item for item in markdown.outline(section).items if item.checked is not None)
    return [
        _NUMBER.sub("", item.first_line, count=1) if _NUMBER.match(item.first_line) else item.first_line
        for item in items
    ]


def _request(outline: markdown.Outline) -> str:
    """What is asked: every section but the criteria, and but the records of the work with what stands below
    them.
    """
    kept: list[str] = []
    top = [heading for heading in outline.headings if heading.level <= 2]
    kept.append(outline.source(0, top[0].line if top else len(outline.lines)))
    recorded = False
    for heading, end in zip(top, [*(after.line for after in top), len(outline.lines)][1:], strict=True):
        section = heading.text.lower()
        recorded = section in _RECORDED or (recorded and section not in _ASKED)
        if recorded or section == "acceptance criteria":
            continue
        start = heading.end if section == "description" and not any(part.strip() for part in kept) else heading.line
        kept.append(outline.source(start, end))
    text = _MARKER.sub("", _without_records("\n".join(kept)))
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def _without_records(text: str) -> str:
    """The text without what stands between the markers of a record; a marker that is never closed hides
    nothing.
    """
    rows = text.split("\n")
    kept: list[str] = []
    hidden: list[str] = []
    name = ""
    for row in rows:
        if not name and (begin := _BEGIN.match(row)):
            name = begin[1]
        (hidden if name else kept).append(row)
        if name and (end := _END.match(row)) and end[1] == name:
            name, hidden = "", []
    return "\n".join(kept + hidden)
