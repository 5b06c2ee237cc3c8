"""The fake agents and the adapters that run them: what they say arrives, what they start is gone."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest

from flows.agents import fake
from flows.agents.inproc_agent import InprocessAgent
from flows.agents.play import Crash, Move, Pause
from flows.agents.protocol import Agent, AgentFailed, Limits, Message, Silent, job_line, read_message
from flows.agents.registry import Agents
from flows.agents.remote_agent import RemoteAgent
from flows.agents.subprocess_agent import SubprocessAgent, environment
from ssot.diff import in_scope, parse, paths
from ssot.task import AckBody, ResultBody, VerdictBody, parse_part

ROOT = Path(__file__).parents[2]
CRITERIA = [{"id": "AC-1", "text": "It greets."}, {"id": "AC-2", "text": "It is tested."}]
ISSUE = {
    "issue_id": "IS-7",
    "criterion_ref": "AC-2",
    "op_refs": ["OP-1"],
    "severity": "major",
    "text": "no test",
}

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


def job(kind: str = "dispatch", *, options: dict[str, Any] | None = None, **changes: Any) -> bytes:
    dispatch = {
        "dispatch_id": "d-1",
        "acceptance_criteria": CRITERIA,
        "scope": ["src/**"],
        "issues": [],
        **{
            key: changes.pop(key) for key in ("dispatch_id", "acceptance_criteria", "scope", "issues") if key in changes
        },
    }
    return job_line(
        "review" if kind == "review" else "dispatch",
        task_id="T-1",
        title="Greet",
        request_text="Please greet.",
        correlation_id="c-1",
        attempt=changes.pop("attempt", 1),
        dispatch=dispatch,
        result=changes.pop("result", None),
        options=options,
    )


async def listen(agent: Agent, told: bytes, *, timeout: float = 20, most: int = 200) -> list[Any]:
    """Everything the agent says, and last how that ended: Silent, AgentFailed, or after its last word."""
    heard: list[Any] = []
    async with agent.open(told) as session:
        while len(heard) < most:
            try:
                heard.append(await session.next(timeout))
            except (Silent, AgentFailed) as end:
                return [*heard, end]
            if heard[-1].type in ("result", "verdict"):
                return heard
    return heard


def executor(mode: str = "ok", *, inproc: bool = False, **options: str) -> Agent:
    listed = ",".join(f"{key}={value}" for key, value in {"mode": mode, **options}.items())
    return Agents(ROOT).executor(f"fake{'-inproc' if inproc else ''}:{listed}")


def play(name: str, told: bytes = b"", *, timeout: float = 20, **options: str) -> list[Any]:
    agent = executor(name, **options)
    return run(listen(agent, told or job(options=dict(agent.options)), timeout=timeout))


def program(source: str, *arguments: str, limits: Limits | None = None, **env: str) -> SubprocessAgent:
    command = (sys.executable, "-I", "-S", "-c", textwrap.dedent(source), *arguments)
    return SubprocessAgent("program", "program", command, env=env, limits=limits or Limits(grace_s=0.3))


def processes(marker: str) -> list[int]:
    """Live processes (no zombies) with the marker as an argument; of a running agent, its keeper is one."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                if marker.encode() in (entry / "cmdline").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
            except OSError:
                continue
    return [pid for pid in found if pid != os.getpid()]


def eventually(holds: Callable[[], bool], within: float = 10) -> bool:
    deadline = time.monotonic() + within
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def types(heard: list[Any]) -> list[str]:
    return [one.type if isinstance(one, Message) else type(one).__name__ for one in heard]


# The fake executor, mode by mode, as the program it is


def test_the_fake_executor_repeats_its_dispatch_and_delivers_plausible_work() -> None:
    ack, result = play("ok", seed="7")
    assert ack.body["echo"] == [{"criterion_ref": one["id"], "text": one["text"]} for one in CRITERIA]
    assert (ack.body["scope"], ack.body["issues"]) == (["src/**"], [])
    diff, log = result.body["diff_snapshot"], result.body["work_log"]
    assert result.body["outcome"] == "completed"
    assert diff["sha256"] == hashlib.sha256(diff["text"].encode()).hexdigest()
    assert all(in_scope(path, ["src/**"]) for path in paths(diff["text"]))
    for criterion in CRITERIA:
        actions = {op["action"] for op in log if criterion["id"] in op["criterion_refs"]}
        assert {"edit", "test"} <= actions
    assert [op["op_id"] for op in log] == [f"OP-{number}" for number in range(1, len(log) + 1)]
    assert all(in_scope(op["target"], ["src/**"]) for op in log if op["action"] == "edit")


