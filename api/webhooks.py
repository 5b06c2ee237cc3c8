"""Deliveries from GitHub, Xcode Cloud and Telegram: proven first, then read, then one commit. Judges nothing.

The order of checks: configured, size, signature over the raw bytes, parse, duplicate, effect.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qs, parse_qsl, quote

import orjson
from pydantic import SecretStr
from starlette.requests import Request
from starlette.responses import Response

from api.answers import Answer
from api.bodies import BodyLimits, check_size, media_type_of, read_raw
from api.budget import FailureBudget
from api.desk import Desk
from api.keeping import Keeper
from api.openapi import Operation, Schema
from api.problems import Problem, problem_of
from api.refusals import RefusalCounter
from audit.files import Busy
from ssot import strict_json
from ssot.ingest.delivery import BadPayload, Delivered, Delivery
from ssot.ingest.parcel import DELIVERY, EVENT, Parcel
from ssot.settings import Settings
from ssot.store import Refused

GITHUB_BODY_BYTES: Final = 25 * 1024 * 1024
ANSWER_S: Final = 9.0
"""GitHub waits 10 s for an answer, Xcode Cloud 30."""
BODY_S: Final = 4.0
DEFAULT_BODY_BYTES: Final = 1024 * 1024
_SIGNATURE: Final = re.compile(r"sha256=[0-9a-f]{64}", re.ASCII)
_DELIVERY_ID: Final = re.compile(r"[\x21-\x7e]{1,200}")
_EVENT: Final = re.compile(r"[a-z][a-z0-9_]{0,99}", re.ASCII)
_FORM: Final = "application/x-www-form-urlencoded"
_COUNTED: Final = frozenset(
    {"bad_signature", "bad_payload", "too_large", "unsupported_media_type", "body_timeout", "not_configured"}
)

_CHARGED: Final = frozenset({"bad_signature", "too_large", "body_timeout"})
"""What an address is slowed down for: who has proven a delivery may send nonsense at full speed."""

Hiding = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Secrets:
    """The secrets of one sender; several are valid at once while they are rotated. Texts never leave this object."""

    variable: str
    values: tuple[bytes, ...]

    @classmethod
    def of(cls, variable: str, given: SecretStr | None) -> Secrets:
        parts = given.get_secret_value().split(",") if given is not None else []
        return cls(variable, tuple(part.strip().encode() for part in parts if part.strip()))

    def require(self) -> None:
        """Without a secret nothing can be proven. Raises Problem."""
        if not self.values:
            raise Problem("not_configured", f"{self.variable} is not set: no delivery can be proven")

    def have(self, given: bytes) -> bool:
        """Whether this is one of them; every one is compared, in constant time."""
        found = [hmac.compare_digest(secret, given) for secret in self.values]
        return any(found)

    def hidden_in(self, payload: Any) -> Any:
        """A payload with every secret struck out: a sender may tell the address that it was given, secret and all."""
        texts = {secret.decode() for secret in self.values}
        return _struck(payload, sorted(texts | {quote(text, safe="") for text in texts}, key=len, reverse=True))


def _struck(value: Any, secrets: list[str]) -> Any:
    if isinstance(value, str):
        for secret in secrets:
            value = value.replace(secret, "***")
        return value
    if isinstance(value, list):
        return [_struck(item, secrets) for item in value]
    if isinstance(value, dict):
        return {_struck(key, secrets): _struck(item, secrets) for key, item in value.items()}
    return value


class _Seal:
    """The HMAC-SHA256 of a body under each secret, made while its bytes come in."""

    def __init__(self, secrets: Secrets) -> None:
        self._running = [hmac.new(secret, digestmod=hashlib.sha256) for secret in secrets.values]

    def take(self, chunk: bytes) -> None:
        for one in self._running:
            one.update(chunk)

    def is_that_of(self, signature: bytes) -> bool:
        """Whether a signature is right: compared exactly, case included, in constant time, against all."""
        found = [hmac.compare_digest(b"sha256=" + one.hexdigest().encode(), signature) for one in self._running]
        return any(found)


class WebhookRoutes:
    """`POST /webhooks/github`, `/webhooks/xcode` and `/webhooks/telegram`."""

    def __init__(
        self, desk: Desk, rejections: RefusalCounter, keeper: Keeper, budget: FailureBudget | None = None
    ) -> None:
        settings = desk.settings
        self._desk = desk
        self._keeper = keeper
        self._rejections = rejections
        self._budget = budget or FailureBudget()
        self._github = Secrets.of("KIRCERTA_GITHUB_SECRET", settings.github_secret)
        self._xcode = Secrets.of("KIRCERTA_XCODE_SECRET", settings.xcode_secret)
        self._telegram = Secrets.of("KIRCERTA_TELEGRAM_SECRET", settings.telegram_secret)
        body_s = min(BODY_S, desk.limits.timeout_s)
        self._limits = BodyLimits(settings.max_body_bytes, body_s)
        self._github_limits = BodyLimits(github_body_bytes(settings), body_s)

    async def github(self, request: Request) -> Response:
        """Proven by `X-Hub-Signature-256` over the raw body."""
        return await self._guarded(request, self._from_github)

    async def xcode(self, request: Request) -> Response:
        """Proven by the secret in the query or in the path: Xcode Cloud signs nothing."""
        return await self._guarded(request, self._from_xcode)

    async def telegram(self, request: Request) -> Response:
        """Proven by the secret token that Telegram sends along."""
        return await self._guarded(request, self._from_telegram)

    # ------------------------------------------------------------------------------------------- senders

    async def _from_github(self, request: Request, deadline: float) -> Response:
        self._github.require()
        await check_size(request, self._github_limits)
        signature = _only(request, "x-hub-signature-256")
        if not _SIGNATURE.fullmatch(signature):  # told without a look at the body
            raise _unproven("X-Hub-Signature-256")
        seal = _Seal(self._github)
        async with self._budget.turn(_address(request)):
            raw = await read_raw(request, self._github_limits, seal.take)
            if not seal.is_that_of(signature.encode()):
                raise _unproven("X-Hub-Signature-256")
        event, delivery_id = _only(request, EVENT), _only(request, DELIVERY)
        form = _is_form(request)
        if not _EVENT.fullmatch(event) or not _DELIVERY_ID.fullmatch(delivery_id):
            raise Problem("bad_payload", "X-GitHub-Event and X-GitHub-Delivery are needed, once each")
        headers = {EVENT: event, DELIVERY: delivery_id}
        delivered = await self._taken(Parcel("github", _json_of_form(raw) if form else raw, headers), deadline)
        return Answer(200, b'{"pong":true}', cache=b"no-store") if event == "ping" else _answer(delivered)

    async def _from_xcode(self, request: Request, deadline: float) -> Response:
        self._xcode.require()
        await check_size(request, self._limits)
        if not self._xcode.have(_xcode_secret(request)):
            raise _unproven("the secret of the address")
        parcel = Parcel("xcode", await self._json(request))
        return _answer(await self._taken(parcel, deadline, self._xcode.hidden_in))

    async def _from_telegram(self, request: Request, deadline: float) -> Response:
        self._telegram.require()
        await check_size(request, self._limits)
        if not self._telegram.have(_only(request, "x-telegram-bot-api-secret-token").encode("latin-1")):
            raise _unproven("X-Telegram-Bot-Api-Secret-Token")
        return _answer(await self._taken(Parcel("telegram", await self._json(request)), deadline))

    async def _json(self, request: Request) -> bytes:
        raw = await read_raw(request, self._limits)
        if media_type_of(request) != "application/json":
            raise Problem("unsupported_media_type", "send `Content-Type: application/json`, in UTF-8")
        return raw

    # ------------------------------------------------------------------------------------------ every one

    async def _guarded(self, request: Request, answer: Callable[[Request, float], Any]) -> Response:
        """Answer, and count what is refused."""
        deadline = time.monotonic() + ANSWER_S
        try:
            response: Response = await answer(request, deadline)
            return response
        except (Problem, Refused) as error:
            problem = problem_of(error)
            if problem.code in _COUNTED:
                route = getattr(request.scope.get("route"), "path", "unknown")
                self._rejections.count(_address(request), route, problem.code)
                if _may_not_end(request):
                    problem.headers.setdefault("Connection", "close")
                if problem.code in _CHARGED:
                    await self._budget.failed(_address(request))
            raise problem from None

    async def _taken(self, parcel: Parcel, deadline: float, hide: Hiding | None = None) -> Delivered:
        """Parse in a worker thread, then commit in the writing one. Raises Problem, Refused, Busy, StorageFailed.

        A delivery that was read and whose effect failed is kept before its sender hears of it.
        """
        parcel, delivery = await asyncio.to_thread(_read, parcel, hide)
        try:
            return await self._committed(delivery, deadline)
        except Refused:  # what it asks for cannot be
            raise
        except Exception as error:
            await self._keeper.keep(parcel, delivery, error)
            raise

    async def _committed(self, delivery: Delivery, deadline: float) -> Delivered:
        store = self._desk.store
        left = deadline - time.monotonic()
        try:
            async with asyncio.timeout(left):
                return await self._desk.writer.do(lambda left_s: store.deliver(delivery, left_s), timeout_s=left)
        except TimeoutError:  # it may still happen; coming again is recognised
            raise Busy("the delivery was not committed in time: send it again") from None


def github_body_bytes(settings: Settings) -> int:
    """GitHub's payloads go up to 25 MiB; a setting below its own default holds for them, too."""
    given = settings.max_body_bytes
    return given if given < DEFAULT_BODY_BYTES else max(given, GITHUB_BODY_BYTES)


