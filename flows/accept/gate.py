"""Truth and gate: what stands in the file is what the log says, and nothing passes that no person let through."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import Final

import orjson

from audit.segments import ACTIVE
from audit.stamp import rfc3339
from audit.verify import verify
from flows.accept.ground import ACTOR, Broken, Checks, Ground, Look, expect, expect_refusal, told
from flows.load.prepare import EXECUTOR, REVIEWER, dispatch_for, to_gate
from ssot import replay
from ssot.counted import counted
from ssot.store import Refused

_DELIVERIES: Final = ("github", "xcode", "telegram")
_MENDED_S: Final = 5.0


def checks(on: Ground) -> Checks:
    """Every check of the module, in order; the last two look at all that the others left."""
    yield "a task file dropped by hand is taken over and logged", lambda: _dropped(on)
    yield "ten reads in a row give the same bytes, and 304 to who knows them", lambda: _same_bytes(on)
    yield "nobody decides without a token", lambda: _stranger(on)
    yield "a viewer decides nothing", lambda: _viewer(on)
    yield "a task that was not reviewed cannot be approved", lambda: _too_early(on)
    yield "a status written into the file by hand approves nothing", lambda: _by_hand(on)
    yield "who executed or reviewed does not decide", lambda: _own_work(on)
    yield "a decision about something else than what stands is refused", lambda: _stale(on)
    yield "an approval is one event, readable at once", lambda: _approved(on)
    yield "an approved task takes no second decision", lambda: _twice(on)
    yield "the same idempotency key gives the first answer again", lambda: _idempotent(on)
    yield "a rejection needs a reason", lambda: _no_reason(on)
    yield "three rejections lock a task until a person unlocks it", lambda: _locked(on)
    yield "a webhook without its secret is closed", lambda: _not_configured(on)
    yield "the log verifies, and replaying it gives the task files byte for byte", lambda: _replayed(on)
    yield "a byte changed in the log is found", lambda: _tampered(on)


def _dropped(on: Ground) -> str:
    task = {"task_id": "by-hand", "source": "manual", "request_text": "Say hello.", "created_at": rfc3339(time.time())}
    on.store.tasks_folder.mkdir(parents=True, exist_ok=True)
    temporary = on.store.tasks_folder / ".by-hand.tmp"
    temporary.write_bytes(orjson.dumps(task))
    temporary.rename(on.store.tasks_folder / "by-hand.json")
    event = on.event("task_adopted", "by-hand")
    found = orjson.loads(on.document("by-hand"))
    expect(found["seq"] == event.seq, f"the document says seq {found['seq']}, the log {event.seq}")
    return f"seq {event.seq}: task_adopted; the API shows it as {found['status']}"


def _same_bytes(on: Ground) -> str:
    task_id = on.at_gate("read-often")
    first = on.client.get(f"/api/tasks/{task_id}")
    others = {on.client.get(f"/api/tasks/{task_id}").content for _ in range(9)}
    expect(others == {first.content}, f"{len(others | {first.content})} different answers in ten reads")
    again = on.client.get(f"/api/tasks/{task_id}", headers={"If-None-Match": first.headers["ETag"]})
    expect(again.status_code == 304, f"its own ETag was answered with {told(again)}")
    return f"{len(first.content):,} bytes, ten times the same; 304 to {first.headers['ETag'][:20]}"


def _stranger(on: Ground) -> str:
    before = _untouched(on, on.at_gate("stranger"))
    said = expect_refusal(on.decide("stranger", "approve", by=""), 401, "unauthenticated")
    return f"{said}; {before()}"


def _viewer(on: Ground) -> str:
    before = _untouched(on, on.at_gate("viewer"))
    said = expect_refusal(on.decide("viewer", "approve", by="victor", role="viewer"), 403, "forbidden")
    return f"{said}; {before()}"


def _too_early(on: Ground) -> str:
    before = _untouched(on, on.task("too-early"))
    since = on.last_seq()
    answer = on.decide("too-early", "approve")
    said = expect_refusal(answer, 409, "invalid_transition")
    expect("pending" in answer.json()["detail"], f"the refusal does not name the state: {answer.json()['detail']}")
    event = on.event("move_refused", "too-early", since)
    return f"{said}; seq {event.seq}: move_refused; {before()}"


def _by_hand(on: Ground) -> str:
    path = on.store.tasks_folder / f"{on.at_gate('forged')}.json"
    before, since = path.read_bytes(), on.last_seq()
    path.write_bytes(before.replace(b'"status": "needs_review"', b'"status": "approved"'))
    until = time.monotonic() + _MENDED_S
    while path.read_bytes() != before and time.monotonic() < until:
        time.sleep(0.02)
    expect(path.read_bytes() == before, f"the file was not put right within {_MENDED_S:g} s")
    status = orjson.loads(on.document("forged"))["status"]
    found = [f"seq {one.seq}: {one.type}" for one in on.events(subject="forged", after=since)]
    expect(status == "needs_review" and "task_approved" not in str(found), f"it stands as {status}; {', '.join(found)}")
    return f"the file says needs_review again, as the API does; {', '.join(found) or 'nothing of it in the log'}"


def _own_work(on: Ground) -> str:
    before = _untouched(on, on.at_gate("own-work"))
    since = on.last_seq()
    for name in (EXECUTOR, REVIEWER):
        expect_refusal(on.decide("own-work", "approve", by=name), 403, "self_approval")
    seqs = [one.seq for one in on.events("move_refused", "own-work", since)]
    expect(len(seqs) == 2, f"two refusals, but {len(seqs)} move_refused in the log")
    return f"403 self_approval to {EXECUTOR} and {REVIEWER}; seq {seqs[0]} and {seqs[1]}: move_refused; {before()}"


def _stale(on: Ground) -> str:
    before = _untouched(on, on.at_gate("stale"))
    body = {"review_digest": "sha256:" + "0" * 64}
    said = expect_refusal(on.decide("stale", "approve", body), 409, "stale_review")
    return f"{said}; {before()}"


def _approved(on: Ground) -> str:
    on.at_gate("approved")
    since = on.last_seq()
    digest = orjson.loads(on.document("approved"))["review_digest"]
    answer = on.decide("approved", "approve", {"reason": "Read.", "review_digest": digest})
    expect(answer.status_code == 200, f"the approval was answered with {told(answer)}")
    at_once = orjson.loads(on.document("approved"))
    found = on.events(subject="approved", after=since)
    types = [one.type for one in found]
    expect(types == ["task_approved"], f"its events are {', '.join(types) or 'none'}")
    expect((at_once["status"], at_once["seq"]) == ("approved", found[0].seq), "the next read did not show it")
    expect(found[0].actor == "alice", f"the log names {found[0].actor}")
    return f"seq {found[0].seq}: task_approved by alice, in the next read"


def _twice(on: Ground) -> str:
    on.at_gate("once")
    expect(on.decide("once", "approve").status_code == 200, "the first decision was not taken")
    before = _untouched(on, "once")
    expect_refusal(on.decide("once", "approve", by="bob"), 409, "invalid_transition")
    expect_refusal(on.decide("once", "reject", {"reason": "No."}, by="bob"), 409, "invalid_transition")
    return f"approve and reject: 409 invalid_transition; {before()}"


def _idempotent(on: Ground) -> str:
    on.at_gate("repeated")
    since = on.last_seq()
    key = {"Idempotency-Key": "one-decision"}
    first = on.decide("repeated", "reject", {"reason": "Not yet."}, **key)
    second = on.decide("repeated", "reject", {"reason": "Not yet."}, **key)
    expect(first.status_code == second.status_code == 200, f"answered {told(first)}, then {told(second)}")
    expect(first.content == second.content, "the second answer differs from the first")
    expect_refusal(on.decide("repeated", "reject", {"reason": "Never."}, **key), 422, "idempotency_mismatch")
    found = on.events("task_rejected", "repeated", since)
    expect(len(found) == 1, f"{len(found)} task_rejected in the log")
    return f"seq {found[0].seq}: task_rejected, once for two requests; another body: 422 idempotency_mismatch"


def _no_reason(on: Ground) -> str:
    before = _untouched(on, on.at_gate("no-reason"))
    answer = on.decide("no-reason", "reject", {})
    expect(answer.status_code == 422, f"answered {told(answer)}")
    return f"{told(answer)}; {before()}"


def _locked(on: Ground) -> str:
    most = on.settings.max_rejects
    on.at_gate("locked")
    for number in range(most):
        if number:
            expect(to_gate(on.store, [], ["locked"]) == ["locked"], f"attempt {number + 1} did not come to the gate")
        answer = on.decide("locked", "reject", {"reason": f"No, {number + 1}."})
        expect(answer.status_code == 200, f"rejection {number + 1} was answered with {told(answer)}")
        on.store.refresh()
    lock = on.event("reject_lock", "locked")
    try:
        on.store.commit("locked", dispatch_for(30.0), actor=ACTOR)
    except Refused as refused:
        expect(refused.code == "locked", f"the dispatch was refused with {refused.code}")
    else:
        raise Broken("a locked task was dispatched")
    expect(on.decide("locked", "unlock", {"reason": "Talked it over."}).status_code == 200, "it was not unlocked")
    free = on.event("task_unlocked", "locked")
    return f"seq {lock.seq}: reject_lock after {most}; a dispatch was refused; seq {free.seq}: task_unlocked"


def _not_configured(on: Ground) -> str:
    for name in _DELIVERIES:
        expect_refusal(on.post(f"/webhooks/{name}", {}), 503, "not_configured")
    return f"{', '.join(_DELIVERIES)}: 503 not_configured"


def _replayed(on: Ground) -> str:
    verified = verify(on.store.audit_folder)
    expect(verified.problem is None, f"the log does not verify: {verified.problem}")
    replayed = replay.check(on.settings.home)
    wrong = [*replayed.differing, *replayed.missing, *replayed.extra]
    expect(replayed.ok, f"replay: {replayed.problem or ', '.join(wrong)}")
    same = counted(replayed.tasks, "task file is the same", "task files are the same")
    return f"{counted(verified.events, 'event')} verified, up to seq {verified.last_seq}; {same}"


def _tampered(on: Ground) -> str:
    with tempfile.TemporaryDirectory(prefix="kircerta-copy-") as folder:
        copy = Path(folder) / "audit"
        shutil.copytree(on.store.audit_folder, copy)
        line = (copy / ACTIVE).read_bytes()
        at = line.index(b'"actor":"alice"') + len(b'"actor":"')
        (copy / ACTIVE).write_bytes(line[:at] + b"b" + line[at + 1 :])
        problem = verify(copy).problem
    expect(problem is not None, "a copy of the log with another actor verifies")
    return f"in a copy, one letter of an actor changed: {problem}"


def _untouched(on: Ground, task_id: str) -> Look:
    """Call it later: the task must be what it is now, byte for byte."""
    before, seq = on.document(task_id), on.last_seq()

    def look() -> str:
        expect(on.document(task_id) == before, f"{task_id} was changed by it")
        decided = [one.type for one in on.events(subject=task_id, after=seq) if one.type.startswith("task_")]
        expect(not decided, f"{task_id}: {', '.join(decided)} in the log")
        return "the task is the same, byte for byte"

    return look
