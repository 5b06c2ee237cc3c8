"""What remote agents send: ACK, heartbeat, result, verdict. Parsed strictly; what breaks the schema is in the log."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from api.bodies import parse_body
from api.desk import Desk
from api.messages import HeartbeatBody
from api.moves import Asked, OnInvalid, move, recorded, refusal_of
from ssot import beats
from ssot.intents import Intent, SendAck, SendHeartbeat, SendResult, SendVerdict
from ssot.store import Committed, Store
from ssot.task import AckBody, Invalid, ResultBody, VerdictBody


class AgentRoutes:
    """`POST /api/tasks/{task_id}/ack`, `/heartbeat`, `/result` and `/verdict`."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def ack(self, request: Request) -> Response:
        return await move(self._desk, request, "ack", _ack, on_invalid=_logged("ack", "ack_mismatch"))

    async def heartbeat(self, request: Request) -> Response:
        return await move(self._desk, request, "heartbeat", _heartbeat, afterwards=_keep_sign)

    async def result(self, request: Request) -> Response:
        refused = _logged("result", "result_refused")
        return await move(self._desk, request, "result", _result, on_invalid=refused, afterwards=_forget_signs)

    async def verdict(self, request: Request) -> Response:
        return await move(self._desk, request, "verdict", _verdict, on_invalid=_logged("verdict", "verdict_refused"))


def _ack(store: Store, asked: Asked) -> Intent:
    return SendAck(parse_body(AckBody, asked.raw), by_token=True)


def _heartbeat(store: Store, asked: Asked) -> Intent:
    body = parse_body(HeartbeatBody, asked.raw)
    return SendHeartbeat(dispatch_id=body.dispatch_id, note=body.note, by_token=True)


def _result(store: Store, asked: Asked) -> Intent:
    return SendResult(parse_body(ResultBody, asked.raw), by_token=True)


def _verdict(store: Store, asked: Asked) -> Intent:
    return SendVerdict(parse_body(VerdictBody, asked.raw), by_token=True)


def _logged(name: str, code: str) -> OnInvalid:
    """A message that breaks its schema is refused like one that the rules refuse, and recorded as that event."""

    def record(store: Store, asked: Asked, invalid: Invalid, left_s: float) -> Exception:
        return recorded(store, asked, name, code, refusal_of(code, f"{name}: {invalid}", invalid), left_s)

    return record


def _keep_sign(store: Store, asked: Asked, committed: Committed) -> None:
    beats.keep_sign(store.home, _dispatch_id(committed))


def _forget_signs(store: Store, asked: Asked, committed: Committed) -> None:
    beats.forget_signs(store.home, _dispatch_id(committed))


def _dispatch_id(committed: Committed) -> str:
    attempt = committed.task.current
    return attempt.dispatch.dispatch_id if attempt and attempt.dispatch else ""