def _read(parcel: Parcel, hide: Hiding | None) -> tuple[Parcel, Delivery]:
    try:
        return parcel.opened(hide)
    except (strict_json.NotStrictJSON, BadPayload) as error:
        raise Problem("bad_payload", str(error)) from None


def _answer(delivered: Delivered) -> Response:
    body = {
        "event_id": delivered.delivery.event_id,
        "duplicate": delivered.duplicate,
        "task_id": delivered.task_id,
        "effect": delivered.effect,
    }
    return Answer(200 if delivered.duplicate else 202, orjson.dumps(body), cache=b"no-store")


def _unproven(what: str) -> Problem:
    return Problem("bad_signature", f"{what} does not prove this delivery")


def _address(request: Request) -> str:
    return request.client.host if request.client else "unknown"


def _only(request: Request, header: str) -> str:
    """A header that has to be there once; empty when it is not."""
    given = request.headers.getlist(header)
    return given[0] if len(given) == 1 else ""


def _may_not_end(request: Request) -> bool:
    """Whether a body has no length: then the connection ends with a refusal, who knows how much would come."""
    return "transfer-encoding" in request.headers


def _is_form(request: Request) -> bool:
    media_type = media_type_of(request)
    if media_type not in ("application/json", _FORM):
        raise Problem("unsupported_media_type", f"send `application/json` or `{_FORM}`, in UTF-8")
    return media_type == _FORM


