"""`GET /api/tasks/{task_id}/trace`: what led from each criterion to the work, its issues, and their answers."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from api import examples, openapi
from api.answers import Tagged
from api.desk import Desk, Detail, Details, not_found, task_id_of
from api.head import head_of
from api.openapi import Operation
from audit import kept_json
from ssot.store import Store
from ssot.task import Task, document_digest, parse_known, plain
from ssot.trace import Trace, trace


class TraceRoutes:
    """The traces made last are kept: one is made again only when its task's document is another."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._ready = Details()

    async def trace(self, request: Request) -> Response:
        desk = self._desk
        desk.gate.reader(request)
        task_id = task_id_of(request)
        store = await desk.catch_up()
        entry = store.view.entries.get(task_id)
        if entry is None:
            raise not_found(task_id)
        tagged = self._ready.get(task_id, entry.digest)
        if tagged is None:
            again = desk.settings.auto_redispatch
            made = await desk.once(
                ("trace", task_id, entry.digest), lambda: _traced_now(store, task_id, auto_redispatch=again)
            )
            self._ready.put(task_id, made)
            tagged = made.tagged
        return tagged.answer(head_of(request.scope).if_none_match)


def _traced_now(store: Store, task_id: str, *, auto_redispatch: bool) -> Detail:
    """For a worker thread: it may read blobs, and parse a long diff."""
    document = store.document(task_id)
    if document is None:
        raise not_found(task_id)
    found = trace(parse_known(document), store.blobs.text, auto_redispatch=auto_redispatch)
    return Detail(document_digest(document), Tagged(kept_json.dumps(plain(found))))


def operations(desk: Desk) -> list[Operation]:
    """The route, as the API's description lists it."""
    return [
        Operation(
            "GET",
            "/api/tasks/{task_id}/trace",
            TraceRoutes(desk).trace,
            "trace_task",
            "One task, traced from its criteria to the answers to its issues",
            description=(
                "For each attempt a row a criterion: its operations, the hunks of the files they edit, the issues "
                "about it, and the operations of the attempt that got these issues. `coverage` counts what can be "
                "traced."
            ),
            role="viewer",
            parameters=openapi.TASK_PARAMETERS,
            answer=openapi.reference(Trace),
            answer_example=example(),
            problems=(*openapi.READ_PROBLEMS, "not_found"),
            tagged=True,
        )
    ]


def example() -> dict[str, Any]:
    """The trace of the description's own task, as it stands at the gate."""
    task = Task.model_validate_json(orjson.dumps(examples.at_the_gate()))
    return dict(orjson.loads(orjson.dumps(plain(trace(task, lambda digest: "")))))
