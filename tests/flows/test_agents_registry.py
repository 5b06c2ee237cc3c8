"""Names of agents and the workspace's own: what is not understood is refused, with what there is instead."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.agents.inproc_agent import InprocessAgent
from flows.agents.protocol import job_line
from flows.agents.registry import AgentConfig, Agents, BadAgentsFile, UnknownAgent, split_name
from flows.agents.remote_agent import RemoteAgent
from flows.agents.subprocess_agent import SubprocessAgent


def workspace(tmp_path: Path, text: str) -> Path:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "agents.toml").write_text(text)
    return tmp_path


def test_a_workspace_without_a_file_has_the_built_in_agents(tmp_path: Path) -> None:
    agents = Agents(tmp_path)
    assert agents.names("executor") == ("fake", "fake-inproc", "replay", "remote")
    assert isinstance(agents.executor("fake"), SubprocessAgent)
    assert isinstance(agents.executor("replay"), SubprocessAgent)
    assert isinstance(agents.reviewer("fake-inproc"), InprocessAgent)
    assert isinstance(agents.reviewer("remote"), RemoteAgent)


def test_who_executes_and_who_reviews_are_different_principals(tmp_path: Path) -> None:
    agents = Agents(tmp_path)
    for name in ("fake", "fake-inproc", "replay"):
        assert agents.executor(name).principal != agents.reviewer(name).principal
    assert agents.executor("fake").principal == agents.executor("fake-inproc").principal == "fake-executor"


def test_options_stand_in_the_name_and_the_name_stays_whole(tmp_path: Path) -> None:
    agent = Agents(tmp_path).executor("fake:mode=slow,seconds=2,timeout_s=9.5")
    assert agent.name == "fake:mode=slow,seconds=2,timeout_s=9.5"
    assert agent.options == {"mode": "slow", "seconds": "2"}
    assert agent.timeout_s == 9.5


def test_a_folder_of_recordings_is_taken_from_the_workspace(tmp_path: Path) -> None:
    agents = Agents(tmp_path)
    assert agents.executor("replay:dir=old").options == {"dir": str(tmp_path / "old")}
    assert agents.executor("replay:dir=/old,then=new").options == {"dir": "/old", "then": str(tmp_path / "new")}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("codex", "there is no executor 'codex'; there are fake, fake-inproc, replay, remote"),
        ("", "no agent's name"),
        ("-x", "no agent's name"),
        ("fake\n", "no agent's name"),
        ("fake;rm", "no agent's name"),
        ("f" * 201, "no agent's name"),
        ("fake:", "key=value"),
        ("fake:mode", "key=value"),
        ("fake:mode=ok,mode=ok", "each key once"),
        ("fake:mode=lazy", "has no mode 'lazy'; there are ok, no_ack"),
        ("fake:reject_first=1", "has no option 'reject_first'"),
        ("fake:timeout_s=0", "above 0"),
        ("fake:timeout_s=nan", "above 0"),
        ("remote:mode=ok", "has no option 'mode'"),
        ("replay:path=x", "has no option 'path'; there are dir, name, then, timeout_s"),
    ],
)
def test_a_name_that_is_no_agent_is_refused_with_those_that_are(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(UnknownAgent, match=message):
        Agents(tmp_path).executor(name)


@given(st.text(max_size=30))
def test_any_name_is_split_or_refused(name: str) -> None:
    try:
        base, options = split_name(name)
    except UnknownAgent:
        return
    assert name.startswith(base)
    assert all(f"{key}={value}" in name for key, value in options.items())


CONFIGURED = """
[executor.codex]
command = ["codex-adapter", "--json"]
principal = "codex"
timeout_s = 1800
cwd = "checkout"
env = { LOG_LEVEL = "info" }
pass_env = ["SOME_API_KEY", "NOT_THERE"]
options = { model = "large", tries = 2 }

[reviewer.strict]
command = ["review-it"]
principal = "strict"
"""


def test_the_file_adds_agents_each_in_its_role(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "k")
    agents = Agents(workspace(tmp_path, CONFIGURED))
    codex = agents.executor("codex:model=small")
    assert isinstance(codex, SubprocessAgent)
    assert codex.command == ("codex-adapter", "--json")
    assert (codex.principal, codex.timeout_s, codex.cwd) == ("codex", 1800, tmp_path / "checkout")
    assert codex.env == {"SOME_API_KEY": "k", "LOG_LEVEL": "info"}
    assert codex.options == {"model": "small", "tries": 2}
    assert agents.reviewer("strict").timeout_s == 3600
    with pytest.raises(UnknownAgent, match="there is no reviewer 'codex'"):
        agents.reviewer("codex")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[executor", "not TOML"),
        ("x = 1", "x: only"),
        ("executor = 3", "executor: only"),
        ("[planner.a]\ncommand = ['a']", "planner: only"),
        ("[executor.fake]\ncommand = ['a']\nprincipal = 'a'", "executor.fake: a name"),
        ("[executor.'a b']\ncommand = ['a']\nprincipal = 'a'", "executor.a b: a name"),
        ("[executor.a]\nprincipal = 'a'", "executor.a.command: Value error, the program is missing"),
        ("[executor.a]\ncommand = []\nprincipal = 'a'", "executor.a.command"),
        ("[executor.a]\ncommand = 'a b'\nprincipal = 'a'", "executor.a.command"),
        ("[executor.a]\ncommand = ['a']\nprincipal = 'A B'", "executor.a.principal"),
        ("[executor.a]\ncommand = ['a']\nprincipal = 'a'\ntimeout_s = -1", "executor.a.timeout_s"),
        ("[executor.a]\ncommand = ['a']\nprincipal = 'a'\ntimeout_s = inf", "executor.a.timeout_s"),
        ("[executor.a]\ncommand = ['a']\nprincipal = 'a'\nshell = true", "executor.a.shell: Extra"),
        ("[executor.a]\ncommand = ['a']\nprincipal = 'a'\nenv = {KIRCERTA_TOKEN = 'x'}", "executor.a.env"),
        ("[executor.a]\ncommand = ['a']\nprincipal = 'a'\npass_env = ['KIRCERTA_JWT_SECRET']", "kircerta's own"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_its_key(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(BadAgentsFile, match=message) as caught:
        Agents(workspace(tmp_path, text))
    assert str(tmp_path / "config" / "agents.toml") in str(caught.value)


def test_a_folder_in_the_place_of_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config" / "agents.toml").mkdir(parents=True)
    with pytest.raises(BadAgentsFile, match="cannot be read"):
        Agents(tmp_path)


def test_agents_can_be_added_from_code_in_both_roles(tmp_path: Path) -> None:
    said = """print('{"type":"heartbeat"}')"""
    config = AgentConfig(command=(sys.executable, "-c", said), principal="mine")
    agents = Agents(tmp_path, {"mine": config})
    assert agents.reviewer("mine").principal == "mine"
    told = job_line("dispatch", task_id="T", title="t", request_text="r", correlation_id="c", attempt=1, dispatch={})

    async def first() -> str:
        async with agents.executor("mine").open(told) as session:
            return (await session.next(20)).type

    assert asyncio.run(first()) == "heartbeat"
