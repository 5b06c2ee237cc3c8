"""What is answered when something cannot be done: the one mapping of every error to an RFC 9457 problem."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

import orjson
from starlette.exceptions import HTTPException

from api.answers import Answer
from audit.event import Corrupt
from audit.files import Busy, StorageFailed, SyncFailed
from audit.reader import Rewound
from ssot.store import IdempotencyMismatch, Refused
from ssot.task import Invalid
from ssot.view import BadCursor

PROBLEMS: Final[dict[str, tuple[int, str]]] = {
    "bad_request": (400, "The request is malformed"),
    "bad_payload": (400, "The payload is not what its sender documents"),
    "invalid_idempotency_key": (400, "The Idempotency-Key cannot be used"),
    "unauthenticated": (401, "A valid token is needed"),
    "bad_signature": (401, "The delivery is not proven"),
    "forbidden": (403, "The token lacks the role"),
    "cross_origin": (403, "Another site's page sent this"),
    "not_the_executor": (403, "Another principal executes this attempt"),
    "not_the_reviewer": (403, "The reviewer is a job that is started here"),
    "self_review": (403, "Nobody reviews their own work"),
    "self_approval": (403, "Nobody decides their own work"),
    "four_eyes": (403, "Who asked for it does not decide it"),
    "not_an_approver": (403, "The project has other approvers"),
    "same_model_family": (403, "Executor and reviewer are of one model family"),
    "not_found": (404, "Not found"),
    "method_not_allowed": (405, "The method is not possible here"),
    "body_timeout": (408, "The body came too slowly"),
    "exists": (409, "It exists already"),
    "invalid_transition": (409, "The task's state does not allow it"),
    "locked": (409, "The task is locked"),
    "no_criteria": (409, "The task has no acceptance criteria"),
    "wrong_dispatch": (409, "The message belongs to another dispatch"),
    "attempt_ended": (409, "The attempt is over"),
    "already_approved": (409, "One person approves once"),
    "attempts_exhausted": (409, "The project's attempts are used up"),
    "bad_projects_file": (409, "The projects' file cannot be used"),
    "too_early": (409, "It is too early"),
    "stale_review": (409, "The task changed since it was reviewed"),
    "unwitnessed": (409, "The log did not see this attempt happen"),
    "fidelity_violation": (409, "The forwarded issues were changed"),
    "too_large": (413, "Too large"),
    "unsupported_media_type": (415, "This kind of body is not read here"),
    "misdirected": (421, "This host is not served here"),
    "invalid_body": (422, "The body breaks its schema"),
    "invalid_query": (422, "A query parameter cannot be used"),
    "invalid_request": (422, "The request cannot be carried out"),
    "ack_mismatch": (422, "The echo differs from the dispatch"),
    "result_refused": (422, "The result was refused"),
    "scope_violation": (422, "The result leaves the scope"),
    "verdict_refused": (422, "The verdict was refused"),
    "mutation_detected": (422, "The reviewer changed what it was to read"),
    "invalid_issues": (422, "The issues point at nothing"),
    "reason_required": (422, "A reason is needed"),
    "digest_required": (422, "The review_digest of what was read is needed"),
    "idempotency_mismatch": (422, "The Idempotency-Key came with another body before"),
    "head_too_large": (431, "The request's head is too large"),
    "internal_error": (500, "Something unexpected happened"),
    "not_configured": (503, "A secret is missing"),
    "starting": (503, "Not ready yet"),
    "busy": (503, "The workspace is busy"),
    "storage_failed": (503, "The disk refused"),
    "log_corrupt": (503, "The log contradicts itself"),
    "disk_full": (507, "The disk is full"),
}
"""Every stable code with its status and title."""

_SAME_AS: Final = {"invalid_task_id": "not_found"}
_RESERVED: Final = frozenset({"type", "title", "detail", "code"})
_LOG: Final = logging.getLogger("kircerta.api")


class Problem(Exception):
    """An answer that says no: a code of `PROBLEMS`, a sentence for the caller, headers, and facts to act on."""

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.headers = dict(headers or {})
        self.facts = dict(facts or {})

    @property
    def status(self) -> int:
        return PROBLEMS[self.code][0]

    def answer(self) -> Answer:
        """The problem as it goes out."""
        status, title = PROBLEMS[self.code]
        body = {
            "type": f"urn:kircerta:problem:{self.code}",
            "title": title,
            "status": status,
            "detail": _encodable(self.detail),
            "code": self.code,
            **self.facts,
        }
        headers = tuple((name.lower().encode(), value.encode("latin-1")) for name, value in self.headers.items())
        return Answer(status, orjson.dumps(body), b"application/problem+json", headers=headers, cache=b"no-store")


EXPECTED: Final[tuple[type[Exception], ...]] = (
    Problem,
    Refused,
    Invalid,
    BadCursor,
    IdempotencyMismatch,
    Busy,
    StorageFailed,
    Corrupt,
    Rewound,
    HTTPException,
)
"""The errors that have a problem of their own; any other is a mistake of ours."""


def problem_of(error: Exception) -> Problem:
    """The problem that tells the caller of an error. What nobody expected is logged, and told without details."""
    match error:
        case Problem():
            return error
        case Refused():
            return _refused(error)
        case Invalid():
            return Problem("invalid_body", str(error), facts={"field": _encodable(error.field)})
        case BadCursor():
            return Problem("invalid_query", f"cursor: {error}", facts={"parameter": "cursor"})
        case IdempotencyMismatch():
            return Problem("idempotency_mismatch", str(error))
        case Busy():
            return Problem("busy", str(error), headers={"Retry-After": "1"})
        case StorageFailed(full=True):
            return Problem("disk_full", str(error))
        case SyncFailed() | StorageFailed():
            return Problem("storage_failed", str(error))
        case Corrupt() | Rewound():
            return Problem("log_corrupt", str(error))
        case HTTPException():
            return _routing(error)
        case _:
            _LOG.error("unexpected: %r", error, exc_info=error)
            return Problem("internal_error", "the cause stands in the server's own log")


def _refused(refused: Refused) -> Problem:
    code = _SAME_AS.get(refused.code, refused.code)
    # `status` is the problem's own: the task's stands beside it under another name.
    facts = {("task_status" if name == "status" else name): value for name, value in refused.facts.items()}
    return Problem(code, refused.detail, facts={name: v for name, v in facts.items() if name not in _RESERVED})


def _routing(error: HTTPException) -> Problem:
    """What the router says about paths and methods."""
    if error.status_code == 405:
        allowed = {name.strip() for name in (error.headers or {}).get("Allow", "").split(",") if name.strip()}
        allowed |= {"HEAD"} if "GET" in allowed else set()
        listed = ", ".join(sorted(allowed))
        return Problem("method_not_allowed", f"possible here: {listed}", headers={"Allow": listed})
    if error.status_code == 404:
        return Problem("not_found", "there is nothing at this address; /docs lists what there is")
    return Problem("bad_request", str(error.detail))


def _encodable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
