"""Where agents work, and their claims against what was seen there. Real git, real cages, real programs."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
import tempfile
from pathlib import Path

import orjson
import pytest

from flows.agents.packets import in_packets
from flows.agents.workplace import FOLDER
from flows.exhibits import attempt_page
from ssot.task import Invalid, ResultBody, parse_part, review_digest
from tests.flows.conftest import Made
from tests.flows.test_cage import needs_namespaces
from tests.flows.yard import EDITS, EXECUTOR, HONEST, Yard, a_yard, git


@pytest.fixture
def yard(open_workspace: Made, tmp_path: Path) -> Yard:
    return a_yard(open_workspace, tmp_path)


# ------------------------------------------------------------------------------------------- what is there


def test_an_executor_works_in_its_own_tree_and_what_was_seen_stands_in_the_result(yard: Yard) -> None:
    yard.add()
    assert yard.run().name == "NeedsReview", yard.refusals()
    result = yard.result()
    assert result.observed is not None
    assert result.observed.base == git(yard.checkout, "rev-parse", "HEAD")
    assert result.observed.changed == ("src/a.py",)
    assert result.observed.isolation.limits["disk_bytes"] > 0
    assert result.diff_snapshot is not None
    assert result.diff_snapshot.base == result.observed.base
    assert "+two" in (result.diff_snapshot.text or "")
    assert (yard.checkout / "src" / "a.py").read_text() == "one\n"
    assert list((yard.home / FOLDER).iterdir()) == []


def test_what_was_seen_is_part_of_what_is_approved(yard: Yard) -> None:
    yard.add()
    yard.run()
    task = yard.workspace.store.task("T-1")
    other = yard.result().model_copy(update={"observed": None})
    without = task.model_copy(update={"attempts": (yard.attempt().model_copy(update={"result": other}),)})
    assert review_digest(task) != review_digest(without)


def test_nobody_can_send_what_was_observed(yard: Yard) -> None:
    yard.add()
    yard.run()
    told = orjson.dumps(yard.result().model_dump(mode="json"))
    with pytest.raises(Invalid, match="observed"):
        parse_part(ResultBody, told)
    yard.agents('say("result", outcome="completed", work_log=[op(1, "note")], observed={"base": "x"})\n')
    yard.add("T-2")
    assert yard.run("T-2").name == "ResultRefused"


def test_the_base_of_a_project_is_where_its_attempts_begin(yard: Yard) -> None:
    first = git(yard.checkout, "rev-parse", "HEAD")
    git(yard.checkout, "branch", "stable")
    (yard.checkout / "src" / "a.py").write_text("later\n")
    git(yard.checkout, "commit", "--quiet", "--all", "--message", "second")
    file = yard.home / "config" / "projects.toml"
    file.write_text(file.read_text() + 'base = "stable"\n')
    yard.add()
    yard.run()
    observed = yard.result().observed
    assert observed is not None
    assert observed.base == first


def test_a_program_of_the_workspace_is_found_though_it_is_not_in_the_tree(yard: Yard) -> None:
    (yard.home / "agents").mkdir()
    (yard.home / "agents" / "mine.py").write_text(EXECUTOR + HONEST)
    yard.agents()
    file = yard.home / "config" / "agents.toml"
    begin, reviewer = file.read_text().split("[reviewer.own]")
    own = f'command = ["{sys.executable}", "agents/mine.py"]'
    mine = "\n".join(own if line.startswith("command") else line for line in begin.splitlines())
    file.write_text(f"{mine}\n[reviewer.own]{reviewer}")
    yard.add()
    assert yard.run().name == "NeedsReview", yard.refusals()


def test_its_home_and_environment_are_its_own(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIRCERTA_JWT_SECRET", "x" * 40)
    monkeypatch.setenv("MY_TOKEN", "hidden")
    yard.agents(
        'write("src/a.py", json.dumps({**os.environ, "cwd": os.getcwd()}))\nresult(op(1, "edit", "src/a.py"))\n'
    )
    yard.add()
    yard.run()
    text = yard.result().diff_snapshot.text or ""  # type: ignore[union-attr]
    seen = json.loads(next(line[1:] for line in text.splitlines() if line.startswith("+{")))
    assert not {"KIRCERTA_JWT_SECRET", "MY_TOKEN"} & seen.keys()
    assert seen["HOME"].startswith(str(yard.home / FOLDER))
    assert seen["A"] == "1"
    assert seen["cwd"].endswith("~work/tree")


@needs_namespaces
def test_what_its_user_is_signed_in_with_cannot_be_read(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    signed_in = (".ssh/id", ".codex/auth.json", ".claude.json", ".claude/.credentials.json", ".openclaw/.env")
    with tempfile.TemporaryDirectory(dir="/var/tmp") as user:  # not in /tmp, of which it sees nothing anyway
        monkeypatch.setenv("HOME", user)
        for name in signed_in:
            (Path(user) / name).parent.mkdir(exist_ok=True)
            (Path(user) / name).write_text("a secret\n")
        paths = [f"{user}/{name}" for name in signed_in]
        reads = f"found = [path for path in {paths!r} if os.path.exists(path) and open(path).read()]\n"
        yard.agents(reads + 'write("src/a.py", f"{found}\\n")\nresult(op(1, "edit", "src/a.py"))\n')
        yard.add()
        yard.run()
    assert "+[]\n" in (yard.result().diff_snapshot.text or "")  # type: ignore[union-attr]


# --------------------------------------------------------------------------------------- claims against facts


@pytest.mark.parametrize(
    ("script", "told"),
    [
        pytest.param(
            EDITS + 'result(op(1, "edit", "src/a.py"), diff="--- a/src/a.py\\n+++ b/src/a.py\\n'
            '@@ -1 +1 @@\\n-one\\n+fine\\n")\n',
            {"differs": ["M src/a.py"]},
            id="a diff that differs",
        ),
        pytest.param(
            EDITS + 'write("src/b.py", "x")\nresult(op(1, "edit", "src/a.py"))\n',
            {"unmentioned": ["src/b.py"]},
            id="a file that is not mentioned",
        ),
        pytest.param(
            EDITS + 'result(op(1, "edit", "src/a.py"), op(2, "test", "sh check.sh", 0))\n',
            {"claimed": {"op_id": "OP-2", "command": "sh check.sh", "exit_code": 0}, "seen": []},
            id="a test that never ran",
        ),
        pytest.param(
            'run_for_me("sh", "check.sh")\n'
            + EDITS
            + 'result(op(1, "edit", "src/a.py"), op(2, "test", "sh check.sh", 0))\n',
            {"claimed": {"op_id": "OP-2", "command": "sh check.sh", "exit_code": 0}, "seen": [1]},
            id="a test that failed",
        ),
        pytest.param(
            EDITS + 'run_for_me("sh", "check.sh")\n'
            'result(op(1, "edit", "src/a.py"), op(2, "test", "sh check.sh", 0), op(3, "run", "sh check.sh", 0))\n',
            {"claimed": {"op_id": "OP-3", "command": "sh check.sh", "exit_code": 0}, "seen": [0]},
            id="a test that ran once and is told twice",
        ),
        pytest.param(
            EDITS + 'os.makedirs("vendor/.git")\nresult(op(1, "edit", "src/a.py"))\n',
            {"problem": "vendor has a .git of its own: what is in it would not show"},
            id="a repository inside",
        ),
    ],
)
def test_a_claim_that_the_facts_contradict_is_refused_with_the_difference(
    yard: Yard, script: str, told: dict[str, object]
) -> None:
    yard.agents(script)
    yard.add()
    assert yard.run().name == "ResultRefused"
    refused = yard.refusals()[0]
    assert refused["type"] == "result_refused"
    assert {key: refused[key] for key in told} == told


def test_a_corrected_result_is_taken(yard: Yard) -> None:
    yard.agents(EDITS + 'result(op(1, "note"))\n' + 'result(op(1, "edit", "src/a.py"))\n')
    yard.add()
    assert yard.run().name == "NeedsReview"
    assert [one["type"] for one in yard.refusals()] == ["result_refused"]


def test_the_agents_own_diff_is_taken_where_it_makes_the_same_tree(yard: Yard) -> None:
    diff = "--- a/src/a.py\\n+++ b/src/a.py\\n@@ -1,1 +1,1 @@ here\\n-one\\n+two"
    yard.agents(EDITS + f'result(op(1, "edit", "./src/a.py"), diff="{diff}")\n')
    yard.add()
    assert yard.run().name == "NeedsReview", yard.refusals()
    assert (yard.result().diff_snapshot.text or "").startswith("diff --git a/src/a.py")  # type: ignore[union-attr]


def test_a_path_outside_the_scope_is_seen_though_nothing_says_so(yard: Yard) -> None:
    yard.agents(EDITS + 'write("old.txt", "new")\nresult(op(1, "edit", "src/a.py"))\n')
    yard.add(scope=("src/**",))
    yard.run()
    assert yard.refusals()[0]["type"] == "scope_violation"
    assert yard.refusals()[0]["paths"] == ["old.txt"]


def test_a_command_is_run_for_the_agent_and_recorded_as_it_ended(yard: Yard) -> None:
    yard.agents(
        EDITS + 'done = run_for_me("sh", "check.sh")\n'
        'assert (done.returncode, done.stdout) == (0, "it works\\n"), done\n'
        'line = run_for_me("echo here; exit 3")\n'
        "assert line.returncode == 3, line\n"
        'result(op(1, "edit", "src/a.py"), op(2, "test", "sh  check.sh", 0), op(3, "run", "echo here; exit 3", 3))\n'
    )
    yard.add()
    assert yard.run().name == "NeedsReview", yard.refusals()
    observed = yard.result().observed
    assert observed is not None
    first, second = observed.commands
    assert (first.command, first.exit_code, first.tail) == (("sh", "check.sh"), 0, "it works\n")
    assert first.output_sha256 == hashlib.sha256(b"it works\n").hexdigest()
    assert (second.command, second.exit_code) == (("echo here; exit 3",), 3)


def test_an_agent_that_runs_its_commands_itself_is_told_apart(yard: Yard) -> None:
    script = EDITS + 'result(op(1, "edit", "src/a.py"), op(2, "test", "sh check.sh", 0))\n'
    yard.agents(script, commands="reported")
    yard.add()
    assert yard.run().name == "NeedsReview"
    assert yard.result().observed.commands_by == "agent"  # type: ignore[union-attr]


# ------------------------------------------------------------------------------------------------- checks


def test_a_check_runs_in_a_clean_place_with_the_diff_applied_and_is_evidence(yard: Yard) -> None:
    hidden = 'write(".git/info/exclude", "*\\n")\n'
    yard.agents(hidden + HONEST, 'verdict(str(job["result"]["observed"]["checks"][0]["exit_code"]))\n')
    yard.add("T-1", check="sh check.sh && ls -a && touch made")
    assert yard.run().name == "NeedsReview", yard.refusals()
    (check,) = yard.result().observed.checks  # type: ignore[union-attr]
    assert (check.criterion_ref, check.exit_code) == ("AC-1", 0)
    assert check.tail.startswith("it works")
    assert yard.attempt().verdict.summary == "0"  # type: ignore[union-attr]
    assert list((yard.home / FOLDER).iterdir()) == []


def test_the_evidence_stands_on_the_runs_page(yard: Yard) -> None:
    yard.agents(EDITS + 'run_for_me("echo", "<b>")\nresult(op(1, "edit", "src/a.py"))\n')
    yard.add("T-1", check="false")
    outcome = yard.run()
    page = attempt_page(yard.workspace.store.task("T-1"), outcome, "http://127.0.0.1:8000", None)
    assert "## Seen from outside" in page
    assert "| check of AC\\-1 | false | 1 |" in page
    assert "| run for the agent | echo \\<b\\> | 0 |" in page


def test_a_check_that_fails_judges_nothing(yard: Yard) -> None:
    yard.add("T-1", check=("false",))
    yard.add("T-2", check=("no-such-program",))
    assert [yard.run("T-1").name, yard.run("T-2").name] == ["NeedsReview", "NeedsReview"]
    assert yard.result("T-1").observed.checks[0].exit_code == 1  # type: ignore[union-attr]
    assert yard.result("T-2").observed.checks[0].exit_code == 127  # type: ignore[union-attr]


def test_a_check_that_takes_too_long_or_says_too_much_is_stopped(yard: Yard) -> None:
    yard.agents(command_timeout_s=2.0, output_bytes=100_000)
    yard.add("T-1", check="sleep 60 & sleep 60")
    yard.add("T-2", check="yes")
    yard.run("T-1")
    yard.run("T-2")
    slow, loud = (yard.result(one).observed.checks[0] for one in ("T-1", "T-2"))  # type: ignore[union-attr]
    assert (slow.stopped, slow.exit_code, loud.stopped) == ("time", None, "output")


def test_a_check_is_not_part_of_the_echo(yard: Yard) -> None:
    yard.add("T-1", check="true")
    assert yard.run().name == "NeedsReview"
    assert yard.attempt().dispatch.acceptance_criteria[0].check == "true"  # type: ignore[union-attr]


# ------------------------------------------------------------------------------------------------- review


def test_a_reviewer_reads_the_tree_with_the_diff_applied(yard: Yard) -> None:
    yard.agents(HONEST, 'verdict(open("src/a.py").read() + str(os.path.exists("old.txt")))\n')
    yard.add()
    yard.run()
    assert yard.attempt().verdict.summary == "two\nTrue"  # type: ignore[union-attr]


@needs_namespaces
def test_a_reviewer_cannot_write_in_the_tree(yard: Yard) -> None:
    yard.agents(
        HONEST, 'try:\n    open("src/a.py", "w")\n    verdict("written")\nexcept OSError as e:\n    verdict(str(e))\n'
    )
    yard.add()
    yard.run()
    assert "Read-only" in (yard.attempt().verdict.summary or "")  # type: ignore[union-attr]


def test_a_file_that_changes_under_review_is_found_and_the_verdict_refused(yard: Yard) -> None:
    waits = 'open(os.environ["HOME"] + "/ready", "w")\n'
    yard.agents(HONEST, waits + 'while not os.path.exists("planted"): time.sleep(0.02)\nverdict()\n')
    yard.add()

    async def change_meanwhile() -> None:
        while not (ready := list((yard.home / FOLDER).glob("*~review/home/ready"))):
            await asyncio.sleep(0.02)
        tree = ready[0].parents[1] / "tree"
        (tree / "src" / "a.py").write_text("as the reviewer likes it\n")
        (tree / "planted").write_text("")

    async def both() -> str:
        taken, _ = await asyncio.gather(yard.take(), change_meanwhile())
        return taken.name

    assert asyncio.run(both()) == "ReviewerFailed"
    refused = yard.refusals()[0]
    assert refused["type"] == "mutation_detected"
    assert refused["paths"] == ["A planted", "M src/a.py"]
    assert yard.attempt().verdict is None


def test_a_review_that_is_too_large_comes_in_packets_and_nothing_is_left_out(yard: Yard) -> None:
    writes = 'for n in range(40): write(f"src/{n}.txt", f"line of {n}\\n" * 200)\n'
    edits = 'result(*[op(n, "edit", f"src/{n}.txt") for n in range(40)])\n'
    reads = """
