"""Landing approved changes: real git, real cages, real kills."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from audit.reader import event_at
from flows.agents.workplace import FOLDER, pinned, remove_stale
from flows.branch import Change, bench_at
from flows.landing import BeingLanded, Landed, LandingRefused, NotAsked, _approved, _land, is_asked, land
from flows.server import PrefectServer
from flows.workspace import using
from ssot.claims import try_claim
from ssot.intents import Approve, Dispatch
from ssot.observed import CheckRun
from ssot.states import stage_of
from ssot.task import Criterion, review_digest
from tests import builders
from tests.flows.conftest import Made
from tests.flows.test_dispatcher import dispatcher, until, until_stage
from tests.flows.yard import HONEST, Yard, a_yard, git

BRANCH = "kircerta/approved"
ASKS = f'\n[project.shop.landing]\nbranch = "{BRANCH}"\nauthor = "Landing <landing@example.org>"\n'
EDIT_BOTH = 'write("src/a.py", "two\\n")\nwrite("new.txt", "new\\n")\n'


@pytest.fixture
def yard(open_workspace: Made, tmp_path: Path) -> Yard:
    """The yard's project asks for landing."""
    made = a_yard(open_workspace, tmp_path)
    asks(made)
    return made


def asks(yard: Yard, landing: str = ASKS) -> None:
    file = yard.home / "config" / "projects.toml"
    file.write_text(file.read_text() + landing)


def approved(yard: Yard, task_id: str = "T-1", **task: Any) -> str:
    yard.add(task_id, **task)
    assert yard.run(task_id).name == "NeedsReview", yard.refusals(task_id)
    standing = review_digest(yard.workspace.store.task(task_id))
    yard.workspace.store.commit(task_id, Approve("read", standing), actor="alice")
    return task_id


def landed(yard: Yard, task_id: str = "T-1") -> Landed:
    return asyncio.run(land(yard.workspace, task_id, "bob"))


def refused(yard: Yard, task_id: str = "T-1") -> LandingRefused:
    with pytest.raises(LandingRefused) as found:
        landed(yard, task_id)
    return found.value


def told(yard: Yard, type: str) -> list[dict[str, Any]]:
    return [event.data for event in builders.events(yard.home, type)]


def head(yard: Yard, branch: str = BRANCH) -> str:
    return git(yard.checkout, "for-each-ref", "--format=%(objectname)", f"refs/heads/{branch}")


def commit_elsewhere(yard: Yard, path: str, text: str) -> str:
    """Somebody's commit on the branch, made in another work tree that is gone again."""
    other = yard.checkout.parent / "other"
    if head(yard):
        git(yard.checkout, "worktree", "add", "--quiet", str(other), BRANCH)
    else:
        git(yard.checkout, "worktree", "add", "--quiet", "-b", BRANCH, str(other))
    (other / path).write_text(text)
    git(other, "add", ".")
    git(other, "commit", "--quiet", "--message", "somebody's")
    git(yard.checkout, "worktree", "remove", "--force", str(other))
    return head(yard)


# ------------------------------------------------------------------------------------------------ the straight way


def test_an_approved_change_is_one_commit_whose_trailers_lead_to_the_log(yard: Yard) -> None:
    approved(yard, check="sh check.sh")
    before = git(yard.checkout, "rev-parse", "HEAD")
    done = landed(yard)
    assert done.is_new
    assert head(yard) == done.commit
    assert git(yard.checkout, "rev-parse", f"{done.commit}^") == before
    assert git(yard.checkout, "show", f"{BRANCH}:src/a.py") == "two"
    assert git(yard.checkout, "log", "-1", "--format=%an <%ae>", BRANCH) == "Landing <landing@example.org>"
    trailers = git(yard.checkout, "log", "-1", "--format=%(trailers)", BRANCH).splitlines()
    said = dict(line.split(": ", 1) for line in trailers if line)
    snapshot = yard.result().diff_snapshot
    assert snapshot is not None
    approval = builders.events(yard.home, "task_approved")[0]
    assert said == {
        "Task": "T-1",
        "Attempt": "1",
        "Approved-by": "alice",
        "Review-Digest": review_digest(yard.workspace.store.task("T-1")),
        "Diff-Digest": f"sha256:{snapshot.sha256}",
        "Log-Position": f"{approval.seq} {approval.digest}",
    }
    found = event_at(yard.home / "audit", approval.seq)
    assert found is not None
    assert found.digest == approval.digest


