"""Importers: they read tasks that other tools keep, and hand them over as drafts. They write nothing and ask
no network.

`read` never raises for what stands in files: each thing that cannot be read is a `Problem` with its file,
line and reason, while the rest goes in. The same source item gives the same task id every time.
"""

from __future__ import annotations

from pathlib import Path

from ssot.importers import backlog, beads, checklist, folder, openspec, table
from ssot.importers.draft import Draft, Gathering, ImportRefused, Problem, Reading
from ssot.task import Criterion

__all__ = ["FORMATS", "Criterion", "Draft", "ImportRefused", "Problem", "Reading", "read", "recognise"]

FORMATS: dict[str, str] = {
    backlog.NAME: "Backlog.md: a project, its backlog folder, or one task file",
    beads.NAME: "Beads: a project, its .beads folder, or an issues.jsonl",
    checklist.NAME: "Markdown: TODO files; each top-level box is a task, the boxes in it its criteria",
    openspec.NAME: "OpenSpec: a project, its changes folder, or one change; its scenarios are the criteria",
    table.JSONL: "JSON: one task a line (task_id, title, request_text, acceptance_criteria, scope), or a list",
    table.CSV: "CSV with a header row of these names; criteria parted by line ends or semicolons",
    folder.NAME: "a folder of several of these, each read as what it is",
}


def recognise(path: Path) -> str:
    """The name of the format of a file or folder. Raises ImportRefused naming what was looked for."""
    if not path.exists() and not path.is_symlink():
        raise ImportRefused(f"{path} does not exist")
    form = folder.format_of_folder(path) if path.is_dir() else folder.format_of_file(path)
    if form is None:
        raise ImportRefused(f"{path} holds no tasks that are known here. Looked for: {'; '.join(FORMATS.values())}")
    return form


def read(path: Path, format: str | None = None) -> Reading:
    """Read everything at a path. Raises ImportRefused for a path or format as a whole, never for what a file
    holds.
    """
    form = format or recognise(path)
    if form not in FORMATS:
        raise ImportRefused(f"no format is called {form!r}; there are {', '.join(FORMATS)}")
    if not path.exists() and not path.is_symlink():
        raise ImportRefused(f"{path} does not exist")
    if path.is_dir() and form not in {*folder.FOLDERS, folder.NAME}:
        raise ImportRefused(f"{path} is a folder: {form} is read from a file")
    if not path.is_dir() and form in {openspec.NAME, folder.NAME}:
        raise ImportRefused(f"{path} is a file: {form} is read from a folder")
    gathering = Gathering()
    if form == folder.NAME:
        folder.gather(path, path, gathering)
    else:
        folder.READERS[form](path, path, gathering)
    reading = gathering.reading(form)
    if not reading.drafts and not reading.problems:
        raise ImportRefused(f"{path} holds no tasks in the format {form} ({FORMATS[form]})")
    return reading