def _json_of_form(raw: bytes) -> bytes:
    """The JSON in the one field `payload` of a form."""
    try:
        fields = parse_qsl(raw.decode("ascii"), keep_blank_values=True, max_num_fields=8, errors="strict")
        (payload,) = [value for name, value in fields if name == "payload"]
        return payload.encode()
    except ValueError:  # not ASCII, not UTF-8, too many fields, none or two of `payload`
        raise Problem("bad_payload", "a form with one field `payload` is expected") from None


def _xcode_secret(request: Request) -> bytes:
    """The secret as the last segment of the path, or as `?token=`, once."""
    in_path = request.path_params.get("secret")
    if in_path is not None:
        return str(in_path).encode("utf-8", "surrogateescape")
    query = request.scope["query_string"].decode("latin-1")
    try:
        tokens = parse_qs(query, max_num_fields=32, errors="surrogateescape").get("token", [])
    except ValueError:
        return b""
    return tokens[0].encode("utf-8", "surrogateescape") if len(tokens) == 1 else b""


# -------------------------------------------------------------------------------------------- description

_JSON_OBJECT: Final[Schema] = {"application/json": {"schema": {"type": "object"}}}
_FORM_OBJECT: Final[Schema] = {
    _FORM: {"schema": {"type": "object", "properties": {"payload": {"type": "string"}}, "required": ["payload"]}}
}
_TAKEN: Final[Schema] = {
    "type": "object",
    "required": ["event_id", "duplicate", "task_id", "effect"],
    "properties": {
        "event_id": {"type": "string"},
        "duplicate": {"type": "boolean"},
        "task_id": {"type": ["string", "null"]},
        "effect": {"type": "string"},
    },
}
_PONG: Final[Schema] = {"type": "object", "required": ["pong"], "properties": {"pong": {"const": True}}}
_PROBLEMS: Final = (
    "bad_request",
    "bad_payload",
    "bad_signature",
    "body_timeout",
    "too_large",
    "unsupported_media_type",
    "misdirected",
    "internal_error",
    "not_configured",
    "starting",
    "busy",
    "storage_failed",
    "log_corrupt",
    "disk_full",
)


def operations(desk: Desk, rejections: RefusalCounter, keeper: Keeper) -> list[Operation]:
    """The routes, as the API's description lists them."""
    routes = WebhookRoutes(desk, rejections, keeper)
    secret = {"name": "secret", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    token = {"name": "token", "in": "query", "schema": {"type": "string"}, "description": "The shared secret."}

    def operation(path: str, endpoint: Any, name: str, summary: str, **more: Any) -> Operation:
        given = {"content": _JSON_OBJECT, "answer": _TAKEN, **more}
        return Operation(
            "POST", path, endpoint, name, summary, tag="webhooks", problems=_PROBLEMS, accepted=True, **given
        )

    return [
        operation(
            "/webhooks/github",
            routes.github,
            "from_github",
            "A delivery of GitHub",
            description="Proven by `X-Hub-Signature-256`. 202 for a new one, 200 for one that came before.",
            content={**_JSON_OBJECT, **_FORM_OBJECT},
            answer={"anyOf": [_TAKEN, _PONG]},
            parameters=[_header("X-Hub-Signature-256"), _header("X-GitHub-Event"), _header("X-GitHub-Delivery")],
        ),
        operation(
            "/webhooks/xcode",
            routes.xcode,
            "from_xcode",
            "A delivery of Xcode Cloud",
            description="Proven by the secret in the query.",
            parameters=[token],
        ),
        operation(
            "/webhooks/xcode/{secret}",
            routes.xcode,
            "from_xcode_by_path",
            "A delivery of Xcode Cloud, with its secret in the path",
            parameters=[secret],
        ),
        operation(
            "/webhooks/telegram",
            routes.telegram,
            "from_telegram",
            "An update of Telegram",
            description="Proven by `X-Telegram-Bot-Api-Secret-Token`.",
            parameters=[_header("X-Telegram-Bot-Api-Secret-Token")],
        ),
    ]


def _header(name: str) -> Schema:
    return {"name": name, "in": "header", "schema": {"type": "string"}}