def test_the_checkouts_own_tree_and_index_stay_as_they_are(yard: Yard) -> None:
    approved(yard)
    (yard.checkout / "src" / "a.py").write_text("mine\n")
    (yard.checkout / "old.txt").write_text("staged\n")
    git(yard.checkout, "add", "old.txt")
    before = git(yard.checkout, "status", "--porcelain"), git(yard.checkout, "rev-parse", "HEAD")
    landed(yard)
    assert (git(yard.checkout, "status", "--porcelain"), git(yard.checkout, "rev-parse", "HEAD")) == before
    assert (yard.checkout / "src" / "a.py").read_text() == "mine\n"


def test_the_event_says_which_commit_and_that_the_checks_passed(yard: Yard) -> None:
    approved(yard, check="sh check.sh")
    done = landed(yard)
    data = told(yard, "task_landed")[0]
    assert (data["commit"], data["branch"], data["attempt"]) == (done.commit, BRANCH, 1)
    assert [(one["criterion_ref"], one["exit_code"]) for one in data["checks"]] == [("AC-1", 0)]
    assert yard.workspace.store.task("T-1").status == "approved"


def test_landing_twice_says_the_first(yard: Yard) -> None:
    approved(yard)
    first = landed(yard)
    commit_elsewhere(yard, "later.txt", "later\n")
    again = landed(yard)
    assert (again.commit, again.is_new) == (first.commit, False)
    assert len(told(yard, "task_landed")) == 1


def test_changes_of_several_tasks_follow_one_another(yard: Yard) -> None:
    approved(yard, "T-1")
    yard.agents('write("new.txt", "new\\n")\nresult(op(1, "edit", "new.txt"))\n')
    approved(yard, "T-2")
    first, second = landed(yard, "T-1"), landed(yard, "T-2")
    assert git(yard.checkout, "rev-parse", f"{second.commit}^") == first.commit
    assert git(yard.checkout, "show", f"{BRANCH}:src/a.py") == "two"


# ------------------------------------------------------------------------------------------------------- refused


def test_a_project_that_does_not_ask_lands_nothing(open_workspace: Made, tmp_path: Path) -> None:
    yard = a_yard(open_workspace, tmp_path)
    approved(yard)
    with pytest.raises(NotAsked, match=r"\[project.shop.landing\]"):
        landed(yard)
    assert not is_asked(yard.workspace, yard.workspace.store.task("T-1"))
    assert not head(yard)


def test_what_is_not_approved_is_not_landed(yard: Yard) -> None:
    yard.add()
    yard.run()
    with pytest.raises(NotAsked, match="needs_review"):
        landed(yard)
    assert not head(yard)


def test_a_request_that_was_edited_after_its_approval_is_not_landed(yard: Yard) -> None:
    approved(yard)
    document = builders.read(yard.home, "T-1")
    builders.drop(yard.home, "T-1", {**document, "request_text": "Something else."})
    yard.workspace.store.scan()
    assert refused(yard).reason == "digest_differs"
    assert told(yard, "landing_refused")[0]["reason"] == "digest_differs"
    assert not head(yard)


