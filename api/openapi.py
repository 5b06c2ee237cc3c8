"""The API's own description: every route as one row, from which its OpenAPI entry is made."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import Response

from api import examples
from api.answers import Answer
from api.audit import MAX_EVENTS
from api.messages import ApproveBody, HeartbeatBody, RejectBody, SessionBody, TaskDetail, UnlockBody
from api.problems import PROBLEMS
from api.tasks import MAX_PAGE, SOURCES, STATUSES
from audit.event import KINDS
from ssot.standing import ProjectsPage
from ssot.states import STAGES, role_of
from ssot.task import AckBody, ResultBody, VerdictBody
from ssot.trace import Trace

Endpoint = Callable[[Request], Awaitable[Response]]
Schema = dict[str, Any]

_REF: Final = "#/components/schemas/"
_BODIES: Final[tuple[type[BaseModel], ...]] = (
    AckBody,
    HeartbeatBody,
    ResultBody,
    VerdictBody,
    ApproveBody,
    RejectBody,
    UnlockBody,
    SessionBody,
)
_ANSWERS: Final[tuple[type[BaseModel], ...]] = (TaskDetail, Trace, ProjectsPage)
"""Their own names stand in the description; those of their parts begin with `Shown`."""
_READ: Final = ("unauthenticated", "forbidden", "not_configured", "misdirected", "log_corrupt", "internal_error")
_WRITE: Final = (
    *_READ,
    "bad_request",
    "invalid_idempotency_key",
    "not_found",
    "body_timeout",
    "too_large",
    "unsupported_media_type",
    "idempotency_mismatch",
    "invalid_transition",
    "busy",
    "storage_failed",
    "disk_full",
)
DECIDED: Final = ("invalid_body", "self_approval")
APPROVED_UNDER_A_POLICY: Final = (
    "four_eyes",
    "not_an_approver",
    "already_approved",
    "digest_required",
    "reason_required",
)
FROM_AGENT: Final = ("wrong_dispatch", "attempt_ended")


@dataclass(frozen=True)
class Operation:
    """One route: where it is, what it answers, who may ask, and how its description reads."""

    method: str
    path: str
    endpoint: Endpoint
    name: str
    summary: str
    description: str = ""
    tag: str = "tasks"
    role: str | None = None
    parameters: Sequence[Schema] = ()
    body: type[BaseModel] | None = None
    body_required: bool = True
    example: Any = None
    answer: Schema = field(default_factory=dict)
    answer_example: Any = None
    media_type: str = "application/json"
    problems: Sequence[str] = ()
    tagged: bool = False
    content: Schema | None = None
    """What a body may be, by media type, where that is no model of ours."""
    accepted: bool = False
    """Whether it answers 202 where something new was taken, too."""

    def add_to(self, app: FastAPI) -> None:
        """Make it a route."""
        app.add_api_route(
            self.path,
            self.endpoint,
            methods=[self.method],
            name=self.name,
            operation_id=self.name,
            summary=self.summary,
            description=self.description,
            tags=[self.tag],
            response_model=None,
            status_code=200,
            response_class=Answer,
            response_description="Done",
            openapi_extra=self._described(),
        )

    def _described(self) -> Schema:
        entry: Schema = {"responses": self._responses(), "parameters": list(self.parameters)}
        if self.role is not None:
            # Reads are open on a loopback bind: the empty requirement says that no token may do.
            entry["security"] = [{"token": []}] if self.role != "viewer" else [{"token": []}, {}]
        if self.body is not None:
            content: Schema = {"schema": {"$ref": _REF + self.body.__name__}}
            if self.example is not None:
                content["example"] = self.example
            entry["requestBody"] = {"required": self.body_required, "content": {"application/json": content}}
        elif self.content is not None:
            entry["requestBody"] = {"required": True, "content": self.content}
        return entry

    def _responses(self) -> Schema:
        content: Schema = {"schema": self.answer}
        if self.answer_example is not None:
            content["example"] = self.answer_example
        ok: Schema = {"description": "Done", "content": {self.media_type: content}}
        responses: Schema = {"200": ok}
        if self.accepted:
            responses["202"] = {**ok, "description": "Taken"}
        if self.tagged:
            ok["headers"] = {"ETag": {"schema": {"type": "string"}, "description": "A strong tag over these bytes."}}
            responses["304"] = {"description": "The bytes are those of the tag in If-None-Match."}
        for status, codes in _by_status(self.problems).items():
            responses[str(status)] = {
                "description": "; ".join(f"`{code}`: {PROBLEMS[code][1]}" for code in codes),
                "content": {"application/problem+json": {"schema": {"$ref": _REF + "Problem"}}},
            }
        return responses


def _by_status(codes: Sequence[str]) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for code in dict.fromkeys(codes):
        found.setdefault(PROBLEMS[code][0], []).append(code)
    return dict(sorted(found.items()))


# -------------------------------------------------------------------------------------------- parameters

_TASK: Final = {
    "name": "task_id",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"},
    "example": examples.TASK_ID,
}
_KEY: Final = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "The same key and body give the first answer again, for 24 h; refusals of the rules, too.",
    "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
}


def _query(name: str, schema: Schema, description: str = "") -> Schema:
    return {"name": name, "in": "query", "schema": schema, "description": description}


_TEXT: Final[Schema] = {"type": "string"}
LIST_PARAMETERS: Final = (
    _query("status", {"type": "string", "enum": list(STATUSES)}),
    _query("source", {"type": "string", "enum": list(SOURCES)}),
    _query("stage", {"type": "string", "enum": list(STAGES)}, "How far a task is, more closely than its status."),
    _query("q", {"type": "string", "maxLength": 200}, "Looked for in id and title, ignoring case."),
    _query("limit", {"type": "integer", "minimum": 1, "maximum": MAX_PAGE, "default": 200}),
    _query("cursor", _TEXT, "`next_cursor` of the page before."),
)
AUDIT_PARAMETERS: Final = (
    _query("after", {"type": "integer", "minimum": 0, "default": 0}, "The seq behind which the page begins."),
    _query("limit", {"type": "integer", "minimum": 1, "maximum": MAX_EVENTS, "default": 100}),
    _query("type", {"type": "string", "enum": list(KINDS)}),
    _query("subject", _TEXT, "A task id."),
    _query("since", {"type": "string", "format": "date-time"}, "The first moment that counts."),
    _query("until", {"type": "string", "format": "date-time"}, "The first moment that no longer counts."),
)
BLOB_PARAMETERS: Final = (
    {"name": "sha256", "in": "path", "required": True, "schema": {"type": "string", "pattern": "^[0-9a-f]{64}$"}},
)
TASK_PARAMETERS: Final = (_TASK,)
MOVE_PARAMETERS: Final = (_TASK, _KEY)

# ----------------------------------------------------------------------------------------------- schemas


def reference(model: type[BaseModel]) -> Schema:
    """The schema of an answer that is a model of ours: one of `_ANSWERS`."""
    return {"$ref": _REF + model.__name__}


TASK_ANSWER: Final[Schema] = reference(TaskDetail)
LIST_ANSWER: Final[Schema] = {"$ref": _REF + "TaskPage"}
AUDIT_ANSWER: Final[Schema] = {"$ref": _REF + "AuditPage"}
READ_PROBLEMS: Final = _READ
QUERY_PROBLEMS: Final = (*_READ, "invalid_query")

_SUMMARY: Final[Schema] = {
    "type": "object",
    "properties": {
        "task_id": _TEXT,
        "title": _TEXT,
        "source": {"type": "string", "enum": list(SOURCES)},
        "status": {"type": "string", "enum": list(STATUSES)},
        "stage": {"type": "string", "enum": list(STAGES)},
        "locked": {"type": "boolean"},
        "attempt": {"type": "integer"},
        "revision": {"type": "integer"},
        "seq": {"type": "integer"},
        "created_at": _TEXT,
        "updated_at": _TEXT,
        "correlation_id": _TEXT,
    },
    "required": ["task_id", "title", "source", "status", "stage", "locked", "revision", "seq", "created_at"],
}
_EVENT: Final[Schema] = {
    "type": "object",
    "description": "A CloudEvents 1.0.2 event, exactly as its line stands in the log.",
    "properties": {
        "specversion": {"const": "1.0"},
        "id": _TEXT,
        "source": _TEXT,
        "type": _TEXT,
        "subject": _TEXT,
        "time": {"type": "string", "format": "date-time"},
        "datacontenttype": {"const": "application/json"},
        "data": {"type": "object"},
        "seq": {"type": "integer"},
        "prev": _TEXT,
        "actor": _TEXT,
        "correlationid": _TEXT,
    },
    "required": ["specversion", "id", "source", "type", "time", "data", "seq", "prev", "actor"],
}
_OWN: Final[Schema] = {
    "Problem": {
        "type": "object",
        "description": "RFC 9457. `code` is stable; some problems carry further fields.",
        "properties": {
            "type": {"type": "string", "format": "uri"},
            "title": _TEXT,
            "status": {"type": "integer"},
            "detail": _TEXT,
            "code": {"type": "string", "enum": list(PROBLEMS)},
        },
        "required": ["type", "title", "status", "detail", "code"],
    },
    "TaskSummary": _SUMMARY,
    "TaskPage": {
        "type": "object",
        "properties": {
            "tasks": {"type": "array", "items": {"$ref": _REF + "TaskSummary"}},
            "total": {"type": "integer"},
            "next_cursor": {"type": ["string", "null"]},
        },
        "required": ["tasks", "total", "next_cursor"],
    },
    "Event": _EVENT,
    "AuditPage": {
        "type": "object",
        "properties": {
            "events": {"type": "array", "items": {"$ref": _REF + "Event"}},
            "next_after": {"type": ["integer", "null"]},
        },
        "required": ["events", "next_after"],
    },
}


def move(
    endpoint: Endpoint,
    name: str,
    summary: str,
    body: type[BaseModel],
    example: Any,
    problems: Sequence[str],
    *,
    tag: str,
    description: str = "",
    body_required: bool = True,
) -> Operation:
    """A POST that changes a task. The role comes from the table of moves."""
    role = role_of(name)
    return Operation(
        "POST",
        f"/api/tasks/{{task_id}}/{name}",
        endpoint,
        name,
        summary,
        description=f"{description} Needs the role `{role}`.".strip(),
        tag=tag,
        role=role,
        parameters=MOVE_PARAMETERS,
        body=body,
        body_required=body_required,
        example=example,
        answer=TASK_ANSWER,
        problems=(*_WRITE, *problems),
    )


def document_of(app: FastAPI) -> Callable[[], Schema]:
    """Makes the OpenAPI document once."""
    made: Schema = {}

    def document() -> Schema:
        if not made:
            made.update(
                get_openapi(
                    title=app.title,
                    version=app.version,
                    description=app.description,
                    routes=app.routes,
                    tags=app.openapi_tags,
                )
            )
            components = made.setdefault("components", {})
            components.setdefault("schemas", {}).update(_schemas())
            components["securitySchemes"] = {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "`kircerta token --sub NAME --role ROLE` prints one.",
                }
            }
        return made

    return document


def _schemas() -> Schema:
    _, bodies = models_json_schema([(model, "validation") for model in _BODIES], ref_template=_REF + "{model}")
    _, answers = models_json_schema(
        [(model, "serialization") for model in _ANSWERS], ref_template=_REF + "Shown{model}"
    )
    shown = {f"Shown{name}": schema for name, schema in answers.get("$defs", {}).items()}
    for model in _ANSWERS:
        shown[model.__name__] = shown.pop(f"Shown{model.__name__}")
    return {**bodies["$defs"], **shown, **_OWN}
