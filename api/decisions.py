"""What people decide: approve, reject, unlock."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from api.bodies import parse_body
from api.desk import Desk
from api.messages import ApproveBody, RejectBody, UnlockBody, numbered
from api.moves import Asked, move
from ssot.intents import Approve, Intent, Reject, Unlock
from ssot.store import Store


class DecisionRoutes:
    """`POST /api/tasks/{task_id}/approve`, `/reject` and `/unlock`."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def approve(self, request: Request) -> Response:
        return await move(self._desk, request, "approve", _approval)

    async def reject(self, request: Request) -> Response:
        return await move(self._desk, request, "reject", _rejection)

    async def unlock(self, request: Request) -> Response:
        return await move(self._desk, request, "unlock", _unlocking)


def _approval(store: Store, asked: Asked) -> Intent:
    body = parse_body(ApproveBody, asked.raw)
    return Approve(reason=body.reason or "", review_digest=body.review_digest)


def _rejection(store: Store, asked: Asked) -> Intent:
    body = parse_body(RejectBody, asked.raw)
    issues = numbered(body.issues, _ids_in_verdict(store, asked.task_id)) if body.issues else ()
    return Reject(reason=body.reason, issues=issues, review_digest=body.review_digest)


def _ids_in_verdict(store: Store, task_id: str) -> frozenset[str]:
    attempt = store.task(task_id).current
    verdict = attempt.verdict if attempt else None
    return frozenset(issue.issue_id for issue in verdict.issues) if verdict else frozenset()


def _unlocking(store: Store, asked: Asked) -> Intent:
    return Unlock(reason=parse_body(UnlockBody, asked.raw).reason)