def test_a_task_that_was_given_to_another_project_is_not_landed_there(yard: Yard) -> None:
    approved(yard)
    asks(yard, f'\n[project.other]\ncheckout = "{yard.checkout}"\n[project.other.landing]\nbranch = "theirs"\n')
    document = builders.read(yard.home, "T-1")
    builders.drop(yard.home, "T-1", {**document, "metadata": {"project": "other"}})
    yard.workspace.store.scan()
    assert refused(yard).reason == "other_project"
    assert not head(yard, "theirs")


def test_an_approval_without_the_servers_mark_is_not_landed(open_workspace: Made, tmp_path: Path) -> None:
    yard = a_yard(open_workspace, tmp_path, jwt_secret="a secret that is long enough for a key")
    asks(yard)
    yard.add("T-1")
    yard.run("T-1")
    forger = open_workspace()
    forger.store.commit("T-1", Approve("read"), actor="mallory")
    assert refused(yard).reason == "not_witnessed"
    approved(yard, "T-2")
    assert landed(yard, "T-2").is_new


def test_a_change_that_is_kept_beside_its_task_lands_too(yard: Yard) -> None:
    yard.agents('write("big.txt", "0123456789\\n" * 9000)\nresult(op(1, "edit", "big.txt"))\n')
    approved(yard)
    snapshot = yard.result().diff_snapshot
    assert snapshot is not None
    assert snapshot.blob is not None
    landed(yard)
    assert len(git(yard.checkout, "show", f"{BRANCH}:big.txt").splitlines()) == 9000


def test_a_conflict_is_told_and_nothing_is_forced(yard: Yard) -> None:
    approved(yard)
    stands = commit_elsewhere(yard, "src/a.py", "three\n")
    told_once = refused(yard)
    assert told_once.reason == "conflict"
    assert "src/a.py" in str(told_once)
    refused(yard)
    assert head(yard) == stands
    assert len(told(yard, "landing_refused")) == 1


def test_checks_have_to_pass_where_the_change_will_stand(yard: Yard) -> None:
    approved(yard, check="sh check.sh && test ! -e forbidden.txt")
    stands = commit_elsewhere(yard, "forbidden.txt", "there\n")
    assert refused(yard).reason == "checks_failed"
    data = told(yard, "landing_refused")[0]
    assert data["checks"][0]["exit_code"] == 1
    assert head(yard) == stands


def test_a_branch_that_is_checked_out_is_left_alone(yard: Yard) -> None:
    git(yard.checkout, "checkout", "--quiet", "-b", BRANCH)
    approved(yard)
    assert refused(yard).reason == "checked_out"
    git(yard.checkout, "checkout", "--quiet", "--detach")
    assert landed(yard).is_new


def test_a_branch_that_moves_while_the_checks_run_is_looked_at_anew(yard: Yard) -> None:
    """Somebody commits while the first check runs: the change lands behind that commit, checked once more."""
    approved(yard, check="sh check.sh && (test -e more.txt || sleep 1)")
    commit_elsewhere(yard, "theirs.txt", "theirs\n")

    async def meanwhile() -> tuple[Landed, str]:
        landing = asyncio.create_task(land(yard.workspace, "T-1", "bob"))
        while not list((yard.home / FOLDER).glob("*~landing/home/tmp")):
            await asyncio.sleep(0.005)
        newer = await asyncio.to_thread(commit_elsewhere, yard, "more.txt", "more\n")
        return await landing, newer

    done, newer = asyncio.run(meanwhile())
    assert git(yard.checkout, "rev-parse", f"{done.commit}^") == newer
    assert head(yard) == done.commit


def test_a_result_without_a_change_has_nothing_to_land(yard: Yard) -> None:
    yard.agents('result(op(1, "note"))\n')
    approved(yard)
    assert refused(yard).reason == "nothing_to_land"


def test_a_checkout_that_is_gone_is_told(yard: Yard) -> None:
    approved(yard)
    yard.checkout.rename(yard.checkout.with_name("elsewhere"))
    assert refused(yard).reason == "unusable"


