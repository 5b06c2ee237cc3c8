"""`kircerta approve`, `reject` and `unlock`: a person's decisions, over HTTP, on exactly what was shown."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from cli import workspace
from cli.failures import Failure, WrongUse
from cli.screen import Json, one_line, put_json, say
from cli.tasks import TaskId, check_id
from ssot.counted import counted

if TYPE_CHECKING:
    import httpx

    from ssot.settings import Settings

TIMEOUT_S: Final = 15.0
Reason = Annotated[str, typer.Option("--reason", "-m", help="Why; it stands in the log.", show_default=False)]


def add_to(parent: typer.Typer) -> None:
    parent.command(rich_help_panel="Decide", epilog="Example: kircerta approve T-7 --reason 'All criteria are shown.'")(
        approve
    )
    parent.command(
        rich_help_panel="Decide", epilog="Example: kircerta reject T-7 --reason 'The empty name is not greeted.'"
    )(reject)
    parent.command(
        rich_help_panel="Decide", epilog="Example: kircerta unlock T-7 --reason 'The criteria are clear now.'"
    )(unlock)


def approve(task_id: TaskId, reason: Reason = "", json: Json = False) -> None:
    """Approve a task that waits at the gate. Needs KIRCERTA_TOKEN with the role approver."""
    with Desk() as desk:
        shown = desk.look_at(task_id)
        body = {"reason": reason, "review_digest": shown.review_digest}
        _decide(desk, shown, "approve", body, json=json)


def reject(
    task_id: TaskId,
    reason: Reason,
    issues: Annotated[
        Path | None,
        typer.Option(help="What has to change: a JSON list of issues (criterion_ref, op_refs, text …)."),
    ] = None,
    json: Json = False,
) -> None:
    """Reject a task, or decline one that was never dispatched. Needs KIRCERTA_TOKEN with the role approver."""
    found = _issues(issues) if issues else []
    with Desk() as desk:
        shown = desk.look_at(task_id)
        body: dict[str, Any] = {"reason": reason, "issues": found}
        if shown.review_digest is not None:
            body["review_digest"] = shown.review_digest
        _decide(desk, shown, "reject", body, json=json)


def unlock(task_id: TaskId, reason: Reason, json: Json = False) -> None:
    """Unlock a task that was rejected too often. Needs KIRCERTA_TOKEN with the role approver."""
    with Desk() as desk:
        shown = desk.look_at(task_id)
        _decide(desk, shown, "unlock", {"reason": reason}, json=json)


def _issues(path: Path) -> list[Any]:
    import orjson

    from cli.tasks import read_text

    try:
        found = orjson.loads(read_text(path))
    except ValueError as error:
        raise WrongUse(f"{path} is not JSON: {error}") from None
    if not isinstance(found, list):
        raise WrongUse(f"{path}: a list of issues is expected")
    return found


def _decide(desk: Desk, shown: Shown, what: str, body: dict[str, Any], *, json: bool) -> None:
    """Say what is being decided, send the decision, say what came of it."""
    if not json:
        say(shown.headline)
    answer = desk.send(shown.task_id, what, body)
    if json:
        put_json(answer.content)
        return
    now = _Body(answer)
    say(f"{shown.task_id} is {now.text('status')}{' and locked' if now.found.get('locked') else ''}{_still(now.found)}")


def _still(found: dict[str, Any]) -> str:
    """How many approvals are there and how many are asked for, while it still waits for some."""
    attempts = found.get("attempts")
    last = attempts[-1] if isinstance(attempts, list) and attempts else {}
    policy = (last.get("dispatch") or {}).get("policy") or {}
    quorum = policy.get("quorum", 1)
    if found.get("status") != "needs_review" or quorum == 1:
        return ""
    return f": {len(last.get('approvals', ()))} of {counted(quorum, 'approval')}"


@dataclass(frozen=True, slots=True)
class Shown:
    """What a person saw of a task when they decided."""

    task_id: str
    headline: str
    review_digest: str | None


class _Body:
    """A JSON answer of the API, read with care: it may be another program that answers at that address."""

    def __init__(self, answer: httpx.Response) -> None:
        try:
            found = answer.json()
        except ValueError:
            found = None
        self.found: dict[str, Any] = found if isinstance(found, dict) else {}

    def text(self, name: str) -> str:
        return one_line(str(self.found.get(name, "")))


class Desk:
    """The API, with the caller's token."""

    def __init__(self) -> None:
        import httpx

        self._settings = workspace.settings()
        token = self._settings.token
        if token is None or not token.get_secret_value().strip():
            raise WrongUse(
                "KIRCERTA_TOKEN is not set: export KIRCERTA_TOKEN=$(kircerta token --sub NAME --role approver)"
            )
        self._client = httpx.Client(
            base_url=_base_url(self._settings),
            timeout=TIMEOUT_S,
            trust_env=False,  # a proxy must not see the token
            headers={"Authorization": f"Bearer {token.get_secret_value().strip()}"},
        )

    def __enter__(self) -> Desk:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def look_at(self, task_id: str) -> Shown:
        """Get the task as it stands, and what a decision on it is about."""
        check_id(task_id)
        body = _Body(self._ask("GET", f"/api/tasks/{task_id}"))
        digest = body.found.get("review_digest")
        attempts = body.found.get("attempts") or [{}]
        verdict = attempts[-1].get("verdict") or {}
        judged = f", the verdict is {verdict.get('decision')}: {verdict.get('summary')}" if verdict else ""
        headline = f"{task_id} ({body.text('title')}) is {body.text('status')}{one_line(judged)}"
        return Shown(task_id, f"{headline}\n{digest or 'never reviewed'}", digest if isinstance(digest, str) else None)

    def send(self, task_id: str, what: str, body: dict[str, Any]) -> httpx.Response:
        """Send a decision. Raises Failure with the API's own words when it says no."""
        return self._ask("POST", f"/api/tasks/{task_id}/{what}", body)

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
        import httpx

        try:
            answer = self._client.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise Failure(
                f"the API at {self._settings.api_url} does not answer ({type(error).__name__}): "
                "start it with `kircerta up` or `kircerta api`, or set KIRCERTA_API_URL"
            ) from None
        if answer.is_success:
            return answer
        said = _Body(answer)
        if not said.text("code"):
            raise Failure(f"what answers at {self._settings.api_url} is not kircerta's API (HTTP {answer.status_code})")
        raise Failure(f"{said.text('detail') or said.text('title')} ({said.text('code')})")


def _base_url(settings: Settings) -> str:
    import httpx

    try:
        url = httpx.URL(settings.api_url)
    except httpx.InvalidURL:
        url = httpx.URL("")
    if url.scheme not in ("http", "https") or not url.host:
        raise WrongUse(f"KIRCERTA_API_URL: {settings.api_url!r} is no address such as http://127.0.0.1:8000")
    return str(url)