@pytest.mark.parametrize(
    ("mode", "heard"),
    [
        ("ok", ["ack", "result"]),
        ("wrong_echo", ["ack", "result"]),
        ("wrong_order", ["ack", "result"]),
        ("wrong_scope", ["ack", "result"]),
        ("wrong_issues", ["ack", "result"]),
        ("failing", ["ack", "result"]),
        ("out_of_scope", ["ack", "result"]),
        ("bad_diff", ["ack", "result"]),
        ("bad_sha", ["ack", "result"]),
        ("no_operations", ["ack", "result"]),
        ("dangling_refs", ["ack", "result"]),
        ("wrong_dispatch", ["ack", "result"]),
        ("fork", ["ack", "result"]),
        ("twice", ["ack", "ack", "result"]),
        ("late_ack", ["ack", "result"]),
        ("slow", ["ack", "heartbeat", "heartbeat", "heartbeat", "result"]),
        ("crash", ["ack", "heartbeat", "AgentFailed"]),
        ("crash_before_ack", ["AgentFailed"]),
        ("garbage", ["ack", "heartbeat", "AgentFailed"]),
    ],
)
def test_a_mode_says_what_it_is_there_for_in_both_adapters(mode: str, heard: list[str]) -> None:
    options = {"slow": {"seconds": "0.15", "beat": "0.05"}, "late_ack": {"delay": "0.05"}}.get(mode, {})
    told = job(options={"mode": mode, **options})
    outside = play(mode, told, **options)
    inside = run(listen(executor(mode, inproc=True, **options), told, timeout=5))
    assert types(outside) == heard == types(inside)
    assert _without_times(outside) == _without_times(inside)


def _without_times(heard: list[Any]) -> list[Any]:
    bodies = [json.loads(json.dumps(one.body)) for one in heard if isinstance(one, Message)]
    for body in bodies:
        for op in body.get("work_log", []):
            del op["at"]
    return bodies


@pytest.mark.parametrize("mode", ["no_ack", "silent"])
def test_a_silent_agent_is_noticed_in_time(mode: str) -> None:
    began = time.monotonic()
    heard = play(mode, timeout=1.0)
    assert types(heard)[-1] == "Silent"
    assert time.monotonic() - began < 5


def test_every_mode_is_played_somewhere_in_these_tests() -> None:
    text = Path(__file__).read_text()
    for mode in (*fake.EXECUTOR_MODES, *fake.REVIEWER_MODES):
        assert f'"{mode}"' in text, mode


def test_each_misbehaviour_is_the_one_it_is_named_after() -> None:
    def parts(mode: str, **changes: Any) -> tuple[Any, Any]:
        heard = play(mode, job(options={"mode": mode}, **changes))
        return heard[0].body, heard[-1].body

    right = [{"criterion_ref": one["id"], "text": one["text"]} for one in CRITERIA]
    ack, _ = parts("wrong_echo")
    assert [one["criterion_ref"] for one in ack["echo"]] == ["AC-1", "AC-2"]
    assert ack["echo"] != right
    assert parts("wrong_order")[0]["echo"] == right[::-1]
    assert parts("wrong_order", acceptance_criteria=CRITERIA[:1])[0]["echo"] != right[:1]
    assert parts("wrong_scope")[0]["scope"] != ["src/**"]
    assert parts("wrong_issues")[0]["issues"] != []
    assert parts("wrong_issues", issues=[ISSUE])[0]["issues"] != [ISSUE]
    assert parts("wrong_dispatch")[0]["dispatch_id"] != "d-1"
    assert parts("failing")[1]["outcome"] == "failed"
    assert parts("no_operations")[1]["work_log"] == []
    assert {ref for op in parts("dangling_refs")[1]["work_log"] for ref in op["criterion_refs"]} == {"AC-999"}
    diff = parts("bad_sha")[1]["diff_snapshot"]
    assert diff["sha256"] != hashlib.sha256(diff["text"].encode()).hexdigest()
    with pytest.raises(ValueError, match="line 1"):
        parse(parts("bad_diff")[1]["diff_snapshot"]["text"])