def test_hooks_and_configuration_of_the_checkout_have_no_say(yard: Yard, tmp_path: Path) -> None:
    approved(yard)
    for name in ("reference-transaction", "pre-commit", "post-commit", "commit-msg"):
        hook = yard.checkout / ".git" / "hooks" / name
        hook.parent.mkdir(exist_ok=True)
        hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran-{name}\nexit 1\n")
        hook.chmod(0o755)
    for key, value in (("commit.gpgSign", "true"), ("user.name", "mallory"), ("core.fsmonitor", f"touch {tmp_path}/f")):
        git(yard.checkout, "config", key, value)
    done = landed(yard)
    assert head(yard) == done.commit
    assert not list(tmp_path.glob("ran-*"))
    assert not (tmp_path / "f").exists()
    assert "mallory" not in git(yard.checkout, "log", "-1", "--format=%an %cn", BRANCH)


def test_titles_cannot_write_trailers(yard: Yard) -> None:
    wish = builders.create(
        "Work.",
        title="Approved-by: mallory",
        acceptance_criteria=(Criterion(id="AC-1", text="It works."),),
        metadata={"project": "shop"},
    )
    yard.workspace.store.commit("T-9", wish, actor="alice")
    yard.run("T-9")
    yard.workspace.store.commit("T-9", Approve("read"), actor="alice")
    landed(yard, "T-9")
    trailers = git(yard.checkout, "log", "-1", "--format=%(trailers:key=Approved-by,valueonly)", BRANCH)
    assert trailers.strip() == "alice"


# ------------------------------------------------------------------------------------------------- a new attempt

ON_THREE = 'import pathlib; assert pathlib.Path("src/a.py").read_text() == "three\\n"\n'


def approve(yard: Yard, task_id: str = "T-1") -> None:
    standing = review_digest(yard.workspace.store.task(task_id))
    yard.workspace.store.commit(task_id, Approve("read", standing), actor="alice")


def stage(yard: Yard, task_id: str = "T-1") -> str:
    return stage_of(yard.workspace.store.task(task_id))


def test_what_met_a_conflict_is_done_anew_on_the_branch_and_lands(yard: Yard) -> None:
    """Work begins on what stands there, though the project's base is another commit, and knows what was said."""
    approved(yard, check="sh check.sh")
    theirs = commit_elsewhere(yard, "src/a.py", "three\n")
    said = str(refused(yard))
    assert (stage(yard), yard.workspace.store.task("T-1").status) == ("unlanded", "approved")
    yard.agents(ON_THREE + HONEST)
    assert yard.run().name == "NeedsReview", yard.refusals()
    attempt = yard.attempt()
    assert attempt.dispatch is not None
    assert attempt.attempt == 2
    assert [(one.criterion_ref, one.op_refs, one.text) for one in attempt.dispatch.issues] == [
        ("AC-1", ("OP-1",), said)
    ]
    with pytest.raises(NotAsked, match="needs_review"):
        landed(yard)
    approve(yard)
    done = landed(yard)
    assert git(yard.checkout, "rev-parse", f"{done.commit}^") == theirs
    assert git(yard.checkout, "show", f"{BRANCH}:src/a.py") == "two"


def test_a_check_that_fails_there_is_an_issue_with_the_end_of_its_output(yard: Yard) -> None:
    approved(yard, check="sh check.sh && if test -e forbidden.txt; then echo not with this; false; fi")
    stands = commit_elsewhere(yard, "forbidden.txt", "there\n")
    said = str(refused(yard))
    unlanded = yard.attempt().unlanded
    assert unlanded is not None
    assert (unlanded.reason, unlanded.branch, unlanded.parent) == ("checks_failed", BRANCH, stands)
    (issue,) = unlanded.issues
    assert issue.text is not None
    assert (issue.criterion_ref, issue.op_refs, issue.severity) == ("AC-1", ("OP-1",), "blocker")
    assert issue.text.startswith(said)
    assert "not with this" in issue.text


