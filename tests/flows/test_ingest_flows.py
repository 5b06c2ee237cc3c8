"""The ingest flows on a real Prefect server: named ends, no secret anywhere, runs that are stopped and gone on with."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from flows.server import PrefectServer
from flows.telegram import AlreadyPolling, only_poller
from flows.turn import only_one
from flows.workspace import Workspace, using
from ssot import replay
from tests import builders
from tests.api.running import server as api_server
from tests.flows import botserver, githubserver
from tests.flows.botserver import BotServer, bot_server
from tests.flows.conftest import Made, settings_for
from tests.flows.githubserver import GitHubServer, github_server
from tests.flows.test_dispatcher import deployment, process, until
from tests.flows.test_flows import asked

pytestmark = [pytest.mark.slow, pytest.mark.prefect]

DATA = Path(__file__).parents[3] / "shared" / "data" / "05_telegram_updates"
SECRET = "tele-gram_1"
HOOK = "octo-org/hello.world/12"
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture
def bot() -> Iterator[BotServer]:
    with bot_server() as running:
        yield running


@pytest.fixture
def github() -> Iterator[GitHubServer]:
    with github_server() as running:
        running.hooks["/repos/octo-org/hello.world/hooks/12"] = []
        yield running


def call(workspace: Workspace, name: str, **parameters: Any) -> Any:
    """Call a flow in this process; gives the state that its run ended in."""
    from flows import ingest

    async def run() -> Any:
        with using(workspace):
            return await getattr(ingest, name)(**parameters, return_state=True)

    return asyncio.run(run())


def for_bot(bot: BotServer, api_url: str = NOWHERE, token: str = botserver.TOKEN) -> dict[str, Any]:
    return {
        "telegram_token": SecretStr(token), "telegram_secret": SecretStr(SECRET), "telegram_api": bot.url,
        "api_url": api_url,
    }  # fmt: skip


def for_github(github: GitHubServer) -> dict[str, Any]:
    return {
        "github_token": SecretStr(githubserver.TOKEN), "github_api": github.url, "github_hooks": (HOOK,),
    }  # fmt: skip


def written_by(*homes: Path) -> bytes:
    """All bytes of all files in some folders."""
    return b"".join(path.read_bytes() for home in homes for path in home.rglob("*") if path.is_file())


def written_by_prefect(server: PrefectServer) -> bytes:
    """Its database and its logs: all that it knows of runs, their logs and their pages."""
    return written_by(server.log.parents[2])


# ------------------------------------------------------------------------------------------------ Telegram


def test_a_run_polls_for_its_time_and_says_what_became_of_the_updates(
    open_workspace: Made, on_prefect: PrefectServer, bot: BotServer, tmp_path: Path
) -> None:
    bot.put(*(builders.update_payload(f"do {n}", 50 + n, message_id=n // 2) for n in range(8)))
    bot.put(builders.update_payload(None, 90, message_id=99))
    with api_server(tmp_path, KIRCERTA_TELEGRAM_SECRET=SECRET) as (_, port):
        workspace = open_workspace(**for_bot(bot, f"http://127.0.0.1:{port}"))
        state = call(workspace, "poll_telegram", minutes=0.06)
    assert (state.name, state.type.value) == ("Polled", "COMPLETED")
    assert state.message == "9 updates handed over: 4 created, 4 duplicate, 1 ignored"
    assert bot.is_empty()
    pages = asked(on_prefect, "artifacts", artifacts={"key": {"any_": ["poll-telegram"]}})
    assert any("| created | 4 |" in page["data"] for page in pages)
    workspace.store.refresh()
    assert len(workspace.store.view.entries) == 4
    assert botserver.TOKEN.encode() not in written_by_prefect(on_prefect)


@pytest.mark.skipif(not DATA.exists(), reason="the shared data is not there")
def test_real_updates_become_tasks_once(
    open_workspace: Made, on_prefect: PrefectServer, bot: BotServer, tmp_path: Path
) -> None:
    real = [json.loads(path.read_bytes()) for path in sorted(DATA.glob("*.json"))]
    real = [one for one in real if isinstance(one, dict) and type(one.get("update_id")) is int]
    real = [{**one, "update_id": number} for number, one in enumerate(real, 1)]  # a queue has each id once
    made = {
        (message["chat"]["id"], message["message_id"])
        for one in real
        if (message := one.get("message") or one.get("channel_post"))
        and (message.get("text") or message.get("caption"))
    }
    bot.put(*real, *({**one, "update_id": 1000 + number} for number, one in enumerate(real)))
    with api_server(tmp_path, KIRCERTA_TELEGRAM_SECRET=SECRET) as (_, port):
        workspace = open_workspace(**for_bot(bot, f"http://127.0.0.1:{port}"))
        state = call(workspace, "poll_telegram", minutes=0.06)
    assert state.name == "Polled"
    assert state.message.startswith(f"{2 * len(real)} updates handed over: {len(made)} created")
    assert len(list((tmp_path / "ssot" / "tasks").glob("tg-*.json"))) == len(made) > 5
    assert replay.check(tmp_path).ok


@pytest.mark.parametrize(
    ("name", "kind", "answer"),
    [
        ("TakenElsewhere", "FAILED", (409, {"ok": False, "error_code": 409})),
        ("AskedToWait", "COMPLETED", (429, {"ok": False, "parameters": {"retry_after": 30}})),
        ("TelegramSilent", "FAILED", (502, {})),
        ("ApiSilent", "FAILED", None),
        ("TokenUnknown", "FAILED", (401, {"ok": False})),
    ],
)
def test_what_goes_wrong_is_the_name_of_the_state(
    open_workspace: Made, on_prefect: PrefectServer, bot: BotServer, name: str, kind: str, answer: Any
) -> None:
    bot.answers += [answer] * 20 if answer else []
    bot.put(builders.update_payload())
    state = call(open_workspace(**for_bot(bot)), "poll_telegram", minutes=0.03)
    assert (state.name, state.type.value) == (name, kind)
    assert not bot.is_empty()
    assert botserver.TOKEN not in state.message


def test_without_settings_and_beside_another_run_nothing_is_asked(
    open_workspace: Made, on_prefect: PrefectServer, bot: BotServer, github: GitHubServer, tmp_path: Path
) -> None:
    for missing in ("telegram_token", "telegram_secret"):
        state = call(open_workspace(**{**for_bot(bot), missing: None}), "poll_telegram", minutes=0.01)
        assert (state.name, f"KIRCERTA_{missing.upper()}" in state.message) == ("NotConfigured", True)
    for missing, nothing in (("github_token", None), ("github_hooks", ())):
        state = call(open_workspace(**{**for_github(github), missing: nothing}), "backfill_github")
        assert (state.name, f"KIRCERTA_{missing.upper()}" in state.message) == ("NotConfigured", True)
    with only_poller(tmp_path / "elsewhere", botserver.TOKEN), only_one(tmp_path, "github", githubserver.TOKEN):
        assert call(open_workspace(**for_bot(bot)), "poll_telegram", minutes=0.01).name == "AlreadyPolling"
        assert call(open_workspace(**for_github(github)), "backfill_github").name == "AlreadyAsking"
    assert bot.asked == github.asked == []


def test_a_run_waits_for_the_one_before_it(
    open_workspace: Made, on_prefect: PrefectServer, bot: BotServer, tmp_path: Path
) -> None:
    with ExitStack() as turn:
        turn.enter_context(only_poller(tmp_path, botserver.TOKEN))
        ending = threading.Timer(0.5, turn.close)
        ending.start()
        state = call(open_workspace(**for_bot(bot)), "poll_telegram", minutes=0.02)
        ending.join()
    assert (state.name, state.message) == ("Polled", "0 updates handed over")


# -------------------------------------------------------------------------------------------------- GitHub


def test_failed_deliveries_are_asked_for_and_shown(
    open_workspace: Made, on_prefect: PrefectServer, github: GitHubServer
) -> None:
    workspace = open_workspace(**for_github(github))
    assert call(workspace, "backfill_github").name == "NothingFailed"
    github.attempt("/repos/octo-org/hello.world/hooks/12", "guid-1", 502)
    github.attempt("/repos/octo-org/hello.world/hooks/12", "<b>guid</b>|2", 400)
    state = call(workspace, "backfill_github", limit=1, minutes=0.1)
    assert (state.name, state.message) == ("SomeLeft", "2 deliveries failed: 1 asked, 1 left over")
    state = call(workspace, "backfill_github", hooks=[HOOK])
    assert (state.name, state.type.value) == ("Asked", "COMPLETED")
    pages = asked(on_prefect, "artifacts", artifacts={"key": {"any_": ["backfill-github"]}})
    assert any("guid\\-1" in page["data"] and "left over" in page["data"] for page in pages)
    assert not any("<b>" in page["data"] for page in pages)
    assert githubserver.TOKEN.encode() not in written_by_prefect(on_prefect)


def test_the_forms_bound_what_can_be_asked_for(on_prefect: PrefectServer) -> None:
    from flows import ingest

    polls, asks = ingest.poll_telegram.parameters, ingest.backfill_github.parameters
    assert polls.required == asks.required == []
    assert polls.properties["minutes"]["default"] == 10
    assert "token" not in {*polls.properties, *asks.properties}
    assert all(one["description"] for one in (*polls.properties.values(), *asks.properties.values()))
    assert (asks.properties["hours"]["maximum"], asks.properties["limit"]["minimum"]) == (72, 1)
    assert asks.properties["hooks"]["anyOf"][0]["items"]["pattern"]


# -------------------------------------------------------------------------------------------------- served


def test_a_served_run_is_stopped_from_the_ui_and_with_its_server_and_another_goes_on(
    tmp_path: Path, on_prefect: PrefectServer, bot: BotServer
) -> None:
    """A cancelled run, then one whose server gets SIGTERM: each lets go of the bot; nothing is lost or doubled."""
    url, total = on_prefect.api_url, 9
    with api_server(tmp_path, KIRCERTA_TELEGRAM_SECRET=SECRET) as (_, port):
        given = {f"KIRCERTA_{name}": value for name, value in {
            "TELEGRAM_TOKEN": botserver.TOKEN, "TELEGRAM_SECRET": SECRET, "TELEGRAM_API": bot.url,
            "API_URL": f"http://127.0.0.1:{port}",
        }.items()}  # fmt: skip
        with process(tmp_path, "serve", "serve_deployments", PREFECT_API_URL=url, **given) as serving:
            until(lambda: deployment(url, tmp_path, "poll_telegram"))
            for number, stop in enumerate((cancelled, with_its_server)):
                bot.put(*(builders.update_payload("x", 700 * number + n, message_id=10 * number + n) for n in range(3)))
                run = started(url, tmp_path)
                until(bot.is_empty)
                assert is_taken(tmp_path)
                stop(url, run, serving.pid)
                until(lambda: not is_taken(tmp_path))
                until(lambda run=run: state_of(url, run) == "CANCELLED")
            assert serving.wait(10) == 0
        bot.put(*(builders.update_payload("x", 5 + n, message_id=20 + n) for n in range(3)))
        workspace = Workspace.open(settings_for(tmp_path, **for_bot(bot, f"http://127.0.0.1:{port}")))
        assert call(workspace, "poll_telegram", minutes=0.05).name == "Polled"
        workspace.store.refresh()
        assert len(workspace.store.view.entries) == total
        workspace.store.close()
    written = written_by(tmp_path) + written_by_prefect(on_prefect)
    assert b"poll_telegram" in written
    assert botserver.TOKEN.encode() not in written


def cancelled(url: str, run: str, serving: int) -> None:
    """What the UI's button does."""
    answer = httpx.post(f"{url}/flow_runs/{run}/set_state", json={"state": {"type": "CANCELLING"}})
    assert answer.status_code == 201


def with_its_server(url: str, run: str, serving: int) -> None:
    os.kill(serving, signal.SIGTERM)


def started(url: str, home: Path) -> str:
    """A run of the deployment, as a person starts it."""
    found: list[str] = []

    def is_made() -> bool:
        start = f"{url}/deployments/{deployment(url, home, 'poll_telegram')}/create_flow_run"
        answer = httpx.post(start, json={"parameters": {"minutes": 5}, "state": {"type": "SCHEDULED"}})
        found.extend([answer.json()["id"]] if answer.status_code == 201 else [])  # 503 while SQLite is locked
        return bool(found)

    until(is_made)
    return found[0]


def state_of(url: str, run: str) -> str:
    return str(httpx.get(f"{url}/flow_runs/{run}").json()["state_type"])


def is_taken(home: Path) -> bool:
    """Whether a poller has the bot."""
    try:
        with only_poller(home, botserver.TOKEN):
            return False
    except AlreadyPolling:
        return True
