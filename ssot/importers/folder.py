"""Reads a folder of several sources: each file or folder in it as what it is; what is no source of tasks is
passed by.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ssot import strict_json
from ssot.importers import backlog, beads, checklist, openspec, source, table
from ssot.importers.draft import Gathering, ImportRefused

NAME = "folder"
MAX_DEPTH = 8
Reader = Callable[[Path, Path, Gathering], None]
READERS: dict[str, Reader] = {
    backlog.NAME: backlog.gather,
    beads.NAME: beads.gather,
    checklist.NAME: checklist.gather,
    openspec.NAME: openspec.gather,
    table.JSONL: table.gather_json,
    table.CSV: table.gather_csv,
}
FOLDERS = frozenset({backlog.NAME, beads.NAME, checklist.NAME, openspec.NAME})
_JSON = (".jsonl", ".ndjson", ".json")
_CSV = (".csv", ".tsv")


def format_of_file(path: Path) -> str | None:
    """The format of one file, None where it is no source of tasks."""
    name = path.name.lower()
    if name.endswith(_CSV):
        return table.CSV
    if name.endswith(checklist.SUFFIXES):
        return backlog.NAME if backlog.is_task_file(path) else checklist.NAME
    if name.endswith(_JSON) or ".jsonl" in name:
        return _format_of_json(path)
    return None


def _format_of_json(path: Path) -> str | None:
    try:
        raw = source.content(path)
    except source.Unreadable:
        return table.JSONL  # its reader will say what is wrong with it
    rows = [row for row in raw.split(b"\n", 200)[:200] if row.strip().startswith(b"{")]
    if table.is_document(path, raw.lstrip().split(b"\n", 1)[0]):
        rows = [raw]
    for row in rows:
        try:
            value = strict_json.loads(row)
        except ValueError:
            continue
        if beads.is_issue(value):
            return beads.NAME
        return table.JSONL if table.looks_like_tasks(value) or not path.name.lower().endswith(".json") else None
    return table.JSONL


def format_of_folder(path: Path) -> str | None:
    """The format of one folder, None where nothing in it is a source of tasks. Raises ImportRefused for
    several projects.
    """
    projects = {
        backlog.NAME: backlog.folder_of(path) is not None,
        beads.NAME: beads.store_of(path) is not None,
        openspec.NAME: openspec.is_change(path) or openspec.changes_of(path) is not None,
    }
    found = [name for name, there in projects.items() if there]
    if len(found) > 1:
        raise ImportRefused(f"{path} holds several kinds of tasks ({', '.join(found)}): name one of them as the format")
    if found:
        return found[0]
    inside = _kinds(path, 0)
    if inside <= {checklist.NAME}:
        return checklist.NAME if inside else None
    return NAME


def _kinds(folder: Path, depth: int) -> set[str]:
    """What lies in a folder, roughly: enough to tell Markdown alone from a mixture."""
    kinds: set[str] = set()
    for path in source.entries(folder, folder):
        if source.is_folder(path):
            if depth < MAX_DEPTH:
                kinds |= _kinds(path, depth + 1)
        elif path.name.lower().endswith(checklist.SUFFIXES):
            special = path.name == "proposal.md" or backlog.is_task_file(path)
            kinds.add(NAME if special else checklist.NAME)
        elif (form := format_of_file(path)) is not None:
            kinds.add(form)
        if len(kinds) > 1:
            break
    return kinds


def gather(path: Path, root: Path, gathering: Gathering, depth: int = 0) -> None:
    """Read every source in a folder, in the order of names."""
    for entry in source.entries(path, root, gathering):
        if not source.is_folder(entry):
            form = format_of_file(entry)
        elif depth >= MAX_DEPTH:
            gathering.problem(
                source.name_of(entry, root), None, f"folders nested deeper than {MAX_DEPTH} were not read"
            )
            continue
        else:
            try:
                form = format_of_folder(entry)
            except ImportRefused as refused:
                gathering.problem(source.name_of(entry, root), None, str(refused))
                continue
        if form == NAME:
            gather(entry, root, gathering, depth + 1)
        elif form is not None:
            READERS[form](entry, root, gathering)