def test_what_says_nothing_of_the_work_asks_for_no_new_attempt(yard: Yard) -> None:
    git(yard.checkout, "checkout", "--quiet", "-b", BRANCH)
    approved(yard)
    assert refused(yard).reason == "checked_out"
    assert stage(yard) == "approved"
    unseen = CheckRun(
        criterion_ref="AC-1", command=("true",), exit_code=None, duration_ms=0, output_bytes=0, output_sha256="0" * 64,
        stopped="closed",
    )  # fmt: skip
    assert not LandingRefused("checks_failed", "there was no place for them", "1" * 40, [unseen]).needs_new_attempt


def test_what_lands_after_all_is_not_begun_again(yard: Yard) -> None:
    approved(yard)
    stands = commit_elsewhere(yard, "src/a.py", "three\n")
    refused(yard)
    git(yard.checkout, "update-ref", "-d", f"refs/heads/{BRANCH}", stands)
    assert landed(yard).is_new
    assert stage(yard) == "approved"
    assert yard.run().name == "Approved", "there is nothing to dispatch"
    assert [event.type for event in builders.events(yard.home)][-2:] == ["landing_resumed", "task_landed"]


def test_a_new_attempt_that_begins_while_the_old_one_is_landed_leaves_the_branch_alone(yard: Yard) -> None:
    """The conflict is gone and the checks run once more; before they end somebody dispatches the task again."""
    approved(yard, check="sh check.sh && sleep 1")
    stands = commit_elsewhere(yard, "src/a.py", "three\n")
    refused(yard)
    git(yard.checkout, "update-ref", "-d", f"refs/heads/{BRANCH}", stands)

    async def meanwhile() -> None:
        landing = asyncio.create_task(land(yard.workspace, "T-1", "bob"))
        while not list((yard.home / FOLDER).glob("*~landing/home/tmp")):
            await asyncio.sleep(0.005)
        await asyncio.to_thread(yard.workspace.store.commit, "T-1", Dispatch("d-next"), actor="alice")
        await landing

    with pytest.raises(NotAsked, match="another way"):
        asyncio.run(meanwhile())
    assert not head(yard)
    assert told(yard, "task_landed") == []
    assert stage(yard) == "dispatched"


def test_what_was_marked_while_a_landing_waited_for_its_turn_is_seen(yard: Yard) -> None:
    """Two are asked to land: the second read the task before the first one marked it."""
    approved(yard)
    stands = commit_elsewhere(yard, "src/a.py", "three\n")
    before = _approved(yard.workspace, "T-1")
    refused(yard)
    git(yard.checkout, "update-ref", "-d", f"refs/heads/{BRANCH}", stands)
    assert asyncio.run(_land(before, "bob")).is_new
    assert stage(yard) == "approved"


# --------------------------------------------------------------------------------------------- one at a time, killed


def test_an_attempt_is_landed_by_one_process_at_a_time(yard: Yard) -> None:
    approved(yard)
    dispatch = yard.attempt().dispatch
    assert dispatch is not None
    claim = try_claim(yard.home, dispatch.dispatch_id)
    assert claim is not None
    with claim, pytest.raises(BeingLanded):
        landed(yard)


LANDS = """
import asyncio, sys
from flows.landing import land
from flows.workspace import Workspace
from ssot.settings import load
workspace = Workspace.open(load(prefect_api_url=None))
print("ready", flush=True)
sys.stdin.readline()
asyncio.run(land(workspace, "T-1", "bob"))
"""


