"""How a POST changes a task: token, body, one commit in the writing thread, and the task as the answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from api.answers import Answer
from api.bodies import idempotency_key, read_body
from api.desk import Desk, Detail, not_found, task_id_of
from api.problems import Problem, problem_of
from audit.event import Draft
from audit.reader import event_at
from ssot.intents import Intent
from ssot.rules import Refusal
from ssot.states import role_of
from ssot.store import Committed, IdempotencyKey, IdempotencyMismatch, Refused, Store, Wish
from ssot.task import Invalid

_REPEATED: Final = (b"idempotency-replayed", b"true")


@dataclass(frozen=True, slots=True)
class Asked:
    """One request to change a task, with everything that is needed to judge it."""

    task_id: str
    principal: str
    raw: bytes
    key: IdempotencyKey | None
    on_behalf_of: str | None = None


Reading = Callable[[Store, Asked], Intent]
"""Makes an intent from a body. Raises Invalid. In the writing thread."""
OnInvalid = Callable[[Store, Asked, Invalid, float], Exception]
"""What becomes of a body that breaks its schema; it may be worth an event."""


def refusal_of(code: str, detail: str, invalid: Invalid) -> Refusal:
    """The refusal of a body that breaks its schema, short enough for a line of the log."""
    return Refusal(code, _short(detail, 2000), {"field": _short(invalid.field, 300)})


def recorded(store: Store, asked: Asked, name: str, kind: str, refusal: Refusal, left_s: float) -> Refused:
    """A refusal to raise, recorded as an event of this kind that remembers the key."""
    data: dict[str, object] = {"move": name, "code": refusal.code, "detail": refusal.detail, **refusal.facts}
    if asked.key is not None:
        answer = {"code": refusal.code, "detail": refusal.detail}
        data["idempotency"] = {"key": asked.key.key, "body": asked.key.body, "refused": answer}
    correlation = store.task(asked.task_id).correlation_id
    store.note(Draft(kind, asked.principal, data, asked.task_id, correlation), timeout=left_s)
    return Refused(refusal)


def told_only(name: str) -> OnInvalid:
    """A malformed body is told to its sender; the log learns of it only where it has to know the key again."""

    def tell(store: Store, asked: Asked, invalid: Invalid, left_s: float) -> Exception:
        if asked.key is None:
            return invalid
        refusal = refusal_of("invalid_body", str(invalid), invalid)
        return recorded(store, asked, name, "move_refused", refusal, left_s)

    return tell


async def move(
    desk: Desk,
    request: Request,
    name: str,
    reading: Reading,
    *,
    on_invalid: OnInvalid | None = None,
    afterwards: Callable[[Store, Asked, Committed], None] | None = None,
) -> Response:
    """Carry out one move of the table on the task in the path.

    The order of checks: token and role, task id, body (size, time, type), then in one hop: task known, body's
    schema, the rules. The hop ends behind the commit point, with the answer made.
    """
    role = role_of(name)
    assert role is not None
    principal = desk.gate.holder(request, role)
    task_id = task_id_of(request)
    raw = await read_body(request, desk.limits)
    key = idempotency_key(request, principal.name, raw)
    asked = Asked(task_id, principal.name, raw, key, principal.on_behalf_of)
    store = desk.store

    def wish(left_s: float) -> Wish:
        return _wish(store, asked, reading, on_invalid or told_only(name), left_s)

    def answer(committed: Committed) -> tuple[Committed, Detail]:
        if afterwards is not None:
            afterwards(store, asked, committed)
        return committed, Detail.of(store, committed.document, committed.task)

    committed, made = await desk.writer.commit(store, task_id, wish, answer)
    if committed.repeated:
        whole = made.tagged.whole
        return Answer(200, bytes(whole.body), headers=((b"etag", made.tagged.etag), _REPEATED))
    return desk.keep(task_id, made).whole


def _wish(store: Store, asked: Asked, reading: Reading, on_invalid: OnInvalid, left_s: float) -> Wish:
    store.refresh()
    if asked.task_id not in store.view.entries:
        raise not_found(asked.task_id)
    _check_key(store, asked.key)
    try:
        intent = reading(store, asked)
    except Invalid as invalid:
        raise on_invalid(store, asked, invalid, left_s) from None
    return Wish(asked.task_id, intent, asked.principal, asked.on_behalf_of, asked.key)


def _check_key(store: Store, key: IdempotencyKey | None) -> None:
    """A key that was answered with a refusal is answered so again; the store repeats what was done."""
    first = store.view.recall(key.key, store.log.clock.stamp().now) if key is not None else None
    if first is None or key is None:
        return
    if first.body != key.body:
        raise IdempotencyMismatch("this Idempotency-Key came with another body before: use a new key")
    if first.refused is not None:
        raise _repeated(store, first.refused, first.seq)


def _repeated(store: Store, refused: dict[str, str], seq: int) -> Problem:
    """The first refusal again, with the facts that its event kept."""
    event = event_at(store.audit_folder, seq)
    kept = dict(event.data) if event is not None else {}
    for name in ("move", "code", "detail", "idempotency", "blob", "in_blob"):
        kept.pop(name, None)
    problem = problem_of(Refused(Refusal(refused["code"], refused["detail"], kept)))
    problem.headers["Idempotency-Replayed"] = "true"
    return problem


def _short(text: str, most: int) -> str:
    return text[:most].encode("utf-8", "replace").decode()
