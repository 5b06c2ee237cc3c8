"""What the checks stand on: a playground, people and agents with tokens of its key, and its log to point into."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any, Final

import httpx
import orjson

from audit.event import Corrupt, Event
from audit.reader import read_events
from flows.load.prepare import new_task, to_gate
from flows.playground import Playground
from ssot.settings import Settings
from ssot.store import Store
from ssot.task import plain
from ssot.tokens import make_token

SOURCE: Final = "kircerta/accept"
ACTOR: Final = "acceptance"
_TOKEN_S: Final = 3600.0
_SOON_S: Final = 5.0


class Broken(Exception):
    """A promise does not hold; the message says what was expected, and what came."""


class NotShown(Exception):
    """This cannot be seen here; the message says why. It counts neither way."""


Look = Callable[[], str]
Checks = Iterator[tuple[str, Look]]
"""Names, which are claims, each with what finds out: it says what it did and saw, or raises Broken or NotShown."""


def expect(holds: object, otherwise: str) -> None:
    """Raises Broken."""
    if not holds:
        raise Broken(otherwise)


class Ground:
    """One module's workspace under its API."""

    def __init__(self, playground: Playground, store: Store, client: httpx.Client) -> None:
        self.playground = playground
        self.store = store
        self.client = client

    @property
    def settings(self) -> Settings:
        return self.playground.settings

    # ------------------------------------------------------------------------------------------ tasks

    def task(self, task_id: str) -> str:
        """A task with two criteria and a scope that was never dispatched."""
        self.store.commit(task_id, new_task(), actor=ACTOR)
        return task_id

    def at_gate(self, task_id: str) -> str:
        """A task that waits for a person."""
        expect(to_gate(self.store, [task_id]) == [task_id], f"{task_id} did not come to the gate")
        return task_id

    # ------------------------------------------------------------------------------------------- asking

    def token(self, sub: str, *roles: str) -> str:
        secret = self.settings.jwt_secret
        assert secret is not None
        return make_token(secret.get_secret_value(), sub, roles, _TOKEN_S)

    def post(self, path: str, body: Any = None, *, by: str = "", role: str = "approver", **headers: str) -> Any:
        """POST as somebody (nobody without `by`)."""
        known = {"Authorization": f"Bearer {self.token(by, role)}"} if by else {}
        raw = orjson.dumps(body if body is not None else {})
        sent = {"Content-Type": "application/json", **known, **headers}
        return self.client.post(path, content=raw, headers=sent)

    def decide(self, task_id: str, decision: str, body: Any = None, *, by: str = "alice", **more: str) -> Any:
        return self.post(f"/api/tasks/{task_id}/{decision}", body, by=by, **more)

    def say(self, task_id: str, part: str, body: Any, *, by: str, role: str) -> Any:
        """What a remote agent sends."""
        return self.post(f"/api/tasks/{task_id}/{part}", body, by=by, role=role)

    def document(self, task_id: str) -> bytes:
        """The task as the API shows it."""
        answer = self.client.get(f"/api/tasks/{task_id}")
        expect(answer.status_code == 200, f"GET {task_id} answered {told(answer)}")
        return answer.content

    # -------------------------------------------------------------------------------------------- the log

    def last_seq(self) -> int:
        self.store.refresh()
        return self.store.last_seq()

    def events(self, type: str | None = None, subject: str | None = None, after: int = 0) -> list[Event]:
        """What the log's file says, read again each time."""
        found = read_events(self.store.audit_folder, after)
        return [one for one in found if type in (None, one.type) and subject in (None, one.subject)]

    def event(self, type: str, subject: str | None = None, after: int = 0, within_s: float = _SOON_S) -> Event:
        """The first such event, waited for a while. Raises Broken."""
        until = time.monotonic() + within_s
        while True:
            with suppress(Corrupt):  # a line that is being written
                if found := self.events(type, subject, after):
                    return found[0]
            if time.monotonic() > until:
                raise Broken(f"no {type} of {subject or 'anything'} in the log after event {after}")
            time.sleep(0.02)


@contextmanager
def ground(playground: Playground) -> Iterator[Ground]:
    """The ground on a playground that runs."""
    given = playground.settings
    store = Store.open(given.home, source=SOURCE, settings=given.store, scan=False)
    client = httpx.Client(base_url=given.api_url, timeout=20, trust_env=False)
    with closing(store), client:
        yield Ground(playground, store, client)


def told(answer: httpx.Response) -> str:
    """An answer in a few words: its status and code."""
    with suppress(ValueError, KeyError, TypeError):
        return f"{answer.status_code} {answer.json()['code']}"
    return str(answer.status_code)


def expect_refusal(answer: httpx.Response, status: int, code: str) -> str:
    """The answer must be this refusal; gives it in words. Raises Broken."""
    expect(told(answer) == f"{status} {code}", f"expected {status} {code}, got {told(answer)}")
    return told(answer)


def body_of(part: Any) -> dict[str, Any]:
    """A part of a task as an agent would send it."""
    found = orjson.loads(orjson.dumps(plain(part)))
    assert isinstance(found, dict)
    return found
