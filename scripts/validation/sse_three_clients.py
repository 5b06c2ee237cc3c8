"""Three clients on the event stream, one decision: all three must see it within a second.

    python scripts/validation/sse_three_clients.py --base-url http://127.0.0.1:8000 [--home WORKSPACE]

It makes a task of its own in the workspace (as a file, or with --task uses one that waits for a decision), declines
it over HTTP with the token in KIRCERTA_TOKEN (or one made with the workspace's own key), and prints who saw what when.
Exits 0 when all three saw it in time, 1 when not, 2 on wrong use.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import secrets
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from api.auth import make_token
from ssot.settings import SettingsError, load

CLIENTS = 3
WITHIN_S = 1.0


class WrongUse(Exception):
    """What was given cannot be worked with; the message says how to go on."""


@dataclass(frozen=True)
class Sighting:
    """One client saw the decision: under which id, and when (monotonic seconds)."""

    client: int
    event_id: str
    at: float


class Client(threading.Thread):
    """Listens to the stream of one task until it sees the decision."""

    def __init__(self, number: int, base_url: str, headers: dict[str, str], task_id: str, found: queue.Queue[Sighting]):
        super().__init__(name=f"client-{number}", daemon=True)
        self.number = number
        self.connected = threading.Event()
        self.failure = ""
        self._url = f"{base_url}/api/events"
        self._headers = headers
        self._task_id = task_id
        self._found = found

    def run(self) -> None:
        try:
            with httpx.stream(
                "GET",
                self._url,
                params={"subject": self._task_id, "type": "task_rejected"},
                headers=self._headers,
                timeout=httpx.Timeout(10, read=30),
            ) as answer:
                if answer.status_code != 200:
                    answer.read()
                    self.failure = f"{answer.status_code}: {answer.text[:200]}"
                    return
                self.connected.set()  # the subscription exists before the head is sent
                self._listen(answer)
        except httpx.HTTPError as error:
            self.failure = str(error) or type(error).__name__
        finally:
            self.connected.set()

    def _listen(self, answer: httpx.Response) -> None:
        for event_id, event in events_in(answer):
            if event.get("subject") == self._task_id and event.get("type") == "task_rejected":
                self._found.put(Sighting(self.number, event_id, time.monotonic()))
                return


def events_in(answer: httpx.Response) -> Iterator[tuple[str, dict[str, object]]]:
    """The messages of a stream: id, and the event of the log."""
    event_id, data = "", ""
    for line in answer.iter_lines():
        if line.startswith("id: "):
            event_id = line[4:]
        elif line.startswith("data: "):
            data = line[6:]
        elif not line and data:
            yield event_id, json.loads(data)
            data = ""


def make_task(home: Path) -> str:
    """Drop a task file, as a person would; the API takes it over within a second."""
    task_id = f"three-clients-{secrets.token_hex(4)}"
    task = {
        "task_id": task_id,
        "source": "manual",
        "request_text": "Be declined while three clients watch.",
        "created_at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "metadata": {"made_by": "sse_three_clients"},
    }
    folder = home / "ssot" / "tasks"
    if not folder.is_dir():
        raise WrongUse(f"{home} is no workspace (it has no ssot/tasks): give the server's with --home")
    temporary = folder / f".{task_id}.tmp"
    temporary.write_text(json.dumps(task, indent=2) + "\n")
    temporary.rename(folder / f"{task_id}.json")
    return task_id


def await_task(base_url: str, headers: dict[str, str], task_id: str) -> None:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        answer = httpx.get(f"{base_url}/api/tasks/{task_id}", headers=headers, timeout=10)
        if answer.status_code == 200:
            return
        if answer.status_code != 404:
            raise WrongUse(f"{base_url} answered {answer.status_code} to a read: {answer.text[:200]}")
        time.sleep(0.05)
    raise WrongUse(f"{base_url} did not take over {task_id} within 5 s: does it serve the workspace given with --home?")


def token_for(home: Path) -> str:
    """The token from the environment, or one made with the workspace's key."""
    given = os.environ.get("KIRCERTA_TOKEN")
    if given:
        return given
    try:
        secret = load(home=home).jwt_secret
    except SettingsError as error:
        raise WrongUse(str(error)) from None
    if secret is None:
        raise WrongUse("a token is needed: set KIRCERTA_TOKEN to one with the role `approver`")
    return make_token(secret.get_secret_value(), "three-clients", ["approver", "viewer"], 300)


