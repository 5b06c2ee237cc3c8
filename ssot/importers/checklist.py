"""Reads Markdown checklists: TODO files, plans, and plain documents.

What becomes a task:

- Each top-level list item with a box (`- [ ]`, `* [x]`, `1. [ ]`) is a task, as users of a TODO.md expect;
  the boxes nested in it are its criteria, its own text is the criterion where there are none. A top-level
  item without a box whose nested items have boxes is a task, too.
- A section headed "Acceptance criteria" (also "Definition of done", "Done when", "Criteria") makes the
  section around it one task, and its items that task's criteria; other boxes of that section are steps of it,
  not tasks.
- A document without any box is one task; its title (its first heading, or its file name where that heading
  says nothing, like "Instructions") is the criterion.

A ticked box is finished work. Ids come from the file's path and the item's text, so that an item keeps its
task when it moves or is ticked; one that stands twice in a file takes its section's name along from the
second time on.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path

from ssot.importers import front_matter, markdown, source
from ssot.importers.draft import Gathering, Item, digest, made_id
from ssot.importers.markdown import Heading, ListItem, Outline

NAME = "checklist"
SUFFIXES = (".md", ".markdown")
_ACCEPTANCE = re.compile(
    r"(?:\W|\d)*(?:acceptance(?: criteria)?|definition of done|done when|criteria)\W*", re.IGNORECASE
)
_SAYS_NOTHING = frozenset(
    {
        "instructions",
        "description",
        "introduction",
        "overview",
        "readme",
        "todo",
        "todos",
        "tasks",
        "task",
        "checklist",
        "list",
        "notes",
        "plan",
    }
)


def gather(path: Path, root: Path, gathering: Gathering) -> None:
    """Read one file, or every Markdown file below a folder."""
    if not source.is_folder_or_root(path):
        _gather_file(path, root, gathering)
        return
    for file in source.files_under(path, root, gathering, SUFFIXES):
        _gather_file(file, root, gathering)


def _gather_file(path: Path, root: Path, gathering: Gathering) -> None:
    name = source.name_of(path, root)
    text = source.read_text(path, root, gathering)
    if text is None:
        return
    if not text.strip():
        gathering.problem(name, None, "an empty file: nothing is asked in it")
        return
    front = front_matter.read(text)
    if front.problem or not front.fields:  # a rule at the top of a text is no front matter
        front = front_matter.FrontMatter(body=text)
    body = "\n" * (text.count("\n") - front.body.count("\n")) + front.body  # so that lines keep their numbers
    try:
        outline = markdown.outline(body)
    except markdown.TooLong as error:
        gathering.problem(name, None, str(error))
        return
    if any(item.checked is not None for item in outline.items):
        _Checklist(name, outline, gathering).gather()
    else:
        gathering.add(NAME, _document(name, front, outline))


def _document(name: str, front: front_matter.FrontMatter, outline: Outline) -> Item:
    return Item(
        task_id=made_id(_stem(name)),
        title=front.word("title") or _title(name, outline),
        file=name,
        request_text=front.body.strip(),
        status=front.word("status"),
        created=front.word("created_at") or front.word("created"),
        fields={key: value for key, value in front.fields.items() if key not in ("title", "status")},
    )


def _title(name: str, outline: Outline) -> str:
    heading = next((heading for heading in outline.headings if heading.text), None)
    if heading and heading.text.strip(" :#").lower() not in _SAYS_NOTHING:
        return heading.text
    stem = name.rsplit("/", 1)[-1].split(".")[0]
    words = re.sub(r"[-_\s]+", " ", stem).strip() or name
    return words[:1].upper() + words[1:]


def _stem(name: str) -> str:
    return re.sub(r"\.(?:md|markdown)\Z", "", name, flags=re.IGNORECASE)


class _Checklist:
    """One file's boxes on their way to being tasks."""

    def __init__(self, name: str, outline: Outline, gathering: Gathering) -> None:
        self.name = name
        self.outline = outline
        self.gathering = gathering
        self.heading_lines = [heading.line for heading in outline.headings]
        self.item_lines = [item.line for item in outline.items]
        self.texts: dict[str, str] = {}  # the text that took an id, by id

    def gather(self) -> None:
        owned_to = 0  # the line up to which the text belongs to a section task
        owned: list[tuple[int, int]] = []
        for heading in self.outline.headings:
            if heading.line < owned_to or not _ACCEPTANCE.fullmatch(heading.text):
                continue
            around = heading.parent
            start = around.line if around else heading.line
            end = around.section_end if around else heading.section_end
            if self._add_section(around, start, end):
                owned.append((start, end))
                owned_to = end
        for item, nested in self._top_items():
            while owned and owned[0][1] <= item.line:
                owned.pop(0)
            if not owned or item.line < owned[0][0]:
                self._add_item(item, nested)

    def _add_section(self, around: Heading | None, start: int, end: int) -> bool:
        """The section as one task. False where its acceptance sections hold no items."""
        items = [item for section in self._acceptance(start, end) for item in section]
        if any(item.checked is not None for item in items):
            items = [item for item in items if item.checked is not None]
        if not items:
            return False
        named = around is not None and around.text.strip(" :#").lower() not in _SAYS_NOTHING
        title = around.text if around is not None and named else _title(self.name, self.outline)
        self._add(
            title,
            self.outline.source(around.end if around else 0, end).strip(),
            tuple(item.text for item in items),
            line=start + 1,
            finished=all(item.checked for item in items),
            within=around,
        )
        return True

    def _acceptance(self, start: int, end: int) -> Iterator[list[ListItem]]:
        """The items of each acceptance section between two lines."""
        passed = start
        for heading in self.headings_between(start, end):
            if heading.line >= passed and _ACCEPTANCE.fullmatch(heading.text):
                passed = heading.section_end
                first, last = (bisect_left(self.item_lines, line) for line in (heading.end, passed))
                yield list(self.outline.items[first:last])

    def headings_between(self, start: int, end: int) -> tuple[Heading, ...]:
        first, last = (bisect_left(self.heading_lines, line) for line in (start, end))
        return self.outline.headings[first:last]

    def _within(self, line: int) -> Heading | None:
        """The heading under which a line stands."""
        at = bisect_left(self.heading_lines, line)
        return self.outline.headings[at - 1] if at else None

    def _top_items(self) -> Iterator[tuple[ListItem, list[ListItem]]]:
        """Each top-level item that is a task, with the boxes nested in it."""
        items = self.outline.items
        tops = [at for at, item in enumerate(items) if item.depth == 0]
        for at, after in zip(tops, [*tops[1:], len(items)], strict=True):
            nested = [item for item in items[at + 1 : after] if item.checked is not None]
            if items[at].checked is not None or nested:
                yield items[at], nested

    def _add_item(self, item: ListItem, nested: list[ListItem]) -> None:
        if not item.text:
            self.gathering.problem(self.name, item.line + 1, "a list item without a text above its boxes")
            return
        self._add(
            item.text,
            _dedented(self.outline.lines[item.line : item.end]),
            tuple(inner.text for inner in nested),
            line=item.line + 1,
            finished=all(inner.checked for inner in nested) if item.checked is None else item.checked,
            within=self._within(item.line),
        )

    def _add(
        self,
        title: str,
        request: str,
        criteria: tuple[str, ...],
        *,
        line: int,
        finished: bool,
        within: Heading | None,
    ) -> None:
        section = within.text if within else ""
        self.gathering.add(
            NAME,
            Item(
                task_id=self._id(title, section),
                title=title,
                file=self.name,
                line=line,
                request_text=request,
                criteria=criteria,
                status="checked" if finished else "unchecked",
                finished=finished,
                fields={"section": section} if section else {},
            ),
        )

    def _id(self, text: str, section: str) -> str:
        stem = _stem(self.name)
        task_id = made_id(stem, text)
        known = self.texts.setdefault(task_id.casefold(), text)
        if known != text:
            return made_id(stem, text, digest(text))
        if self.gathering.taken(task_id) and section:
            return made_id(stem, section, text)
        return task_id


def _dedented(lines: tuple[str, ...]) -> str:
    """An item's source, moved to the left margin."""
    margin = len(lines[0]) - len(lines[0].lstrip()) if lines else 0
    return "\n".join(line[margin:] if not line[:margin].strip() else line for line in lines).strip()
