"""Command-line agents behind their profiles: stand-ins that take the same arguments and print the same shapes."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

from flows.agents import profiles
from flows.agents.protocol import AgentFailed, Message, Silent, job_line
from flows.agents.registry import AgentConfig, Agents, BadAgentsFile, UnknownAgent
from flows.agents.signs import READERS, Alive, Broke, Ended
from flows.agents.tree import Tree, TreeFailed
from flows.here import run_here
from flows.pipeline import Order
from flows.workspace import Workspace
from ssot.diff import paths
from ssot.intents import Create
from ssot.task import AckBody, ResultBody, VerdictBody, parse_part
from tests.flows.conftest import CRITERIA as TOLD
from tests.flows.conftest import Made, add_task, told

STAND_INS = Path(__file__).parent / "stand_ins"
PROGRAMS = {"codex": "codex", "claude-code": "claude", "openclaw": "openclaw", "aider": "aider", "command": "plain"}
CRITERIA = [{"id": "AC-1", "text": "It greets."}, {"id": "AC-2", "text": 'It says "{name}" — exactly.'}]
ISSUE = {"issue_id": "IS-7", "criterion_ref": "AC-2", "op_refs": ["OP-1"], "severity": "major", "text": "no test"}
KEY = "sk-test-0123456789abcdef"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A git work tree with one commit and a file that is not committed yet."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    (folder / "README.md").write_text("# Greet\n")
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.invalid")
    for command in (("init", "-q"), ("add", "."), (*identity, "commit", "-qm", "begin")):
        subprocess.run(("git", *command), cwd=folder, check=True)
    (folder / "notes.txt").write_text("somebody's own\n")
    return folder


def packed(name: str, folder: Path) -> Path:
    """A stand-in as one file: whoever is shut in sees the file of its program, and not what lies beside it."""
    program = folder / f"{name}.pyz"
    with zipfile.ZipFile(program, "w") as archive:
        archive.write(STAND_INS / "acting.py", "acting.py")
        archive.write(STAND_INS / f"{name}.py", "__main__.py")
    return program


def configure(home: Path, profile: str, checkout: Path, mode: str = "", more: str = "") -> None:
    """Both roles behind a profile, with its stand-in on the path."""
    (home / "config").mkdir(exist_ok=True)
    program = json.dumps([sys.executable, "-I", str(packed(PROGRAMS[profile], home / "config"))])
    body = (
        f'profile = "{profile}"\ncommand = {program}\ncwd = "{checkout}"\n'
        f'env = {{ STAND_IN = "{mode}", CODEX_API_KEY = "{KEY}", OPENAI_API_KEY = "{KEY}" }}\n{more}'
    )
    text = f'[executor.it]\nprincipal = "it"\n{body}\n[reviewer.other]\nprincipal = "other"\n{body}\n'
    (home / "config" / "agents.toml").write_text(text)


def job(result: dict[str, Any] | None = None, issues: list[dict[str, Any]] | None = None) -> bytes:
    dispatch = {"dispatch_id": "d-1", "acceptance_criteria": CRITERIA, "scope": ["src/**"], "issues": issues or []}
    return job_line(
        "dispatch" if result is None else "review",
        task_id="T-1",
        title="Greet",
        request_text="Please greet.\n```json\n{}\n```\n",
        correlation_id="c-1",
        attempt=1,
        dispatch=dispatch,
        result=result,
    )


def hear(agents: Agents, name: str, told: bytes, timeout: float = 20) -> list[Any]:
    """What the agent says, heartbeats left out, and last how it ended where it ended badly."""

    async def listen() -> list[Any]:
        heard: list[Any] = []
        agent = agents.executor(name) if name.startswith("it") else agents.reviewer(name)
        async with agent.open(told) as session:
            while not heard or heard[-1].type not in ("result", "verdict"):
                try:
                    message = await session.next(timeout)
                except (Silent, AgentFailed) as end:
                    return [*heard, end]
                heard += [message] if message.type != "heartbeat" else []
        return heard

    return asyncio.run(listen())


def test_every_profile_has_a_stand_in() -> None:
    assert set(PROGRAMS) == set(profiles.BUILT_IN)


@pytest.mark.parametrize("profile", PROGRAMS)
def test_a_dispatch_becomes_an_echo_then_work_with_a_diff(profile: str, tmp_path: Path, checkout: Path) -> None:
    configure(tmp_path, profile, checkout)
    ack, result = hear(Agents(tmp_path), "it", job(issues=[ISSUE]))
    assert parse_part(AckBody, ack.part()).echo[1].text == CRITERIA[1]["text"]
    assert ack.body["issues"] == [ISSUE]
    whole = parse_part(ResultBody, result.part())
    assert (whole.outcome, whole.summary) == ("completed", "Greets, tested.")
    assert whole.diff_snapshot is not None
    assert paths(whole.diff_snapshot.text or "") == ("src/greet.py",)  # not notes.txt, and nothing of the program's own
    edits = [op for op in whole.work_log if op.action == "edit"]
    assert [(op.target, op.criterion_refs) for op in edits] == [("src/greet.py", ("AC-1", "AC-2"))]
    notes = [op.detail for op in whole.work_log if op.action == "note"]
    assert notes == ["AC-1 is met", "AC-2 is met"]


@pytest.mark.parametrize("profile", ["codex", "claude-code"])
def test_commands_are_in_the_work_log_with_their_exit_codes(profile: str, tmp_path: Path, checkout: Path) -> None:
    configure(tmp_path, profile, checkout)
    result = hear(Agents(tmp_path), "it", job())[-1]
    tests = [op for op in result.body["work_log"] if op["action"] == "test"]
    assert [op["exit_code"] for op in tests] == [1, 0]
    assert all(op["criterion_refs"] == ["AC-1", "AC-2"] for op in tests)
    assert "2 passed" in tests[1]["detail"]


def test_a_program_that_is_not_shut_in_keeps_its_own_sandbox() -> None:
    codex = profiles.BUILT_IN["codex"]
    assert "workspace-write" in codex.line("work", {})
    assert "danger-full-access" in codex.line("work", {}, shut_in=True)
    assert "read-only" in codex.line("echo", {}, shut_in=True)


def test_arguments_of_the_file_count_also_where_the_program_is_shut_in() -> None:
    config = AgentConfig(principal="it", profile="codex", work_args=("exec", "-"))
    own = config.as_profile()
    assert own is not None
    assert own.line("work", {}, shut_in=True) == ("codex", "exec", "-")
    assert "danger-full-access" in own.line("review", {}, shut_in=True)


def test_a_name_for_git_is_not_written_into_the_repository(tmp_path: Path, checkout: Path) -> None:
    before = (checkout / ".git" / "config").read_text()
    configure(tmp_path, "aider", checkout)
    file = tmp_path / "config" / "agents.toml"
    file.write_text(file.read_text().replace("env = {", f'env = {{ HOME = "{tmp_path}",'))
    assert hear(Agents(tmp_path), "it", job())[-1].type == "result"
    assert (checkout / ".git" / "config").read_text() == before


def test_a_failed_edit_is_no_edit(tmp_path: Path, checkout: Path) -> None:
    configure(tmp_path, "claude-code", checkout)
    log = hear(Agents(tmp_path), "it", job())[-1].body["work_log"]
    assert [(op["action"], op["target"]) for op in log if op["action"] in ("read", "edit")] == [
        ("read", "README.md"),
        ("edit", "src/greet.py"),
    ]


def test_the_repository_is_left_as_the_agent_left_it(tmp_path: Path, checkout: Path) -> None:
    before = subprocess.run(("git", "count-objects"), cwd=checkout, capture_output=True, check=True).stdout
    index = (checkout / ".git" / "index").read_bytes()
    configure(tmp_path, "codex", checkout)
    hear(Agents(tmp_path), "it", job())
    after = subprocess.run(("git", "count-objects"), cwd=checkout, capture_output=True, check=True).stdout
    assert (after, (checkout / ".git" / "index").read_bytes()) == (before, index)


@pytest.mark.parametrize("profile", PROGRAMS)
def test_a_reviewer_gives_its_verdict(profile: str, tmp_path: Path, checkout: Path) -> None:
    configure(tmp_path, profile, checkout)
    op = {"op_id": "OP-1", "action": "test", "target": "pytest", "detail": "2 passed", "exit_code": 0}
    good = {"outcome": "completed", "summary": "", "work_log": [op], "diff_snapshot": None}
    bad = {**good, "work_log": [{**op, "exit_code": 1}]}
    approved = parse_part(VerdictBody, hear(Agents(tmp_path), "other", job(good))[-1].part())
    rejected = parse_part(VerdictBody, hear(Agents(tmp_path), "other", job(bad))[-1].part())
    assert (approved.decision, rejected.decision) == ("approve", "reject")
    assert rejected.issues[0].op_refs == ("OP-1",)


# What goes wrong


def test_an_agent_that_never_echoes_is_asked_again_and_then_stays_silent(tmp_path: Path, checkout: Path) -> None:
    configure(tmp_path, "codex", checkout, "never_echo")
    (end,) = hear(Agents(tmp_path), "it", job(), timeout=1.5)
    assert isinstance(end, Silent)
    assert not (checkout / "src").exists()


@pytest.mark.parametrize(
    ("profile", "mode"), [("openclaw", "never_echo"), ("codex", ""), ("aider", ""), ("aider", "mute")]
)
def test_a_session_that_is_closed_leaves_no_prompt_behind(
    profile: str, mode: str, tmp_path: Path, checkout: Path
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    configure(tmp_path, profile, checkout, mode)
    file = tmp_path / "config" / "agents.toml"
    file.write_text(file.read_text().replace("env = {", f'env = {{ TMPDIR = "{scratch}",'))
    hear(Agents(tmp_path), "it", job(), timeout=1.0)
    assert list(scratch.iterdir()) == []


def test_an_agent_that_echoes_when_asked_again_goes_on(tmp_path: Path, checkout: Path) -> None:
    configure(tmp_path, "codex", checkout, "second_echo")
    assert [one.type for one in hear(Agents(tmp_path), "it", job())] == ["ack", "result"]


def test_a_wrong_echo_is_passed_on_and_no_work_begins(tmp_path: Path, checkout: Path) -> None:
    configure(tmp_path, "claude-code", checkout, "wrong_echo")
    *acks, end = hear(Agents(tmp_path), "it", job(), timeout=1.5)
    assert [one.body["echo"][0]["text"] for one in acks] == ["It greets. (roughly)"] * 3
    assert isinstance(end, Silent)
    assert not (checkout / "src").exists()


def test_an_agent_that_works_before_its_echo_is_stopped(tmp_path: Path, checkout: Path) -> None:
    configure(tmp_path, "codex", checkout, "early")
    (end,) = hear(Agents(tmp_path), "it", job())
    assert isinstance(end, AgentFailed)
    assert "changed src/early.py when it was only asked to repeat its task" in end.detail


@pytest.mark.parametrize(
    ("profile", "why"), [("codex", "401 Unauthorized"), ("claude-code", "Not logged in"), ("openclaw", "No API key")]
)
def test_a_program_that_breaks_says_why(profile: str, why: str, tmp_path: Path, checkout: Path) -> None:
    configure(tmp_path, profile, checkout, "broken")
    (end,) = hear(Agents(tmp_path), "it", job())
    assert isinstance(end, AgentFailed)
    assert why in end.detail


def test_a_connection_that_was_lost_and_found_again_breaks_nothing(tmp_path: Path, checkout: Path) -> None:
    configure(tmp_path, "codex", checkout, "reconnect")
    ack, result = hear(Agents(tmp_path), "it", job())
    assert (ack.type, result.body["outcome"]) == ("ack", "completed")


@pytest.mark.parametrize("status", ["error", "timeout"])
def test_an_answer_that_says_it_failed_is_none(status: str) -> None:
    error = {"message": "no model", "kind": "config"}
    said = json.dumps({"ok": False, "status": status, "payloads": [{"text": "half"}], "error": error})
    assert READERS["openclaw"]().take(said) == [Broke("no model"), Ended()]


def test_an_address_space_that_is_asked_for_in_the_file_counts(tmp_path: Path, checkout: Path) -> None:
    configure(tmp_path, "openclaw", checkout)
    roomy = Agents(tmp_path).config("executor", "it")
    configure(tmp_path, "openclaw", checkout, more="memory_bytes = 4096\n")
    narrow = Agents(tmp_path).config("executor", "it")
    assert roomy is not None
    assert narrow is not None
    assert (roomy.memory_bytes, narrow.memory_bytes) == (64 * 1024**3, 4096)


def test_why_a_model_is_asked_again_is_told() -> None:
    line = '{"type":"system","subtype":"api_retry","attempt":1,"error_status":401,"error":"authentication_failed"}'
    assert READERS["claude"]().take(line) == [Alive("system api_retry authentication_failed")]


def test_an_error_that_a_program_ended_on_is_why_it_broke() -> None:
    reader = READERS["codex"]()
    (sign,) = reader.take('{"type":"error","message":"Reconnecting... 1/5 (no route)"}')
    assert sign == Alive("Reconnecting... 1/5 (no route)")
    assert reader.end() == [Broke("Reconnecting... 1/5 (no route)")]


def test_a_run_without_an_answer_is_a_failed_result_with_what_was_seen(tmp_path: Path, checkout: Path) -> None:
    configure(tmp_path, "codex", checkout, "mute")
    result = hear(Agents(tmp_path), "it", job())[-1].body
    assert result["outcome"] == "failed"
    assert "All done." in result["summary"]
    assert {op["action"] for op in result["work_log"]} >= {"test", "edit"}


def test_a_program_that_does_not_end_after_its_answer_is_not_waited_for(tmp_path: Path, checkout: Path) -> None:
    configure(tmp_path, "openclaw", checkout, "linger")
    began = time.monotonic()
    assert [one.type for one in hear(Agents(tmp_path), "it", job())] == ["ack", "result"]
    assert time.monotonic() - began < 15


def test_a_key_that_the_agent_prints_does_not_come_out(tmp_path: Path, checkout: Path) -> None:
    configure(tmp_path, "codex", checkout)
    result: Message = hear(Agents(tmp_path), "it", job())[-1]
    assert KEY.encode() not in result.raw
    assert b"[CODEX_API_KEY]" in result.raw


def test_a_change_that_holds_a_key_is_not_handed_in(tmp_path: Path, checkout: Path) -> None:
    configure(tmp_path, "codex", checkout, "leak")
    ack, end = hear(Agents(tmp_path), "it", job())
    assert (ack.type, type(end)) == ("ack", AgentFailed)
    assert "holds the value of CODEX_API_KEY" in end.detail


def test_outside_of_a_repository_there_is_no_diff(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    configure(tmp_path, "codex", plain)
    result = hear(Agents(tmp_path), "it", job())[-1].body
    assert result["diff_snapshot"] is None
    assert [op["target"] for op in result["work_log"] if op["action"] == "edit"] == ["src/greet.py"]


def test_below_the_top_of_a_repository_paths_are_the_diffs(tmp_path: Path, checkout: Path) -> None:
    (checkout / "part").mkdir()
    configure(tmp_path, "claude-code", checkout / "part")
    result = hear(Agents(tmp_path), "it", job())[-1].body
    assert [(op["action"], op["target"]) for op in result["work_log"] if op["action"] in ("read", "edit")] == [
        ("read", "part/README.md"),
        ("edit", "part/src/greet.py"),
    ]
    assert paths(result["diff_snapshot"]["text"]) == ("part/src/greet.py",)


def test_what_kircerta_writes_in_its_workspace_is_nobodys_change(tmp_path: Path, checkout: Path) -> None:
    tree = Tree(checkout, tmp_path / "scratch")
    (checkout / ".kircerta").mkdir()
    ours = Tree(checkout, tmp_path / "again")
    (checkout / "audit").mkdir()
    (checkout / "audit" / "events.jsonl").write_text("{}\n")
    (checkout / "audit" / "log.py").write_text("\n")
    assert (tree.changed(), ours.changed()) == (["audit/events.jsonl", "audit/log.py"], ["audit/log.py"])


def test_a_change_that_is_not_utf_8_is_refused_and_not_mended(tmp_path: Path, checkout: Path) -> None:
    tree = Tree(checkout, tmp_path / "scratch")
    (checkout / "latin.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(TreeFailed, match="not UTF-8"):
        tree.diff()


@pytest.mark.parametrize(
    "line", ["", "null", "[1]", '{"type": 7}', '{"type":"item.completed","item":[]}', "[" * 10_000]
)
@pytest.mark.parametrize("reader", READERS)
def test_what_is_not_known_is_a_sign_of_life_and_nothing_more(reader: str, line: str) -> None:
    assert {type(sign) for sign in READERS[reader]().take(line)} == {Alive}


# Through the pipeline, and what may stand in the file


def test_the_pipeline_takes_a_profile_from_dispatch_to_the_gate(open_workspace: Made, checkout: Path) -> None:
    workspace = open_workspace(ack_timeout_s=20.0, execution_timeout_s=20.0, review_timeout_s=20.0)
    configure(workspace.home, "codex", checkout)
    task_id = add_task(workspace)
    (outcome,) = run_here(workspace, [task_id], Order("it", "other"))
    assert outcome.name == "NeedsReview"
    kinds = [kind for kind in told(workspace, task_id) if kind != "heartbeat"]
    assert kinds[1:] == ["task_dispatched", "ack_received", "result_received", "verdict_received"]


def test_the_pipeline_times_out_where_no_echo_comes(open_workspace: Made, checkout: Path) -> None:
    workspace = open_workspace(ack_timeout_s=2.0)
    configure(workspace.home, "codex", checkout, "never_echo")
    task_id = add_task(workspace)
    (outcome,) = run_here(workspace, [task_id], Order("it", "other"))
    assert outcome.name == "AckTimeout"
    assert "result_received" not in told(workspace, task_id)


def test_no_key_stands_in_the_arguments(tmp_path: Path, checkout: Path) -> None:
    configure(tmp_path, "codex", checkout)
    agent = Agents(tmp_path).executor("it")
    assert KEY not in " ".join(getattr(agent, "command"))  # noqa: B009 - of a subprocess agent, which the protocol hides


def test_options_become_arguments_and_never_anything_else(tmp_path: Path, checkout: Path) -> None:
    configure(tmp_path, "codex", checkout)
    agents = Agents(tmp_path)
    assert any('"--model", "o-large"' in word for word in getattr(agents.executor("it:model=o-large"), "command"))  # noqa: B009
    for name in ("it:model=--yolo", "it:sandbox=danger"):
        with pytest.raises(UnknownAgent):
            agents.executor(name)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ('profile = "codecs"', "there is no profile 'codecs'"),
        ('profile = "command"', "the program is missing"),
        ('command = ["x"]\nwork_args = ["y"]', "belong to a profile"),
        ('profile = "codex"\noptions = { colour = "red" }', "there is no option 'colour'"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(body: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "agents.toml").write_text(f'[executor.it]\nprincipal = "it"\n{body}\n')
    with pytest.raises(BadAgentsFile, match=why):
        Agents(tmp_path)


def placed(open_workspace: Made, profile: str, checkout: Path) -> Workspace:
    """A workspace with one task, T-1, whose agents get a place of their own."""
    workspace = open_workspace(ack_timeout_s=30.0, execution_timeout_s=30.0, review_timeout_s=30.0)
    configure(workspace.home, profile, checkout)
    (workspace.home / "config" / "projects.toml").write_text(f'[project.shop]\ncheckout = "{checkout}"\n')
    wish = Create("Greet.", acceptance_criteria=TOLD, scope=("src/**",), metadata={"project": "shop"})
    workspace.store.commit("T-1", wish, actor="alice")
    return workspace


@pytest.mark.parametrize("profile", PROGRAMS)
def test_in_a_place_of_its_own_the_result_holds_against_what_was_seen(
    profile: str, open_workspace: Made, checkout: Path
) -> None:
    workspace = placed(open_workspace, profile, checkout)
    (outcome,) = run_here(workspace, ["T-1"], Order("it", "other"))
    assert (outcome.name, outcome.detail) == ("NeedsReview", "")
    assert not (checkout / "src").exists()  # the work was done in the place, not here
    result = workspace.store.task("T-1").current.result  # type: ignore[union-attr]
    assert result is not None
    assert result.observed is not None
    assert result.diff_snapshot is not None
    assert paths(result.diff_snapshot.text or "") == ("src/greet.py",)


def test_in_a_place_of_its_own_a_folder_that_cannot_be_written_is_not_the_programs_home(
    open_workspace: Made, checkout: Path
) -> None:
    workspace = placed(open_workspace, "codex", checkout)
    file = workspace.home / "config" / "agents.toml"
    file.write_text(file.read_text().replace("env = {", f'env = {{ CODEX_HOME = "{STAND_INS}",'))
    (outcome,) = run_here(workspace, ["T-1"], Order("it", "other"))
    assert (outcome.name, outcome.detail) == ("NeedsReview", "")
