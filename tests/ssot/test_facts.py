"""Claims against facts, without files or programs: what is refused, with which difference."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from ssot import intents
from ssot.facts import Facts, contradiction, with_diff
from ssot.observed import CommandRun, Isolation, Observed
from ssot.store import Refused
from ssot.task import AckBody, Criterion, Invalid, Operation, Result, ResultBody, parse_part, plain
from tests import builders
from tests.builders import EXECUTOR, REVIEWER, Walk, a_store

DIFF = builders.diff_text("src/a.py")


def ran(*command: str, exit_code: int | None = 0) -> CommandRun:
    return CommandRun(command=command, exit_code=exit_code, duration_ms=5, output_bytes=0, output_sha256="0" * 64)


def observed(*commands: CommandRun, changed: tuple[str, ...] = ("src/a.py",), **more: object) -> Observed:
    whole = {"isolation": Isolation(), "base": "b" * 40, "tree": "c" * 40, "changed": changed, "commands": commands}
    return Observed.model_validate({**whole, **more})


def body(*work_log: Operation) -> ResultBody:
    log = work_log or (builders.operation(1),)
    return ResultBody(dispatch_id="d-1", outcome="completed", work_log=log)


def a_test(number: int, target: str, exit_code: int | None = 0) -> Operation:
    return builders.operation(number, action="test", target=target, exit_code=exit_code)


@pytest.mark.parametrize(
    ("command", "target", "exit_code", "holds"),
    [
        (("pytest", "-q"), "pytest -q", 0, True),
        (("pytest", "-q"), "pytest   -q", 0, True),
        (("pytest", "a b"), "pytest 'a b'", 0, True),
        (("pytest -q && ls",), "pytest -q && ls", 0, True),
        (("pytest", "-q"), "pytest -q", None, True),
        (("pytest", "-q"), "pytest -q", 1, False),
        (("pytest", "-q"), "pytest", 0, False),
        (("pytest", "-q"), "", 0, False),
        (("echo", "it's"), "echo it's", 0, False),
    ],
)
def test_a_run_counts_where_the_same_command_ended_the_same_way(
    command: tuple[str, ...], target: str, exit_code: int | None, holds: bool
) -> None:
    claimed = body(builders.operation(1), a_test(2, target, exit_code))
    assert (contradiction(claimed, Facts(observed(ran(*command)), DIFF)) is None) == holds


def test_each_command_vouches_for_one_operation() -> None:
    twice = body(builders.operation(1), a_test(2, "make test"), a_test(3, "make test"))
    once = contradiction(twice, Facts(observed(ran("make", "test"))))
    assert once is not None
    assert once.difference["claimed"]["op_id"] == "OP-3"
    assert contradiction(twice, Facts(observed(ran("make", "test"), ran("make", "test")))) is None


def test_a_command_that_was_stopped_vouches_for_no_exit_code() -> None:
    stopped = ran("make", "test", exit_code=None).model_copy(update={"stopped": "time"})
    claimed = body(builders.operation(1), a_test(2, "make test", 0))
    assert contradiction(claimed, Facts(observed(stopped))) is not None


def test_what_could_not_be_read_is_never_taken() -> None:
    assert contradiction(body(), Facts(None, problem="the tree is gone")) is not None
    assert contradiction(body(), Facts(None)) is not None


def test_the_diff_that_stands_in_a_result_is_the_one_that_was_seen() -> None:
    told = with_diff(builders_body_with_other_diff(), Facts(observed(), DIFF))
    assert told.diff_snapshot is not None
    assert (told.diff_snapshot.text, told.diff_snapshot.base) == (DIFF, "b" * 40)
    assert with_diff(builders_body_with_other_diff(), Facts(observed(changed=()), "")).diff_snapshot is None


def builders_body_with_other_diff() -> ResultBody:
    return body().model_copy(update={"diff_snapshot": builders.snapshot(builders.diff_text("src/b.py"))})


# ------------------------------------------------------------------------------------------ in the store


@pytest.fixture
def walk(tmp_path: Path) -> Walk:
    found = Walk(a_store(tmp_path), "T-1")
    check = Criterion(id="AC-1", text="it greets", check=("sh", "-c", "true"))
    found.create(acceptance_criteria=(check, Criterion(id="AC-2", text="fast", check="make fast")), scope=("src/**",))
    found.dispatch()
    found.ack()
    return found


def test_a_result_that_holds_carries_what_was_observed_and_replays(walk: Walk) -> None:
    told = (builders.operation(1, criterion_refs=("AC-1", "AC-2")), a_test(2, "make test"))
    sent = builders.result_body(walk.task, work_log=told)
    walk.do(intents.SendResult(sent, Facts(observed(ran("make", "test")), DIFF)), EXECUTOR)
    result = walk.task.attempts[-1].result
    assert result is not None
    assert result.observed == observed(ran("make", "test"))
    document = orjson.loads(walk.store.document("T-1") or b"")
    assert document["attempts"][-1]["result"]["observed"]["commands"][0]["command"] == ["make", "test"]
    assert document["acceptance_criteria"][0]["check"] == ["sh", "-c", "true"]
    walk.store.close()
    again = a_store(walk.store.home)
    assert again.task("T-1") == walk.task
    again.close()


def test_a_result_that_does_not_hold_changes_nothing_and_the_event_tells_the_difference(walk: Walk) -> None:
    before = walk.store.document("T-1")
    false = Facts(observed(changed=("src/a.py", "src/b.py")), DIFF)
    with pytest.raises(Refused) as refused:
        walk.do(intents.SendResult(builders.result_body(walk.task), false), EXECUTOR)
    assert refused.value.code == "result_refused"
    assert refused.value.facts["unmentioned"] == ["src/b.py"]
    assert walk.store.document("T-1") == before


def test_the_scope_holds_for_what_was_seen_not_for_what_was_said(walk: Walk) -> None:
    elsewhere = builders.diff_text("etc/passwd")
    sent = builders.result_body(walk.task)
    with pytest.raises(Refused) as refused:
        walk.do(intents.SendResult(sent, Facts(observed(changed=("etc/passwd",)), elsewhere)), EXECUTOR)
    assert refused.value.code == "scope_violation"


def test_a_watched_executors_result_is_taken_only_with_the_facts(tmp_path: Path) -> None:
    walk = Walk(a_store(tmp_path), "T-2")
    walk.create()
    walk.dispatch()
    walk.do(intents.SendAck(builders.ack_body(walk.task), watched=True), EXECUTOR)
    assert walk.task.attempts[-1].ack.watched  # type: ignore[union-attr]
    with pytest.raises(Refused, match="place of ours"):
        walk.result()
    told = orjson.dumps({**plain(builders.ack_body(walk.task)), "watched": True})
    with pytest.raises(Invalid, match="watched"):
        parse_part(AckBody, told)


def test_a_verdict_over_a_changed_tree_is_refused(walk: Walk) -> None:
    walk.result()
    with pytest.raises(Refused) as refused:
        walk.do(intents.SendVerdict(builders.verdict_body(walk.task), mutated=("M src/a.py",)), REVIEWER)
    assert refused.value.code == "mutation_detected"
    assert walk.task.attempts[-1].verdict is None


def test_what_nobody_observed_leaves_no_trace_in_a_document() -> None:
    result = Result(dispatch_id="d", at="2026-01-31T09:00:00Z", by="x", outcome="completed")
    assert "observed" not in plain(result)
    assert "check" not in plain(Criterion(id="AC-1", text="x"))


@pytest.mark.parametrize("check", ['""', "[]", '"a\\u0000b"', "7", '["", "x"]'])
def test_a_check_is_a_command(check: str) -> None:
    raw = f'{{"id": "AC-1", "text": "x", "check": {check}}}'.encode()
    with pytest.raises(Invalid, match="check"):
        parse_part(Criterion, raw)