@pytest.mark.parametrize("scope", [["src/**"], [], ["**"], ["*.py"], ["a/b.py"], ["**/*.py", "docs/**"]])
def test_out_of_scope_is_outside_of_any_scope(scope: list[str]) -> None:
    heard = play("out_of_scope", job(options={"mode": "out_of_scope"}, scope=scope))
    touched = paths(heard[-1].body["diff_snapshot"]["text"])
    assert not any(in_scope(path, scope) for path in touched)


@pytest.mark.parametrize(
    "scope",
    [
        ["src/**"],
        ["src/"],
        ["*.py"],
        ["a/b.py"],
        ["**"],
        ["docs/*/x?.[mt]d"],
        ["**/test_*.py"],
        ["[!abc]"],
        ["./a/**/b/*"],
    ],
)
def test_the_delivered_diff_lies_inside_the_scope(scope: list[str]) -> None:
    agent = executor(inproc=True)
    result = run(listen(agent, job(scope=scope)))[-1]
    assert all(in_scope(path, scope) for path in paths(result.body["diff_snapshot"]["text"]))


def test_a_forwarded_issue_is_answered_by_an_operation_that_names_it() -> None:
    ack, result = play("ok", job(issues=[ISSUE], attempt=2))
    assert ack.body["issues"] == [ISSUE]
    assert any("IS-7" in op["detail"] and op["criterion_refs"] == ["AC-2"] for op in result.body["work_log"])


def test_the_same_seed_and_dispatch_give_the_same_work_and_another_dispatch_other_work() -> None:
    agent = executor(inproc=True)

    def work(**changes: Any) -> Any:
        return _without_times(run(listen(agent, job(options={"seed": 5}, **changes))))[-1]

    assert work() == work()
    assert len({json.dumps(work(dispatch_id=f"d-{number}")["diff_snapshot"]) for number in range(20)}) > 1


def test_the_scripts_start_quickly_and_explain_themselves() -> None:
    for name, modes in (("executor", fake.EXECUTOR_MODES), ("reviewer", fake.REVIEWER_MODES)):
        script = ROOT / "scripts" / "validation" / f"fake_{name}.py"
        told = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True, check=True)
        assert all(mode in told.stdout for mode in modes)
    listed = "import sys; sys.path.insert(0, sys.argv[1]); import flows.agents.fake; print(*sys.modules)"
    known = subprocess.run(
        [sys.executable, "-I", "-S", "-c", listed, ROOT], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"pydantic", "orjson", "asyncio", "prefect", "pathlib", "ssot.task"} & set(known)


def test_an_unknown_mode_ends_a_script_with_code_2_and_the_modes() -> None:
    agent = executor()
    (end,) = run(listen(agent, job(options={"mode": "lazy"})))
    assert isinstance(end, AgentFailed)
    assert (end.reason, end.exit_code) == ("exited", 2)
    assert "no mode 'lazy'" in end.detail


# The fake reviewer

RESULT = {
    "outcome": "completed",
    "work_log": [
        {"op_id": "OP-1", "action": "edit", "criterion_refs": ["AC-1"]},
        {"op_id": "OP-2", "action": "test", "criterion_refs": ["AC-2"]},
    ],
}


def verdict(mode: str = "ok", *, attempt: int = 1, result: Any = RESULT, **options: str) -> Any:
    listed = ",".join(f"{key}={value}" for key, value in {"mode": mode, **options}.items())
    agent = Agents(ROOT).reviewer(f"fake:{listed}")
    told = job("review", options=dict(agent.options), attempt=attempt, result=result)
    return run(listen(agent, told, timeout=1 if mode == "silent" else 20))[-1]


def test_the_fake_reviewer_approves_what_was_completed_and_rejects_what_failed() -> None:
    approved = verdict().body
    assert (approved["decision"], approved["issues"], approved["dispatch_id"]) == ("approve", [], "d-1")
    assert verdict(result={**RESULT, "outcome": "failed"}).body["decision"] == "reject"


def test_a_rejection_has_an_issue_for_each_criterion_pointing_at_real_operations() -> None:
    rejected = verdict("reject").body
    assert rejected["decision"] == "reject"
    assert [(one["criterion_ref"], one["op_refs"]) for one in rejected["issues"]] == [
        ("AC-1", ["OP-1"]),
        ("AC-2", ["OP-2"]),
    ]