packets = job["packets"]
index = json.load(open(packets["folder"] + "/index.json"))
pieces = [piece for one in index["packets"] for piece in json.load(open(f"{index['folder']}/{one['file']}"))["pieces"]]
diff = "".join(piece["text"] for piece in pieces if piece["at"] == "/result/diff_snapshot/text")
import hashlib
verdict(f"{len(index['packets'])} {hashlib.sha256(diff.encode()).hexdigest()} {packets['warning']}")
"""
    yard.agents(writes + edits, reads, review_bytes=40_000)
    yard.add()
    assert yard.run().name == "NeedsReview", yard.refusals()
    count, digest, warning = (yard.attempt().verdict.summary or "").split(" ", 2)  # type: ignore[union-attr]
    assert int(count) > 2
    assert digest == yard.result().diff_snapshot.sha256  # type: ignore[union-attr]
    assert "nothing was left out" in warning


def test_packets_hold_every_piece_of_the_job_and_keep_their_size() -> None:
    text = "diff --git a/x b/x\n" + "ü\x01" * 9000 + "\n" + "line\n" * 3000
    job = {"kind": "review", "task_id": "T-1", "title": "t", "request_text": "r" * 9000, "correlation_id": "c"}
    job |= {"attempt": 1, "dispatch": {"dispatch_id": "d"}, "options": {}}
    job |= {"result": {"diff_snapshot": {"text": text}, "work_log": [{"op_id": str(n)} for n in range(900)]}}
    made = in_packets(orjson.dumps(job), 4096, "/folder")
    assert max(len(raw) for name, raw in made.files.items() if name != "index.json") <= 4096
    texts: dict[str, str] = {}
    values: dict[str, object] = {}
    for name in sorted(made.files):
        for piece in orjson.loads(made.files[name]).get("pieces", ()):
            if "text" in piece:
                texts[piece["at"]] = texts.get(piece["at"], "") + piece["text"]
            else:
                values[piece["at"]] = piece["value"]
    assert texts["/result/diff_snapshot/text"] == text
    assert texts["/request_text"] == "r" * 9000
    assert values["/result/work_log/899"] == {"op_id": "899"}
    assert len([at for at in values if at.startswith("/result/work_log/")]) == 900