def test_a_kill_between_the_branch_and_the_log_is_made_good_by_the_next_run(yard: Yard) -> None:
    """The killed one moved the branch and waited for the log's lock, which was held all the time."""
    approved(yard)
    env = {**os.environ, "KIRCERTA_HOME": str(yard.home)}
    command = [sys.executable, "-c", LANDS]
    with subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        assert other.stdout.readline() == b"ready\n"
        with (yard.home / "audit" / ".lock").open("rb+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            other.stdin.write(b"\n")
            other.stdin.flush()
            deadline = time.monotonic() + 30
            while not head(yard):
                assert time.monotonic() < deadline
                assert other.poll() is None
            other.send_signal(signal.SIGKILL)
            other.wait()
    commit = head(yard)
    assert told(yard, "task_landed") == []
    remove_stale(yard.home)
    assert list((yard.home / FOLDER).iterdir()) == []
    done = landed(yard)
    assert (done.commit, done.is_new) == (commit, True)
    assert head(yard) == commit
    assert [one["commit"] for one in told(yard, "task_landed")] == [commit]


def test_a_commit_with_the_right_trailers_and_another_change_is_not_taken_for_it(yard: Yard, tmp_path: Path) -> None:
    approved(yard)
    done = landed(yard)
    message = git(yard.checkout, "log", "-1", "--format=%B", done.commit)
    tree = git(yard.checkout, "rev-parse", "HEAD^{tree}")
    forged = git(yard.checkout, "commit-tree", tree, "-p", "HEAD", "-m", message)
    git(yard.checkout, "update-ref", f"refs/heads/{BRANCH}", forged)
    title, _, trailers = message.strip().partition("\n\n")
    pairs = tuple((key, value) for key, _, value in (line.partition(": ") for line in trailers.splitlines()))
    text = yard.result().diff_snapshot.text or ""  # type: ignore[union-attr]
    change = Change(text, title, pairs, "n", "n@example.org", 0)
    with bench_at(yard.checkout, tmp_path, "bench-") as bench:
        assert bench.find(pinned(yard.checkout, BRANCH), None, change) is None
        assert bench.find(done.commit, None, change) == done.commit


# -------------------------------------------------------------------------------------------------- by itself


@pytest.mark.slow
def test_an_approval_is_landed_by_the_dispatcher(yard: Yard) -> None:
    yard.add()
    assert yard.run().name == "NeedsReview"
    with dispatcher(yard.home):
        yard.workspace.store.commit("T-1", Approve("read"), actor="alice")
        until(lambda: told(yard, "task_landed"))
    assert head(yard) == told(yard, "task_landed")[0]["commit"]
    assert builders.events(yard.home, "task_landed")[0].actor == "landing"


@pytest.mark.slow
def test_what_cannot_land_is_begun_again_by_the_dispatcher_and_lands(yard: Yard) -> None:
    yard.add()
    assert yard.run().name == "NeedsReview"
    theirs = commit_elsewhere(yard, "src/a.py", "three\n")
    with dispatcher(yard.home):
        approve(yard)
        until(lambda: told(yard, "landing_failed"))
        until(lambda: len(told(yard, "verdict_received")) == 2)
        until_stage(yard.workspace, "T-1", "needs_review")
        assert yard.attempt().attempt == 2
        approve(yard)
        until(lambda: told(yard, "task_landed"))
    done = told(yard, "task_landed")[0]
    assert (done["attempt"], done["parent"], done["commit"]) == (2, theirs, head(yard))


@pytest.mark.prefect
@pytest.mark.slow
def test_the_flow_says_how_it_ended(yard: Yard, on_prefect: PrefectServer) -> None:
    from flows.land_approved import land_approved

    def state() -> Any:
        with using(yard.workspace):
            return asyncio.run(land_approved("T-1", return_state=True))

    yard.add()
    yard.run()
    assert state().name == "NotAsked"
    yard.workspace.store.commit("T-1", Approve("read"), actor="alice")
    stands = commit_elsewhere(yard, "src/a.py", "three\n")
    assert (state().name, state().is_failed()) == ("Conflict", True)
    git(yard.checkout, "update-ref", "-d", f"refs/heads/{BRANCH}", stands)
    assert [state().name, state().name] == ["Landed", "LandedBefore"]