def test_reject_first_rejects_that_many_attempts() -> None:
    decisions = [verdict(attempt=number, reject_first="2").body["decision"] for number in (1, 2, 3)]
    assert decisions == ["reject", "reject", "approve"]


def test_each_misbehaviour_of_a_reviewer_is_the_one_it_is_named_after() -> None:
    dangling = verdict("dangling_refs").body["issues"]
    assert {one["criterion_ref"] for one in dangling} == {"AC-999"}
    assert verdict("reject_without_issues").body["issues"] == []
    assert verdict("reject_without_issues").body["decision"] == "reject"
    mixed = verdict("approve_with_blocker").body
    assert mixed["decision"] == "approve"
    assert {one["severity"] for one in mixed["issues"]} == {"blocker"}
    assert verdict("wrong_dispatch").body["dispatch_id"] != "d-1"
    assert isinstance(verdict("silent"), Silent)
    assert verdict("crash").reason == "exited"
    assert verdict("garbage").reason == "garbage"


def test_what_the_fakes_say_fits_the_document() -> None:
    ack, result = play("ok", job(issues=[ISSUE]))
    assert parse_part(AckBody, ack.part()).dispatch_id == "d-1"
    assert parse_part(ResultBody, result.part()).outcome == "completed"
    for mode in ("ok", "reject", "dangling_refs", "approve_with_blocker"):
        assert parse_part(VerdictBody, verdict(mode).part()).dispatch_id == "d-1"


# What is bounded


def test_a_flood_of_messages_is_cut_off() -> None:
    heard = play("flood")
    assert heard[-1].reason == "too_much_output"
    assert sum(len(one.raw) for one in heard[:-1]) <= Limits().output_bytes


def test_a_line_without_an_end_is_cut_off() -> None:
    assert play("flood_line")[-1].reason == "too_much_output"


def test_stderr_is_drained_and_only_its_end_is_kept() -> None:
    agent = program("import sys; sys.stderr.write('x' * 2_000_000 + 'the end'); sys.exit(5)")
    (end,) = run(listen(agent, job()))
    assert (end.reason, end.exit_code) == ("exited", 5)
    assert end.detail.endswith("the end")
    assert len(end.detail) < 5000


def test_an_agent_that_never_reads_a_large_job_blocks_nobody() -> None:
    agent = program("""print('{"type":"heartbeat"}', flush=True); import time; time.sleep(60)""")
    large = job(options={"padding": "x" * 8_000_000})
    assert types(run(listen(agent, large, most=1))) == ["heartbeat"]


def test_the_job_arrives_whole_as_one_line() -> None:
    agent = program(
        """
        import json, sys
        lines = sys.stdin.buffer.readlines()
        print(json.dumps({"type": "heartbeat", "lines": len(lines), "job": json.loads(lines[0])}))
        """
    )
    told = job(options={"padding": "ä" * 100_000})
    (heard,) = run(listen(agent, told, most=1))
    assert heard.body["lines"] == 1
    assert heard.body["job"] == json.loads(told)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"[]", "one JSON object"),
        (b'{"type":"shout"}', "not one of"),
        (b'{"type":["ack"]}', "not one of"),
        (b"{}", "not one of"),
        (b'{"type":"ack","type":"ack"}', "twice"),
        (b'{"type":"ack","n":NaN}', "not valid JSON"),
        (b'{"type":"ack","n":' + b"[" * 80 + b"]" * 80 + b"}", "deeper"),
        (b'{"type":"ack","n":"\xff"}', "not valid JSON"),
        (b'{"type":"ack","n":"\\ud800"}', "not valid JSON"),
        (b'{"type":"ack"', "not valid JSON"),
    ],
)
def test_what_is_no_message_is_garbage(line: bytes, reason: str) -> None:
    with pytest.raises(AgentFailed, match=reason) as caught:
        read_message(line, Limits())
    assert caught.value.reason == "garbage"


def test_blank_lines_and_a_last_line_without_its_newline_are_fine() -> None:
    said = '\\n \\n{"type":"heartbeat"}\\r\\n\\n{"type":"ack"}'
    agent = program(f"import sys; sys.stdout.write('{said}')")
    assert types(run(listen(agent, job()))) == ["heartbeat", "ack", "AgentFailed"]


