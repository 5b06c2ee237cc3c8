"""The reports folder over HTTP, read-only: a list of what there is, and the files themselves, as they lie there.

Reports are made by others and hold what stands in the log: a browser shows them in a sandbox in which nothing runs.
"""

from __future__ import annotations

import asyncio
import html
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson
from starlette.requests import Request
from starlette.responses import Response

from api.answers import Answer, Header, Tagged
from api.desk import Desk
from api.head import head_of
from api.problems import Problem
from audit.files import NotRegular, read_regular

MAX_FILE_BYTES: Final = 64 * 1024 * 1024
MOST_LISTED: Final = 500
_PLACE: Final = re.compile(
    r"(?:runs|audit)/[A-Za-z0-9][A-Za-z0-9._-]{0,127}/[A-Za-z0-9][A-Za-z0-9._-]{0,127}|acceptance\.(?:json|html|ipynb)",
    re.ASCII,
)
_TYPES: Final = {
    ".html": b"text/html; charset=utf-8",
    ".json": b"application/json",
    ".ipynb": b"application/x-ipynb+json",
    ".parquet": b"application/vnd.apache.parquet",
    ".csv": b"text/csv; charset=utf-8",
}
_TOLD: Final = ("kind", "started_at", "state", "outcome")
_MOMENT: Final = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)(?:\.\d+)?Z", re.ASCII)
_MADE_BY: Final = {"Acceptance": "kircerta accept", "Runs": "kircerta load", "Audit": "kircerta report audit"}
_SANDBOX: Final[Header] = (
    b"content-security-policy",
    b"sandbox allow-same-origin; default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    b"form-action 'none'; frame-ancestors 'none'",
)
"""No script runs. Same origin, so that the session's cookie comes along when a link of the page is followed."""
_LIST_POLICY: Final[Header] = (
    b"content-security-policy",
    b"default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; "
    b"frame-ancestors 'none'",
)


@dataclass(frozen=True, slots=True)
class _Row:
    """A line of the list: what it is about, what is told of it, and which files there are."""

    folder: str
    told: tuple[str, ...]
    files: tuple[str, ...]


class ReportRoutes:
    """`GET /reports/` and `GET /reports/{path}`."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._folder = desk.settings.home / "reports"

    async def list(self, request: Request) -> Response:
        self._desk.gate.reader(request)
        page = await asyncio.to_thread(_page, self._folder)
        tagged = Tagged(page.encode(), _TYPES[".html"], policy=_LIST_POLICY)
        return tagged.answer(head_of(request.scope).if_none_match)

    async def file(self, request: Request) -> Response:
        self._desk.gate.reader(request)
        path = request.path_params["path"]
        media_type = _TYPES.get(Path(path).suffix)
        if media_type is None or not _PLACE.fullmatch(path):
            raise _missing(path)
        data = await asyncio.to_thread(self._read, path)
        if media_type != _TYPES[".html"]:
            return Answer(200, data, media_type)
        return Tagged(data, media_type, policy=_SANDBOX).answer(head_of(request.scope).if_none_match)

    def _read(self, path: str) -> bytes:
        """The file's bytes. No link is followed, wherever it stands on the way: it could lead anywhere."""
        file = self._folder / path
        if any(part.is_symlink() for part in (file, *file.parents[: path.count("/") + 1])):
            raise _missing(path)
        try:
            return read_regular(file, MAX_FILE_BYTES)[0]
        except (FileNotFoundError, NotADirectoryError, NotRegular) as error:
            raise _missing(path) from error


def _missing(path: str) -> Problem:
    return Problem("not_found", f"there is no report file {path[:200]!r}")


# ------------------------------------------------------------------------------------------- the list


def _page(folder: Path) -> str:
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<title>kircerta: reports</title>\n'
        '<link rel="icon" href="/static/icon.svg" type="image/svg+xml">\n'
        '<link rel="stylesheet" href="/static/app.css">\n</head>\n<body>\n<main>\n<h1>Reports</h1>\n'
        '<nav><a href="/">Dashboard</a><a href="/docs">API</a></nav>\n'
        f"{_section('Acceptance', ('',), _acceptance(folder))}"
        f"{_section('Runs', ('kind', 'began', 'state', 'outcome'), _runs(folder))}"
        f"{_section('Audit', ('',), _audits(folder))}</main>\n</body>\n</html>\n"
    )


def _section(title: str, columns: tuple[str, ...], rows: Iterator[_Row]) -> str:
    lines = [_line(row) for row in rows]
    if not lines:
        return (
            f'<h2>{title}</h2>\n<div class="card"><p class="empty">none yet: <code>{_MADE_BY[title]}</code></p></div>\n'
        )
    head = "".join(f"<th>{html.escape(name)}</th>" for name in ("report", *columns, "files"))
    body = "\n".join(lines)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>"
    return f'<h2>{title}</h2>\n<div class="card">{table}</div>\n'


def _line(row: _Row) -> str:
    prefix = f"/reports/{row.folder}/" if row.folder else "/reports/"
    name = html.escape(row.folder.rpartition("/")[2] or "acceptance")
    main = next((one for one in row.files if one in ("report.html", "acceptance.html")), None)
    title = f'<a href="{prefix}{main}">{name}</a>' if main else name
    others = " ".join(f'<a href="{prefix}{one}">{one}</a>' for one in row.files if one != main)
    told = "".join(f'<td class="whole">{html.escape(one)}</td>' for one in row.told)
    return f'<tr><td class="whole">{title}</td>{told}<td class="quiet">{others}</td></tr>'


def _runs(folder: Path) -> Iterator[_Row]:
    """The runs, the newest first."""
    found = []
    for path in _folders(folder / "runs"):
        record = _record(path / "run.json")
        kind, began, state, outcome = (str(record.get(name) or "")[:60] for name in _TOLD)
        told = (kind, _when(began), state, outcome)
        found.append(_Row(f"runs/{path.name}", told, _files(path)))
    yield from sorted(found, key=lambda row: row.told[1], reverse=True)[:MOST_LISTED]


def _when(timestamp: str) -> str:
    """A moment to the second, as people write it; anything else as it stands."""
    found = _MOMENT.fullmatch(timestamp)
    return f"{found[1]} {found[2]}" if found else timestamp


def _audits(folder: Path) -> Iterator[_Row]:
    for path in sorted(_folders(folder / "audit"), reverse=True)[:MOST_LISTED]:
        yield _Row(f"audit/{path.name}", ("",), _files(path))


def _acceptance(folder: Path) -> Iterator[_Row]:
    files = tuple(one for one in ("acceptance.html", "acceptance.json", "acceptance.ipynb") if (folder / one).is_file())
    if files:
        ok = _record(folder / "acceptance.json").get("ok")
        yield _Row("", ("" if ok is None else "all hold" if ok else "not all hold",), files)


def _folders(parent: Path) -> list[Path]:
    if not parent.is_dir() or parent.is_symlink():
        return []
    return [path for path in parent.iterdir() if path.is_dir() and _PLACE.fullmatch(f"runs/{path.name}/run.json")]


def _files(folder: Path) -> tuple[str, ...]:
    """The names that are served."""
    names = (path.name for path in folder.iterdir() if path.suffix in _TYPES)
    return tuple(sorted(name for name in names if _PLACE.fullmatch(f"runs/{folder.name}/{name}")))


def _record(path: Path) -> dict[str, Any]:
    try:
        found = orjson.loads(read_regular(path)[0])
    except (OSError, NotRegular, orjson.JSONDecodeError):
        return {}
    return found if isinstance(found, dict) else {}
