"""The flow that drains the inbox, and the flows that start tasks from outside or do not, on a real Prefect server."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import orjson
import pytest

from audit.files import StorageFailed
from flows.server import PrefectServer
from flows.workspace import Workspace, using
from ssot.inbox import Inbox
from ssot.ingest import github
from ssot.ingest.parcel import Parcel
from ssot.projects import FILE
from tests import builders
from tests.flows.conftest import settings_for, told
from tests.flows.test_dispatcher import dispatcher, runs, until, until_stage

pytestmark = [pytest.mark.slow, pytest.mark.prefect]

GH = "gh-octo-org_hello.world-7"
FAKES = {"executor": "fake-inproc", "reviewer": "fake-inproc"}
RULE = (
    '[project.a]\nrepositories = ["*/*"]\nexecutor = "fake-inproc"\nreviewer = "fake-inproc"\n'
    '[[project.a.auto_dispatch]]\nsource = "github"\n'
)


def call(workspace: Workspace, name: str, **parameters: Any) -> Any:
    """Call a flow in this process; gives the state that its run ended in."""
    from flows import dispatch, drain_inbox

    flow = {"drain_inbox": drain_inbox.drain_inbox}.get(name) or getattr(dispatch, name)

    async def run() -> Any:
        with using(workspace):
            return await flow(**parameters, return_state=True)

    return asyncio.run(run())


def keep(workspace: Workspace, body: bytes = b"") -> None:
    headers = {"x-github-event": "issues", "x-github-delivery": "d-1"}
    kept, delivery = Parcel("github", orjson.dumps(builders.issue_payload()), headers).opened()
    inbox = Inbox(workspace.home)
    inbox.keep(kept, delivery, StorageFailed("the log could not be written"))
    path = inbox.folder / f"{delivery.key}.json"
    if body:
        path.write_bytes(orjson.dumps({**orjson.loads(path.read_bytes()), "body": body.decode()}))


def test_the_inbox_is_drained_as_a_run(workspace: Workspace, on_prefect: PrefectServer) -> None:
    assert call(workspace, "drain_inbox").name == "InboxEmpty"
    keep(workspace)
    assert call(workspace, "drain_inbox").name == "SomeWait"  # its time has not come
    assert call(workspace, "drain_inbox", at_once=True).name == "Drained"
    assert told(workspace, GH) == ["task_created"]


def test_what_is_given_up_fails_the_run_until_a_person_mends_it(
    workspace: Workspace, on_prefect: PrefectServer
) -> None:
    keep(workspace, b"[]")
    for parameters in ({"at_once": True}, {}, {"given_up": True}):
        state = call(workspace, "drain_inbox", **parameters)
        assert (state.name, state.type.value) == ("SomeGivenUp", "FAILED")


def test_pending_tasks_from_outside_wait_until_a_rule_or_a_person_says_so(
    workspace: Workspace, on_prefect: PrefectServer
) -> None:
    workspace.store.deliver(github.read("issues", "d-7", builders.issue_payload()))
    workspace.store.deliver(github.read("issues", "d-8", builders.issue_payload(number=8, repository="acme/shop")))
    assert call(workspace, "dispatch_pending", **FAKES).name == "NothingPending"
    assert call(workspace, "auto_dispatch", task_id=GH).name == "Waiting"
    assert told(workspace, GH) == ["task_created"]
    write_rule(workspace, RULE.replace("*/*", "octo-org/*"))
    assert call(workspace, "dispatch_pending", executor="nobody").name == "Dispatched"
    dispatch = workspace.store.task(GH).attempts[0].dispatch
    assert dispatch is not None
    assert (dispatch.by, dispatch.executor) == ("rule:a", "fake-inproc")
    assert told(workspace, "gh-acme_shop-8") == ["task_created"]
    assert call(workspace, "dispatch_pending", include_outside=True, **FAKES).name == "Dispatched"
    assert "task_dispatched" in told(workspace, "gh-acme_shop-8")


def test_a_rule_starts_a_task_as_a_run(workspace: Workspace, on_prefect: PrefectServer) -> None:
    write_rule(workspace, RULE)
    workspace.store.deliver(github.read("issues", "d-7", builders.issue_payload()))
    assert call(workspace, "auto_dispatch", task_id=GH).name == "NeedsReview"
    assert call(workspace, "auto_dispatch", task_id=GH).name == "NeedsReview"
    assert told(workspace, GH).count("task_dispatched") == 1


def test_the_dispatcher_starts_it_as_a_run_named_after_the_task(tmp_path: Path, prefect_server: PrefectServer) -> None:
    url = prefect_server.api_url
    workspace = Workspace.open(settings_for(tmp_path, prefect_api_url=url))
    write_rule(workspace, RULE)
    with dispatcher(tmp_path, PREFECT_API_URL=url):
        workspace.store.deliver(github.read("issues", "d-7", builders.issue_payload()))
        until_stage(workspace, GH, "needs_review")
        until(lambda: runs(url, tmp_path) == {f"{GH} #1": "NeedsReview"})
    assert told(workspace, GH).count("task_dispatched") == 1
    workspace.store.close()


def write_rule(workspace: Workspace, text: str) -> None:
    path = workspace.home / FILE
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    os.utime(path, (1, 1))
