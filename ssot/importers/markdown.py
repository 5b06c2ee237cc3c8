"""Reads headings and list items out of Markdown by its block structure (CommonMark); decides nothing about
tasks.

What stands in code blocks, fenced or indented, and in HTML comments is no list item; what stands in quotes
is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from markdown_it import MarkdownIt
from markdown_it.token import Token

MAX_LINES = 30_000  # about 20 µs a line; hostile nesting costs ten times that, and 10 KB a line
_BOX = re.compile(r"\[([ \txX])\][ \t\u00a0]+(?=\S)")
_RULE = re.compile(r"-{3,}|\*{3,}|_{3,}")
_PREFIX = re.compile(r"[ \t>]*")

# Blocks only: an item's text is kept as it was written. Link definitions are off because the rule costs
# time on long paragraphs and "[x]: y" is no checklist item either way. Nesting is bounded by the parser.
_BLOCKS = MarkdownIt("commonmark", {"maxNesting": 40})
_BLOCKS.core.ruler.enableOnly(["normalize", "block"])
_BLOCKS.block.ruler.disable(["reference"])


class TooLong(ValueError):
    """More lines than are read."""


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading outside lists and quotes; `line` and `end` (exclusive) are 0-based lines of the heading
    itself.

    Its section goes on to the next heading of its level or above; `parent` is the nearest heading above it of
    a higher one.
    """

    level: int
    text: str
    line: int
    end: int
    section_end: int
    parent: Heading | None


@dataclass(frozen=True, slots=True)
class ListItem:
    """A list item: `checked` is None where it has no box; `first_line` is what stands on the line of the box.

    `depth` counts the lists around it (0: not nested); `line` and `end` (exclusive) are 0-based source lines.
    """

    text: str
    first_line: str
    checked: bool | None
    depth: int
    line: int
    end: int


@dataclass(frozen=True, slots=True)
class Outline:
    """Headings and list items of a text, each in document order, and its lines."""

    headings: tuple[Heading, ...]
    items: tuple[ListItem, ...]
    lines: tuple[str, ...]

    def source(self, start: int, end: int) -> str:
        return "\n".join(self.lines[start:end])


@dataclass(slots=True)
class _Open:
    depth: int
    level: int
    line: int
    end: int
    paragraphs: list[str] = field(default_factory=list)
    first_line: str = ""
    checked: bool | None = None


def checklist_items(text: str) -> list[str]:
    """The texts of all checklist items (`- [ ]`, `* [x]`, `1. [ ]` …), nested ones too, in document order.

    A text that goes on over indented lines is joined by spaces; an unindented line right below an item is not
    part of it. Never raises: past MAX_LINES lines nothing is read.
    """
    lines = _line_ends(text).split("\n", MAX_LINES)[:MAX_LINES]
    return [item.text for item in outline("\n".join(lines)).items if item.checked is not None]


def _line_ends(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def criteria_of(text: str) -> list[str]:
    """The criteria that a free text holds: its checklist items, else its list items (with what leads into
    them), else itself.
    """
    found = outline(text.replace("•", "-"))
    boxed = [item.text for item in found.items if item.checked is not None]
    if boxed:
        return boxed
    if found.items:
        lead = " ".join(found.source(0, found.items[0].line).split())
        return ([] if _introduces(lead) else [lead]) + [item.text for item in found.items if item.text]
    rows = text.rstrip().split("\n")
    while rows and (not rows[-1].strip() or _RULE.fullmatch(rows[-1].strip())):
        rows.pop()
    whole = "\n".join(rows).strip()
    return [whole] if whole else []


def _introduces(lead: str) -> bool:
    """One clause that ends in a colon ("Done when:") says nothing that the list does not; more than that is
    content.
    """
    return not lead or (lead.endswith(":") and lead.count(":") == 1)


def outline(text: str) -> Outline:
    """Parse a text. Raises TooLong above MAX_LINES lines."""
    text = _line_ends(text)
    lines = text.split("\n")
    if len(lines) > MAX_LINES:
        raise TooLong(f"more than {MAX_LINES} lines")
    heads: list[tuple[int, str, int, int]] = []
    items: list[_Open] = []
    stack: list[_Open] = []
    tokens = _BLOCKS.parse(text)
    for at, token in enumerate(tokens):
        start, end = token.map or [0, 0]
        if token.type == "list_item_open":
            stack.append(_Open(len(stack), token.level, start, end))
            items.append(stack[-1])
        elif token.type == "list_item_close":
            stack.pop()
        elif token.type == "heading_open" and token.level == 0:
            heads.append((int(token.tag[1:]), " ".join(tokens[at + 1].content.split()), start, end))
        elif token.type == "inline" and stack and token.level == stack[-1].level + 2:
            _take(stack[-1], token, tokens[at - 1], lines)
    return Outline(_nested(heads, len(lines)), tuple(map(_closed, items)), tuple(lines))


def _nested(heads: list[tuple[int, str, int, int]], length: int) -> tuple[Heading, ...]:
    """Each heading with its section's end and its parent, in two passes over a stack."""
    ends: list[int] = []
    nearest: dict[int, int] = {}  # the line of the next heading, by level
    for level, _, line, _ in reversed(heads):
        ends.append(min((at for other, at in nearest.items() if other <= level), default=length))
        nearest = {other: at for other, at in nearest.items() if other < level} | {level: line}
    found: list[Heading] = []
    above: list[Heading] = []
    for head, section_end in zip(heads, reversed(ends), strict=True):
        while above and above[-1].level >= head[0]:
            above.pop()
        above.append(Heading(*head, section_end, above[-1] if above else None))
        found.append(above[-1])
    return tuple(found)


def _take(item: _Open, inline: Token, opener: Token, lines: list[str]) -> None:
    """Add a paragraph's text to its item; only a first paragraph on the item's own line can carry the box."""
    rows = [row.strip() for row in inline.content.split("\n")]
    start = (inline.map or [item.line])[0]
    box = None
    if opener.type == "paragraph_open" and not item.paragraphs and start == item.line:
        box = _BOX.match(inline.content)
    if box:
        item.checked = box[1] in "xX"
        rows[0] = rows[0][box.end() :].strip() if rows[0].startswith("[") else rows[0]
        rows = _unlazy(rows, lines[start : start + len(rows)])
        item.first_line = rows[0]
    item.paragraphs.append(" ".join(row for row in rows if row))


def _unlazy(rows: list[str], source: list[str]) -> list[str]:
    """The rows up to the first that is not indented beyond the item's marker (CommonMark would still count it
    in).
    """
    margin = _margin(source[0])
    for at in range(1, min(len(rows), len(source))):
        if _margin(source[at]) <= margin:
            return rows[:at]
    return rows


def _margin(line: str) -> int:
    prefix = _PREFIX.match(line)
    return len(prefix[0].expandtabs(4)) if prefix else 0


def _closed(item: _Open) -> ListItem:
    # With a box the criterion is its own paragraph; what follows it explains. Without one everything belongs
    # to it.
    text = item.paragraphs[0] if item.checked is not None else " ".join(item.paragraphs)
    return ListItem(text, item.first_line or text, item.checked, item.depth, item.line, item.end)
