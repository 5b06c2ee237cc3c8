"""The pages for browsers: a few static files, read once, that load nothing from anywhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from api.answers import PAGE_POLICY, Tagged
from api.head import head_of
from api.problems import Problem

STATIC: Final = Path(__file__).with_name("static")
_TYPES: Final = {
    ".html": b"text/html; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".svg": b"image/svg+xml",
}


class PageRoutes:
    """`GET /`, `/docs` and `/static/{name}`. They hold no data: what they show they fetch like anybody else."""

    def __init__(self, folder: Path = STATIC) -> None:
        self._files = {
            path.name: Tagged(path.read_bytes(), _TYPES[path.suffix], policy=PAGE_POLICY)
            for path in sorted(folder.iterdir())
            if path.suffix in _TYPES
        }

    async def home(self, request: Request) -> Response:
        return self._file("index.html", request)

    async def docs(self, request: Request) -> Response:
        return self._file("docs.html", request)

    async def static(self, request: Request) -> Response:
        return self._file(request.path_params["name"], request)

    def _file(self, name: str, request: Request) -> Response:
        found = self._files.get(name)
        if found is None:
            raise Problem("not_found", "there is no such file")
        return found.answer(head_of(request.scope).if_none_match)
