"""Finds notebooks that hold what they must not: outputs, counts, definitions, or no parameters first. Reads only."""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = Path("notebooks")


def main() -> int:
    """0 when nothing is found; 1 with one line for each finding."""
    paths = sorted(FOLDER.glob("*.ipynb"))
    findings = [f"{path}: {what}" for path in paths for what in look_at(json.loads(path.read_text()))]
    for finding in findings:
        print(finding)
    if findings:
        return 1
    print(f"notebooks: {len(paths)} without outputs")
    return 0


def look_at(notebook: dict[str, Any]) -> Iterator[str]:
    cells = notebook["cells"]
    if not cells or "parameters" not in cells[0]["metadata"].get("tags", []):
        yield "its first cell is not tagged `parameters`"
    for number, cell in enumerate(cells):
        if cell["cell_type"] == "code":
            yield from (f"cell {number} {what}" for what in look_at_code(cell))


def look_at_code(cell: dict[str, Any]) -> Iterator[str]:
    if cell["outputs"] or cell["execution_count"] is not None:
        yield "has outputs: clear them (JupyterLab: Kernel, Restart and Clear Outputs)"
    tree = ast.parse("".join(cell["source"]))
    if any(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) for node in ast.walk(tree)):
        yield "defines something: definitions belong into reports/"


if __name__ == "__main__":
    sys.exit(main())
