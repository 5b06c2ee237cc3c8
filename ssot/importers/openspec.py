"""Reads OpenSpec changes: a folder with proposal.md, tasks.md and specs/**/spec.md is one task.

The criteria are the scenarios of its spec deltas (what will be true), one each with its requirement; a
requirement without a scenario stands for itself. A change without spec deltas has the checklist of its
tasks.md, or its title. The request is the proposal, with design, tasks and specs below it, verbatim. Archived
changes are finished and keep the id that they had before the archive put a date in front, unless two changes
had the same name.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from ssot.importers import markdown, source
from ssot.importers.draft import Gathering, Item, fitted_id
from ssot.importers.markdown import Heading, Outline

NAME = "openspec"
_DATED = re.compile(r"(\d{4}-\d\d-\d\d)-(?=.)")
_REQUIREMENT = re.compile(r"Requirement:\s*(.+)", re.IGNORECASE)
_SCENARIO = re.compile(r"Scenario:\s*(.+)", re.IGNORECASE)
_DELTA = re.compile(r"(ADDED|MODIFIED|REMOVED|RENAMED) Requirements", re.IGNORECASE)
_TITLE_PREFIX = re.compile(r"(?:change(?: proposal)?|proposal):\s*", re.IGNORECASE)
_SAYS_NOTHING = frozenset({"proposal", "change", "change proposal", "why", "summary"})
_KEYWORD = re.compile(r"\*\*([A-Z]+)\*\*")


def is_change(folder: Path) -> bool:
    return source.is_folder_or_root(folder) and (folder / "proposal.md").is_file()


def changes_of(path: Path) -> Path | None:
    """The folder whose subfolders are changes; None where there is none. A change itself is not one."""
    for folder in (path / "openspec" / "changes", path / "changes", path):
        if not source.is_folder_or_root(folder) or is_change(folder):
            continue
        if any(is_change(inner) for inner in source.entries(folder, folder)):
            return folder
        if any(is_change(inner) for inner in source.entries(folder / "archive", folder)):
            return folder
    return None


def gather(path: Path, root: Path, gathering: Gathering) -> None:
    """Read one change, or all changes of a project, active ones first."""
    if is_change(path):
        _gather_change(path, root, gathering, dated=False)
        return
    base = changes_of(path) or path
    folders = [inner for inner in source.entries(base, root, gathering) if source.is_folder(inner)]
    if source.is_folder(base / "archive"):
        folders += [inner for inner in source.entries(base / "archive", root, gathering) if source.is_folder(inner)]
    changes = [folder for folder in folders if is_change(folder)]
    names = Counter(_DATED.sub("", folder.name, count=1).casefold() for folder in changes)
    for folder in changes:
        dated = names[_DATED.sub("", folder.name, count=1).casefold()] > 1
        _gather_change(folder, root, gathering, dated=dated)


def _gather_change(folder: Path, root: Path, gathering: Gathering, *, dated: bool) -> None:
    proposal = folder / "proposal.md"
    text = source.read_text(proposal, root, gathering)
    if text is None:
        return
    texts: dict[str, str] = {"proposal.md": text}
    specs = sorted(source.files_under(folder / "specs", root, gathering, ("spec.md",))) if _has_specs(folder) else []
    for file in [folder / "design.md", folder / "tasks.md", *specs]:
        if (file.is_file() or file.is_symlink()) and (more := source.read_text(file, root, gathering)) is not None:
            texts[file.relative_to(folder).as_posix()] = more
    try:
        outlines = {name: markdown.outline(part) for name, part in texts.items()}
    except markdown.TooLong as error:
        gathering.problem(source.name_of(folder, root), None, str(error))
        return
    gathering.add(NAME, _item(folder, source.name_of(folder, root), texts, outlines, dated=dated))


def _has_specs(folder: Path) -> bool:
    return source.is_folder(folder / "specs")


def _item(folder: Path, name: str, texts: dict[str, str], outlines: dict[str, Outline], *, dated: bool) -> Item:
    change = folder.absolute().name
    archived = folder.absolute().parent.name == "archive"
    date = _DATED.match(change) if archived else None
    plain = change[date.end() :] if date else change
    boxes = [item for item in outlines["tasks.md"].items if item.checked is not None] if "tasks.md" in outlines else []
    ticked = sum(1 for item in boxes if item.checked)
    specs = {path: outline for path, outline in outlines.items() if path.startswith("specs/")}
    criteria = [text for outline in specs.values() for text in _scenarios(outline)] or [item.text for item in boxes]
    complete = bool(boxes) and ticked == len(boxes)
    return Item(
        task_id=fitted_id(change if dated else plain),
        title=_title(plain, outlines["proposal.md"]),
        file=name,
        request_text=_request(texts),
        criteria=tuple(criteria),
        status="archived" if archived else "complete" if complete else "in-progress" if boxes else "no-tasks",
        finished=archived or complete,
        source_id=change,
        fields={
            "tasks": {"total": len(boxes), "completed": ticked},
            "specs": [path.split("/", 1)[1].rsplit("/", 1)[0] for path in specs],
            **({"archived_on": date[1]} if date else {}),
        },
    )


def _title(change: str, proposal: Outline) -> str:
    heading = next((heading.text for heading in proposal.headings if heading.level == 1), "")
    title = _TITLE_PREFIX.sub("", heading, count=1).strip()
    if title and title.lower() not in _SAYS_NOTHING and title != change:
        return title
    words = change.replace("-", " ").replace("_", " ").strip() or change
    return words[:1].upper() + words[1:]


def _request(texts: dict[str, str]) -> str:
    proposal, *more = texts.items()
    return "\n\n".join([proposal[1].strip(), *(f"<!-- {path} -->\n\n{text.strip()}" for path, text in more)])


def _scenarios(outline: Outline) -> list[str]:
    """One text for each scenario of a spec delta, and for each requirement that has none."""
    found: list[str] = []
    delta, requirement = "", ""
    for at, heading in enumerate(outline.headings):
        end = outline.headings[at + 1].line if at + 1 < len(outline.headings) else len(outline.lines)
        text = _flat(outline.source(heading.end, end))
        if match := _DELTA.fullmatch(heading.text):
            delta, requirement = match[1].upper(), ""
            if delta == "RENAMED" and text:
                found.append(f"Renamed: {text}")
        elif heading.level <= 2:
            delta, requirement = "", ""
        elif match := _REQUIREMENT.fullmatch(heading.text):
            requirement = match[1]
            if delta == "REMOVED":
                found.append(_joined(f"Removed: {requirement}", text))
            elif not _has_scenario(outline.headings, at + 1):
                found.append(_joined(requirement, text))
        elif delta != "REMOVED" and (match := _SCENARIO.fullmatch(heading.text)):
            found.append(_joined(f"{requirement} – {match[1]}" if requirement else match[1], text))
    return found


def _has_scenario(headings: tuple[Heading, ...], at: int) -> bool:
    while at < len(headings) and headings[at].level > 3:
        if _SCENARIO.fullmatch(headings[at].text):
            return True
        at += 1
    return False


def _joined(name: str, text: str) -> str:
    return f"{name}: {text}" if text else name


def _flat(text: str) -> str:
    """The steps of a scenario on one line: `WHEN …; THEN …; AND …`."""
    items = markdown.outline(text).items
    steps = [_KEYWORD.sub(r"\1", item.text) for item in items if item.text]
    lead = text.split("\n")[: items[0].line] if items else text.split("\n")
    told = [" ".join(" ".join(lead).split()), *steps]
    return "; ".join(step for step in told if step).replace(":; ", ": ")
