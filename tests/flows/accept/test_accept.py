"""`kircerta accept`: what it says can be looked up, what it is promised it checks, and what it cannot see it says."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import orjson
import pytest

import reports
from audit.event import KINDS
from audit.reader import read_events
from audit.verify import verify
from flows.accept import agents, load, webhooks
from flows.accept.checklist import MODULES, _Found
from flows.accept.deployed import ModuleName
from flows.accept.ground import Broken, Checks, NotShown
from flows.agents import fake
from flows.load.runs import asked
from ssot import replay
from ssot.runs import RunRecord
from ssot.settings import Settings
from tests.api.running import ROOT, environment
from tests.ssot.test_retention import record, write


def accept(home: Path, *arguments: str) -> tuple[int, Any, str]:
    """Run the command in a process of its own; its exit code, its JSON, and what it said."""
    command = [sys.executable, "-m", "cli.main", "accept", "--json", *arguments]
    run = subprocess.run(command, cwd=ROOT, env=environment(home), capture_output=True, timeout=280, check=False)
    return run.returncode, orjson.loads(run.stdout) if run.stdout else None, run.stderr.decode()


def failing(found: Any) -> set[str]:
    return {check["name"] for module in found["modules"] for check in module["checks"] if not check["ok"]}


@pytest.mark.slow
def test_all_of_it_holds_and_every_seq_that_it_names_is_in_the_log_that_it_keeps(tmp_path: Path) -> None:
    code, found, error = accept(tmp_path)
    assert code == 0, (failing(found), error)
    assert [module["name"] for module in found["modules"]] == list(MODULES)
    assert found == orjson.loads((tmp_path / "reports" / "acceptance.json").read_bytes())
    assert found["not_run"] == []
    looked_up = 0
    for module in found["modules"]:
        kept = tmp_path / found["evidence"] / module["name"]
        types = {event.seq: event.type for event in read_events(kept / "audit", 0)}
        for check in module["checks"]:
            for seq, said in re.findall(r"seq (\d+): ([a-z_]+)", check["detail"]):
                if said in KINDS:
                    assert types[int(seq)] == said, check
                    looked_up += 1
        assert verify(kept / "audit").problem is None
        assert replay.check(kept).ok
    assert looked_up > 60
    assert [path.name for path in tmp_path.iterdir()] == ["reports"]  # neither a log nor a task of the user's own
    assert any(line.startswith(load.LONG) for line in found["modules"][-1]["not_shown"])
    assert reports.acceptance(tmp_path).ok
    assert "executor `no_ack`" in (tmp_path / "reports" / "acceptance.html").read_text()
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert not [name for name, secret in webhooks.SECRETS.items() if secret.encode() in written]


@pytest.mark.slow
def test_an_api_that_lets_everything_through_is_not_accepted(tmp_path: Path) -> None:
    server = f"{sys.executable} -m tests.flows.accept.lenient"
    modules = ("--module", "truth-and-gate", "--module", "webhooks")
    code, found, error = accept(tmp_path, *modules, "--no-page", "--api", server)
    assert code == 1, error
    assert not found["ok"]
    assert set(found["not_run"]) == {"stream", "agents", "load"}
    assert failing(found) >= {
        "nobody decides without a token",
        "a task that was not reviewed cannot be approved",
        "who executed or reviewed does not decide",
        "GitHub: a bad signature, no signature and a changed body write no task",
        "a webhook without its secret is closed",
    }
    assert "an approval is one event, readable at once" not in failing(found)


def test_an_api_that_does_not_start_is_not_accepted_and_what_it_said_is_told(tmp_path: Path) -> None:
    api = f"{sys.executable} -c 'raise SystemExit(\"no such build\")'"
    code, found, error = accept(tmp_path, "--module", "stream", "--no-page", "--api", api)
    assert code == 1, error
    (check,) = found["modules"][0]["checks"]
    assert (check["name"], check["ok"]) == ("its API starts", False)
    assert "no such build" in check["detail"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(["--module", "gates"], "it is one of"), (["--api", "'"], "--api"), (["--api", " "], "no command")],
)
def test_wrong_use_is_one_line_and_exit_code_2(tmp_path: Path, arguments: list[str], says: str) -> None:
    code, _, error = accept(tmp_path, *arguments)
    assert (code, error.count("\n")) == (2, 1)
    assert says in error
    assert not list(tmp_path.iterdir())


def test_every_mode_of_the_fakes_has_an_expected_end() -> None:
    assert set(agents.EXECUTORS) == set(fake.EXECUTOR_MODES)
    assert set(agents.REVIEWERS) == set(fake.REVIEWER_MODES)
    assert set(get_args(ModuleName)) == set(MODULES)


def test_a_check_that_breaks_does_not_stop_the_next_and_what_is_not_shown_counts_neither_way() -> None:
    def broken() -> str:
        raise Broken("expected 1, got 2")

    def unseen() -> str:
        raise NotShown("no browser")

    def checks() -> Checks:
        yield "first", broken
        yield "second", unseen
        yield "third", lambda: "done"
        raise RuntimeError("the rest")

    found = _Found("module", lambda line: None, [], [])
    found.take(checks())
    assert [(check.name, check.ok) for check in found.checks] == [
        ("first", False),
        ("third", True),
        ("its checks can be carried out", False),
    ]
    assert found.checks[-1].detail == "RuntimeError: the rest"
    assert found.not_shown == ["second: no browser"]


# ------------------------------------------------------------------------------------------ two hours


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    return Settings(home=tmp_path, _env_file=None)


def test_only_a_soak_of_two_hours_that_passed_counts_as_one(settings: Settings) -> None:
    write(settings.home, record(1, hours=1.9))
    write(settings.home, record(2, hours=2.0, outcome="invalid"))
    write(settings.home, record(3, hours=2.5, interrupted=True))
    write(settings.home, record(4, hours=2.5, kind="stress"))
    checks, (line,) = load.long_soak(settings)
    assert not checks
    assert line.startswith(load.LONG)
    assert f"{record(2).run_id} is invalid" in line
    write(settings.home, record(5, hours=2.0))
    write(settings.home, record(6, hours=2.0, outcome="fail"))
    (check,), not_shown = load.long_soak(settings)
    assert (check.ok, not_shown) == (True, [])
    assert record(5).run_id in check.detail
    assert f"later, {record(6).run_id} failed" in check.detail


def test_figures_of_an_invalid_run_are_not_shown_and_a_lost_decision_is_all_the_same(settings: Settings) -> None:
    bounds = asked(settings, "stress", None, {}).thresholds
    invalid = RunRecord.model_validate(
        {
            **record(1, kind="stress").model_dump(by_alias=True),
            "thresholds": [{"expression": str(one), "value": 9999.0, "ok": False} for one in bounds],
            "gates": [{"expression": "foreign_cpu<=0.1", "value": 0.5, "ok": False}],
        },
        strict=False,
    )
    with pytest.raises(NotShown, match=r"INVALID.*foreign_cpu<=0.1 \(was 0.5\)"):
        load._in_time(invalid)
    with pytest.raises(Broken, match=r"lost_decisions<1 \(was 9999\)"):
        load._nothing_lost(invalid)
    with pytest.raises(Broken, match=r"read_p95<200"):
        load._in_time(invalid.model_copy(update={"gates": ()}))
