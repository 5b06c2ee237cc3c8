"""The task list and the task: read from memory as ready-made bytes, checked against the log before each answer."""

from __future__ import annotations

from typing import Final, get_args

from starlette.requests import Request
from starlette.responses import Response

from api.answers import Tagged
from api.desk import Desk, task_id_of
from api.head import head_of
from api.parameters import one_of, query_parameters, unusable, whole_number
from ssot.states import STAGES
from ssot.task import Source, Status
from ssot.view import Query

MAX_PAGE: Final = 1000
STATUSES: Final[tuple[str, ...]] = get_args(Status)
SOURCES: Final[tuple[str, ...]] = get_args(Source)


class TaskRoutes:
    """`GET /api/tasks` and `GET /api/tasks/{task_id}`."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def list(self, request: Request) -> Response:
        desk = self._desk
        desk.gate.reader(request)
        store = await desk.catch_up()
        # Taken before the page is made: the page may be newer than this says, never older.
        at, raw = store.view.last_change, request.scope["query_string"]
        page = desk.pages.get(at, raw)
        if page is None:
            query = page_query(raw)
            page = await desk.once((at, raw), lambda: Tagged(store.page(query)))
            desk.pages.put(at, raw, page)
        return page.answer(head_of(request.scope).if_none_match)

    async def detail(self, request: Request) -> Response:
        self._desk.gate.reader(request)
        tagged = await self._desk.detail(task_id_of(request))
        return tagged.answer(head_of(request.scope).if_none_match)


def page_query(raw: bytes) -> Query:
    """What a query string asks for. Raises Problem (invalid_query)."""
    found = query_parameters(raw, ("status", "source", "stage", "q", "limit", "cursor"))
    text = found.get("q") or None
    if text is not None and len(text) > 200:
        raise unusable("q", "has at most 200 characters")
    return Query(
        status=one_of(found, "status", STATUSES),
        source=one_of(found, "source", SOURCES),
        text=text,
        limit=whole_number(found, "limit", default=200, least=1, most=MAX_PAGE),
        cursor=found.get("cursor") or None,
        stage=one_of(found, "stage", tuple(STAGES)),
    )