def watch_one_decision(base_url: str, headers: dict[str, str], task_id: str) -> int:
    """Three clients, one decision, a table. The exit code."""
    found: queue.Queue[Sighting] = queue.Queue()
    clients = [Client(number, base_url, headers, task_id, found) for number in range(1, CLIENTS + 1)]
    for client in clients:
        client.start()
    for client in clients:
        if not client.connected.wait(15) or client.failure:
            raise WrongUse(f"client {client.number} got no stream: {client.failure or 'no answer within 15 s'}")
    begun = time.monotonic()
    answer = httpx.post(
        f"{base_url}/api/tasks/{task_id}/reject",
        json={"reason": "Three clients are watching."},
        headers=headers,
        timeout=10,
    )
    if answer.status_code != 200:
        raise WrongUse(f"the decision was refused with {answer.status_code}: {answer.text[:300]}")
    answered = time.monotonic()
    sightings = collect(found, answered + WITHIN_S + 1)
    return report(task_id, sightings, begun, answered)


def collect(found: queue.Queue[Sighting], deadline: float) -> dict[int, Sighting]:
    seen: dict[int, Sighting] = {}
    while len(seen) < CLIENTS and (left := deadline - time.monotonic()) > 0:
        try:
            sighting = found.get(timeout=left)
        except queue.Empty:
            break
        seen[sighting.client] = sighting
    return seen


def report(task_id: str, seen: dict[int, Sighting], begun: float, answered: float) -> int:
    """A line for each client. In time means: within a second of the decision being sent."""
    lines = [f"task {task_id}: declined, answered after {(answered - begun) * 1000:.1f} ms", ""]
    lines.append("client   saw it after   event id             in time")
    good = 0
    for number in range(1, CLIENTS + 1):
        sighting = seen.get(number)
        if sighting is None:
            lines.append(f"{number:<8} {'never':<14} {'-':<20} no")
            continue
        took = sighting.at - begun
        good += took <= WITHIN_S
        lines.append(
            f"{number:<8} {f'{took * 1000:.1f} ms':<14} {sighting.event_id:<20} {'yes' if took <= WITHIN_S else 'no'}"
        )
    same = len({sighting.event_id for sighting in seen.values()}) == 1
    passed = good == CLIENTS and same
    lines += [
        "",
        "PASS: all three saw the same event within 1 s" if passed else "FAIL: not all three saw it within 1 s",
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0 if passed else 1


def main() -> int:
    parser = argparse.ArgumentParser(description="Three clients, one decision, all three see it within 1 s.")
    parser.add_argument("--base-url", default=os.environ.get("KIRCERTA_API_URL", "http://127.0.0.1:8000"))
    parser.add_argument("--home", type=Path, default=Path(os.environ.get("KIRCERTA_HOME", ".")))
    parser.add_argument("--task", help="a pending or reviewed task to decline, instead of one made for this")
    given = parser.parse_args()
    base_url = given.base_url.rstrip("/")
    try:
        headers = {"Authorization": f"Bearer {token_for(given.home)}"}
        task_id = given.task or make_task(given.home)
        await_task(base_url, headers, task_id)
        return watch_one_decision(base_url, headers, task_id)
    except WrongUse as error:
        sys.stderr.write(f"{error}\n")
    except httpx.HTTPError as error:
        sys.stderr.write(f"{base_url} does not answer ({str(error) or type(error).__name__}): is the API running?\n")
    return 2


if __name__ == "__main__":
    sys.exit(main())