def test_silence_does_not_end_a_session_nor_lose_half_a_line() -> None:
    agent = program(
        """
        import sys, time
        print('{"type":"heart', end="", flush=True); time.sleep(1); print('beat"}', flush=True); time.sleep(60)
        """
    )

    async def patiently() -> Message:
        async with agent.open(job()) as session:
            with pytest.raises(Silent):
                await session.next(0.5)
            return await session.next(20)

    assert run(patiently()).type == "heartbeat"


def test_stdout_closed_by_a_program_that_runs_on_is_told_apart_from_its_end() -> None:
    agent = program("import os, time; os.close(1); time.sleep(60)")
    (end,) = run(listen(agent, job()))
    assert end.reason == "closed"


def test_a_program_that_cannot_be_started_says_so() -> None:
    missing = SubprocessAgent("gone", "gone", ("/does/not/exist",))
    (end,) = run(listen(missing, job()))
    assert "/does/not/exist: No such file" in end.detail
    nowhere = SubprocessAgent("gone", "gone", ("true",), cwd=Path("/does/not/exist"))
    with pytest.raises(AgentFailed, match="not_started"):
        run(listen(nowhere, job()))


def test_an_agent_killed_by_a_signal_is_reported_with_it() -> None:
    (end,) = run(listen(program("import os; os.kill(os.getpid(), 9)"), job()))
    assert "killed by signal 9" in end.detail


def test_secrets_and_settings_of_ours_never_reach_an_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIRCERTA_JWT_SECRET", "hush")
    monkeypatch.setenv("PREFECT_API_URL", "hush")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    agent = program(
        "import json, os; print(json.dumps({'type': 'heartbeat', 'env': dict(os.environ)}))",
        GREETING="hi",
        KIRCERTA_TOKEN="hush",
    )
    (heard,) = run(listen(agent, job(), most=1))
    assert "hush" not in heard.body["env"].values()
    assert heard.body["env"]["GREETING"] == "hi"
    assert heard.body["env"]["PATH"] == os.environ["PATH"]
    assert set(environment({})) <= set(os.environ)


# What is gone afterwards


@pytest.mark.parametrize("mode", ["silent", "fork", "flood", "flood_line", "slow", "ok"])
def test_nothing_of_an_agent_is_left_when_its_session_is_closed(mode: str) -> None:
    before, children = set(os.listdir("/proc/self/fd")), psutil.Process().children()
    told = job(options={"mode": mode}, dispatch_id=f"d-{mode}-{os.getpid()}")

    async def until_the_first_word() -> int:
        async with executor(mode).open(told) as session:
            await session.next(20)
            return session.pid  # type: ignore[attr-defined, no-any-return]

    began = time.monotonic()
    group = run(until_the_first_word())
    assert time.monotonic() - began < 5
    with pytest.raises(ProcessLookupError):
        os.killpg(group, 0)
    assert processes(f"left-behind-d-{mode}-{os.getpid()}") == []
    assert set(os.listdir("/proc/self/fd")) == before
    assert psutil.Process().children() == children, "not waited for"


def test_what_a_finished_agent_left_behind_is_killed_though_it_fled_the_group() -> None:
    marker = f"left-behind-d-flee-{os.getpid()}"
    heard = play("fork", job(options={"mode": "fork"}, dispatch_id=f"d-flee-{os.getpid()}"))
    assert types(heard) == ["ack", "result"]
    assert processes(marker) == []


STUBBORN = """
    import os, signal, sys, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for detached in (False, True):
        if os.fork() == 0:
            if detached:
                os.setsid()
            os.execv(sys.executable, [sys.executable, "-I", "-S", "-c", "import signal, time;"
                "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)", sys.argv[1]])
    print('{"type":"heartbeat"}', flush=True)
    time.sleep(600)
"""


def test_an_agent_that_ignores_sigterm_is_killed_with_its_children_after_the_grace() -> None:
    marker = f"stubborn-{os.getpid()}"

    async def briefly() -> int:
        async with program(STUBBORN, marker).open(job()) as session:
            await session.next(20)
            assert await asyncio.to_thread(eventually, lambda: len(processes(marker)) == 4)
            return 0

    began = time.monotonic()
    run(briefly())
    assert time.monotonic() - began < 8
    assert processes(marker) == []


