"""How rows are shown: as a table for the terminal, and between the markers of docs/PERFORMANCE.md."""

from __future__ import annotations

import os
import platform
import re
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import Row

PAGE = Path(__file__).resolve().parents[1] / "docs" / "PERFORMANCE.md"
HEAD = ("figure", "value", "compared to", "ratio", "target", "")


def text(found: dict[str, list[Row]]) -> str:
    """Aligned columns, one block a benchmark."""
    cells = {name: [_cells(row) for row in rows] for name, rows in found.items()}
    every = [HEAD, *(row for rows in cells.values() for row in rows)]
    widths = [max(len(row[column]) for row in every) for column in range(len(HEAD))]
    lines = [_line(HEAD, widths)]
    for name, rows in cells.items():
        lines += ["", name, *(_line(row, widths) for row in rows)]
    return "\n".join(lines)


def _cells(row: Row) -> tuple[str, ...]:
    ratio = "" if row.ratio is None else f"{row.ratio:.3g}"
    verdict = {True: "ok", False: "MISSED", None: ""}[row.ok]
    return row.name, f"{_figure(row.value)} {row.unit}".strip(), row.compared_to, ratio, row.target, verdict


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def _line(row: tuple[str, ...], widths: list[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


# ---------------------------------------------------------------------------------------------- the page


def write_page(found: dict[str, list[Row]], says: dict[str, str]) -> None:
    """Put each benchmark's rows between its markers; the other blocks stay as they are."""
    for name, rows in found.items():
        if rows:
            said = f"{says[name][0].upper()}{says[name][1:]}. `python -m benchmarks {name}`, {_when_and_where()}."
            write_block(name, rows, said)


def write_block(name: str, rows: list[Row], head: str) -> None:
    """Put some rows between their markers, with a sentence in front of them."""
    PAGE.write_text(_replaced(PAGE.read_text(), name, _block(name, rows, head)))


def _replaced(page: str, name: str, block: str) -> str:
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    whole = f"{begin}\n{block}\n{end}"
    if begin not in page:
        return f"{page.rstrip()}\n\n{whole}\n"
    return re.sub(f"{re.escape(begin)}.*?{re.escape(end)}", lambda _: whole, page, flags=re.DOTALL)


def _block(name: str, rows: list[Row], head: str) -> str:
    lines = [f"### {name}", "", head, ""]
    lines += ["| " + " | ".join(HEAD) + " |", "|---|---:|---|---:|---:|---|"]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in _cells(row)) + " |" for row in rows]
    return "\n".join(lines)


def _when_and_where() -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3
    where = f"{os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()} {platform.release()}"
    return f"{datetime.now(UTC):%Y-%m-%d}, {where}, Python {platform.python_version()}"