def test_an_agent_gets_the_chance_to_tidy_up(tmp_path: Path) -> None:
    note = tmp_path / "tidied"
    agent = program(
        """
        import signal, sys, time
        def tidy(*_):
            open(sys.argv[1], "w").close(); sys.exit(0)
        signal.signal(signal.SIGTERM, tidy)
        print('{"type":"heartbeat"}', flush=True)
        time.sleep(600)
        """,
        str(note),
        limits=Limits(grace_s=5),
    )
    began = time.monotonic()
    assert types(run(listen(agent, job(), most=1))) == ["heartbeat"]
    assert note.exists()
    assert time.monotonic() - began < 4


def test_a_cancelled_session_leaves_nothing_either() -> None:
    marker = f"cancelled-{os.getpid()}"

    async def cancel() -> None:
        started = asyncio.Event()

        async def wait_for_ever() -> None:
            async with program(STUBBORN, marker).open(job()) as session:
                await session.next(20)
                started.set()
                await session.next(600)

        work = asyncio.create_task(wait_for_ever())
        await started.wait()
        work.cancel()
        await asyncio.sleep(0.05)
        work.cancel()  # once more, while it is closing
        with pytest.raises(asyncio.CancelledError):
            await work

    run(cancel())
    assert processes(marker) == []


def test_killing_kircerta_kills_its_agents_at_once() -> None:
    marker = f"orphan-{os.getpid()}"
    source = f"""
        import asyncio, sys
        sys.path.insert(0, {str(ROOT)!r})
        from flows.agents.subprocess_agent import SubprocessAgent
        command = (sys.executable, "-I", "-S", "-c", {textwrap.dedent(STUBBORN)!r}, {marker!r})
        agent = SubprocessAgent("a", "a", command)
        async def main():
            async with agent.open(b"{{}}") as session:
                await session.next(20)
                print("started", flush=True)
                await session.next(600)
        asyncio.run(main())
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(source)], stdout=subprocess.PIPE, text=True
    ) as kircerta:
        assert kircerta.stdout is not None
        assert kircerta.stdout.readline() == "started\n"
        assert eventually(lambda: len(processes(marker)) == 4)
        kircerta.send_signal(signal.SIGKILL)
    assert eventually(lambda: processes(marker) == [])


def test_many_sessions_at_once_keep_apart() -> None:
    async def all_of_them() -> list[list[Any]]:
        jobs = [job(dispatch_id=f"d-{number}") for number in range(12)]
        return await asyncio.gather(*(listen(executor(), told) for told in jobs))

    heard = run(all_of_them())
    assert [one[-1].body["dispatch_id"] for one in heard] == [f"d-{number}" for number in range(12)]


# In this process, and nowhere


def test_an_agent_in_this_process_keeps_its_pauses_across_silences() -> None:
    def slowly(_: Any) -> Iterator[Move]:
        yield Pause(0.2)
        yield {"type": "heartbeat"}
        yield Crash(4, "tired\n")

    async def patiently() -> tuple[int, AgentFailed]:
        silences = 0
        async with InprocessAgent("p", "p", slowly).open(job()) as session:
            while True:
                try:
                    assert (await session.next(0.05)).type == "heartbeat"
                    break
                except Silent:
                    silences += 1
            with pytest.raises(AgentFailed) as caught:
                await session.next(1)
        return silences, caught.value

    silences, end = run(patiently())
    assert silences >= 2
    assert (end.reason, end.exit_code, end.detail) == ("exited", 4, "exit code 4; stderr: tired")


def test_an_agent_in_this_process_is_bounded_and_checked_like_a_program() -> None:
    for mode, reason in (("flood", "too_much_output"), ("flood_line", "garbage"), ("garbage", "garbage")):
        heard = run(listen(executor(mode, inproc=True), job(options={"mode": mode})))
        assert heard[-1].reason == reason
    (end,) = run(listen(executor(inproc=True), job(options={"mode": "lazy"})))
    assert end.exit_code == 2


def test_a_remote_agent_is_never_started() -> None:
    agent = RemoteAgent()
    assert not agent.local
    with pytest.raises(AgentFailed, match="nothing to start"):
        agent.open(job())
    assert isinstance(agent, Agent)
    assert isinstance(executor(), Agent)
    assert isinstance(executor(inproc=True), Agent)
