"""A workspace with a dozen tasks, one for each thing that can happen to a task: for screenshots and browser tests."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from audit.event import Draft
from audit.stamp import Clock, random_id, rfc3339
from ssot.intents import (
    Approve,
    Create,
    Dispatch,
    EndAttempt,
    Intent,
    Reject,
    SendAck,
    SendHeartbeat,
    SendResult,
    SendVerdict,
    Unlock,
    WarnOfSilence,
)
from ssot.rules import Policy
from ssot.store import Refused, Store, StoreSettings
from ssot.task import AckBody, Criterion, DiffSnapshot, Echo, Issue, Operation, ResultBody, Source, VerdictBody

PROJECTS = """\
[project.billing]
title = "Billing"
executor = "codex"
reviewer = "claude"
scope = ["billing/**"]
[project.billing.policy]
quorum = 2
approvers = ["alice", "bob", "carol"]
four_eyes = true
decision_deadline_s = 86400
reminders_s = [3600]

[project.workers]
title = "Workers"
executor = "codex"
reviewer = "claude"
[project.workers.policy]
decision_deadline_s = 60

[project.web]
repositories = ["acme/*"]
executor = "openclaw"
reviewer = "claude"
[[project.web.auto_dispatch]]
source = "github"
labels = ["agent"]
"""
PROJECT_OF = {"mypy-strict": "billing", "retry-after": "billing", "lease-renewal": "workers", "flaky-upload": "workers"}

EXECUTOR, REVIEWER, APPROVER = "codex-2", "claude-review", "alice"


@dataclass
class Playing:
    """Plays tasks through a store, with a clock of its own that a story moves on."""

    home: Path
    now: float
    store: Store = field(init=False)

    def __post_init__(self) -> None:
        clock = Clock(seconds=lambda: self.now, new_id=random_id)
        settings = StoreSettings(policy=Policy(max_rejects=2))
        self.store = Store.open(self.home, source="kircerta/showcase", settings=settings, clock=clock)

    def do(self, task_id: str, intent: Intent, actor: str, after_s: float = 1.0) -> None:
        """One move, `after_s` seconds after the one before."""
        self.now += after_s
        self.store.commit(task_id, intent, actor=actor)

    def create(
        self,
        task_id: str,
        title: str,
        request: str,
        criteria: list[str],
        *,
        scope: tuple[str, ...] = (),
        source: Source = "manual",
        **more: object,
    ) -> None:
        listed = tuple(Criterion(id=f"AC-{n}", text=text) for n, text in enumerate(criteria, 1))
        if task_id in PROJECT_OF:
            more["metadata"] = {"project": PROJECT_OF[task_id]}
        made = Create(request, source=source, title=title, acceptance_criteria=listed, scope=scope, **more)  # type: ignore[arg-type]
        self.do(task_id, made, "importer" if source == "import" else "dana")

    def dispatch(self, task_id: str, executor: str = "codex", reviewer: str = "claude") -> None:
        self.do(task_id, Dispatch(random_id("d"), executor, reviewer, ack_timeout_s=60), "dispatcher", 6)

    def dispatch_id(self, task_id: str) -> str:
        attempt = self.store.task(task_id).current
        assert attempt is not None
        assert attempt.dispatch is not None
        return attempt.dispatch.dispatch_id

    def ack(self, task_id: str, by: str = EXECUTOR) -> None:
        attempt = self.store.task(task_id).current
        assert attempt is not None
        assert attempt.dispatch is not None
        dispatch = attempt.dispatch
        echo = tuple(Echo(criterion_ref=one.id, text=one.text) for one in dispatch.acceptance_criteria)
        body = AckBody(dispatch_id=dispatch.dispatch_id, echo=echo, scope=dispatch.scope, issues=dispatch.issues)
        self.do(task_id, SendAck(body), by, 0.4)

    def wrong_ack(self, task_id: str, by: str = EXECUTOR) -> None:
        """An echo in other words: refused."""
        attempt = self.store.task(task_id).current
        assert attempt is not None
        assert attempt.dispatch is not None
        dispatch = attempt.dispatch
        echo = tuple(
            Echo(criterion_ref=one.id, text=(one.text or "").replace("every", "each"))
            for one in dispatch.acceptance_criteria
        )
        body = AckBody(dispatch_id=dispatch.dispatch_id, echo=echo, scope=dispatch.scope, issues=dispatch.issues)
        try:
            self.do(task_id, SendAck(body), by, 0.4)
        except Refused:
            return
        raise AssertionError("an echo in other words was taken")

    def heartbeat(self, task_id: str, note: str = "", by: str = EXECUTOR, after_s: float = 8.0) -> None:
        self.do(task_id, SendHeartbeat(self.dispatch_id(task_id), note), by, after_s)

    def result(
        self, task_id: str, work: list[tuple[str, str, str, int | None, tuple[str, ...]]], diff: str, summary: str
    ) -> None:
        """`work` lists action, target, detail, exit code and criteria of each operation."""
        self.now += 40
        known = {criterion.id for criterion in self.store.task(task_id).acceptance_criteria}
        log = tuple(
            Operation(
                op_id=f"OP-{n}",
                at=rfc3339(self.now),
                action=action,  # type: ignore[arg-type]
                target=target,
                detail=detail,
                exit_code=code,
                criterion_refs=tuple(ref for ref in refs if ref in known),
            )
            for n, (action, target, detail, code, refs) in enumerate(work, 1)
        )
        snapshot = DiffSnapshot(
            format="unified", base="9f2c1e7a5b3d", sha256=hashlib.sha256(diff.encode()).hexdigest(), text=diff
        )
        body = ResultBody(
            dispatch_id=self.dispatch_id(task_id),
            outcome="completed",
            summary=summary,
            work_log=log,
            diff_snapshot=snapshot,
        )
        self.do(task_id, SendResult(body), EXECUTOR)

    def verdict(self, task_id: str, decision: str, summary: str, issues: tuple[Issue, ...] = ()) -> None:
        body = VerdictBody(dispatch_id=self.dispatch_id(task_id), decision=decision, summary=summary, issues=issues)  # type: ignore[arg-type]
        self.do(task_id, SendVerdict(body), REVIEWER, 21)

    def work(self, task_id: str, *, decision: str = "approve", issues: tuple[Issue, ...] = ()) -> None:
        """From the dispatch to the gate, without surprises."""
        self.dispatch(task_id)
        self.ack(task_id)
        self.heartbeat(task_id, "reading")
        self.result(task_id, PLAIN_WORK, PLAIN_DIFF, "Changed as asked; the tests pass.")
        self.verdict(task_id, decision, "Checked each criterion against the diff.", issues)


PLAIN_DIFF = """\
diff --git a/src/export/csv.py b/src/export/csv.py
index 3f1c2aa..91be7d0 100644
--- a/src/export/csv.py
+++ b/src/export/csv.py
@@ -12,9 +12,14 @@ from export.rows import Row
 
 def write(rows: Iterable[Row], out: TextIO) -> int:
     \"\"\"Write rows as CSV and give their number.\"\"\"
-    writer = csv.writer(out)
+    writer = csv.writer(out, lineterminator="\\n")
     count = 0
     for row in rows:
-        writer.writerow([row.name, row.amount, row.at])
+        writer.writerow([row.name, row.amount, row.at.isoformat()])
         count += 1
+    if count == 0:
+        writer.writerow(HEADER)
     return count
+
+
+HEADER = ("name", "amount", "at")
diff --git a/tests/test_csv.py b/tests/test_csv.py
new file mode 100644
index 0000000..5d1c9b2
--- /dev/null
+++ b/tests/test_csv.py
@@ -0,0 +1,7 @@
+from export.csv import write
+
+
+def test_an_empty_export_has_its_header(tmp_path):
+    with open(tmp_path / "out.csv", "w") as out:
+        assert write([], out) == 0
+    assert (tmp_path / "out.csv").read_text() == "name,amount,at\\n"
"""  # noqa: W293
PLAIN_WORK: list[tuple[str, str, str, int | None, tuple[str, ...]]] = [
    ("read", "src/export/csv.py", "", None, ()),
    ("edit", "src/export/csv.py", "Times as ISO 8601; a header where there are no rows.", None, ("AC-1", "AC-2")),
    ("edit", "tests/test_csv.py", "Covers the empty export.", None, ("AC-2",)),
    ("test", "pytest -q tests/test_csv.py", "3 passed in 0.21s", 0, ("AC-1", "AC-2")),
]
CSV = ["Times are written as ISO 8601.", "An empty export still has its header line."]
CSV_SCOPE = ("src/export/**", "tests/**")
LEASE_WORK: list[tuple[str, str, str, int | None, tuple[str, ...]]] = [
    ("read", "src/lease/renew.py", "", None, ("AC-1",)),
    (
        "run",
        "git log -5 --oneline src/lease",
        "a41c0d2 Renew in the background\n77be019 Split lease from lock\n",
        0,
        (),
    ),
    (
        "edit",
        "src/lease/renew.py",
        "Renewal stops once the lease is lost; the loss is told to the holder.",
        None,
        ("AC-1", "AC-2"),
    ),
    ("edit", "tests/lease/test_renew.py", "A lease that is lost midway, with a fake clock.", None, ("AC-3",)),
    ("test", "pytest -q tests/lease", "11 passed in 0.84s", 0, ("AC-1", "AC-3")),
]
LEASE_DIFF = """\
diff --git a/src/lease/renew.py b/src/lease/renew.py
index 71d0aa3..c2be911 100644
--- a/src/lease/renew.py
+++ b/src/lease/renew.py
@@ -24,11 +24,18 @@ class Renewal:
     def run(self) -> None:
         \"\"\"Renew until stopped.\"\"\"
         while not self._stop.wait(self.every_s):
-            try:
-                self._store.renew(self.lease)
-            except LeaseLost:
-                continue
+            if not self._renewed():
+                self._lost.set()
+                return
+
+    def _renewed(self) -> bool:
+        try:
+            self._store.renew(self.lease)
+        except LeaseLost as lost:
+            LOG.warning("lease %s was lost: %s", self.lease.id, lost)
+            return False
+        return True
 
     def stop(self) -> None:
         self._stop.set()
-        self._thread.join()
+        self._thread.join(timeout=self.every_s)
diff --git a/tests/lease/test_renew.py b/tests/lease/test_renew.py
index 00d1f7e..8ba2c11 100644
--- a/tests/lease/test_renew.py
+++ b/tests/lease/test_renew.py
@@ -41,3 +41,12 @@ def test_a_stopped_renewal_renews_no_more(clock, store):
     renewal.stop()
     clock.advance(60)
     assert store.renewals == 1
+
+
+def test_a_lost_lease_ends_the_renewal_and_is_told(clock, store):
+    renewal = Renewal(store, LEASE, every_s=5).start()
+    store.lose(LEASE)
+    clock.advance(5)
+    assert renewal.lost
+    clock.advance(60)
+    assert store.renewals == 0
"""  # noqa: W293


def issue(number: int, criterion: str, ops: tuple[str, ...], severity: str, text: str) -> Issue:
    return Issue(issue_id=f"IS-{number}", criterion_ref=criterion, op_refs=ops, severity=severity, text=text)  # type: ignore[arg-type]


def lease_criteria() -> list[str]:
    return [
        "A renewal that finds its lease lost ends, and every holder is told within one interval.",
        "Stopping a renewal never waits longer than one interval.",
        "Both are covered by tests that use the fake clock, without sleeping.",
    ]


def make(home: Path, *, end: float) -> Store:
    """Fill a workspace with a dozen tasks whose story ends at `end` (Unix seconds). Gives the open store."""
    (home / "config").mkdir(exist_ok=True)
    (home / "config" / "projects.toml").write_text(PROJECTS)
    play = Playing(home, end - 5400)
    play.create(
        "rate-limit-headers",
        "Send RateLimit headers with every answer",
        "Clients guess how much is left. Tell them.",
        ["Every answer carries RateLimit-Limit, -Remaining and -Reset."],
    )
    play.work("rate-limit-headers")
    play.do("rate-limit-headers", Approve("Reads well, and the header names are the standard's."), APPROVER, 300)
    play.create(
        "gh-acme_shop-418",
        "Export fails for an empty month",
        "The CSV export of a month without orders is an empty file.",
        CSV,
        scope=CSV_SCOPE,
        source="github",
        origin={"repository": "acme/shop", "number": 418, "url": "https://github.com/acme/shop/issues/418"},
    )
    play.work(
        "gh-acme_shop-418",
        decision="reject",
        issues=(
            issue(
                1,
                "AC-2",
                ("OP-2",),
                "blocker",
                "The header is written only when there are no rows; with rows it is still missing.",
            ),
        ),
    )
    play.do("gh-acme_shop-418", Reject("The header has to be there in both cases."), APPROVER, 120)
    play.create(
        "flaky-clock-test",
        "test_clock fails around midnight",
        "See the nightly runs of last week.",
        ["The test passes at any time of day.", "It takes no longer than before."],
    )
    for n in (1, 2):
        play.work(
            "flaky-clock-test",
            decision="reject",
            issues=(issue(1, "AC-1", ("OP-2",), "major", "The time zone is still taken from the machine."),),
        )
        play.do("flaky-clock-test", Reject(f"Same as before: it fails with TZ=Asia/Tokyo ({n})."), "bob", 60)
    play.create(
        "tg-n100200-31",
        "kannst du bitte die Preise im Footer aktualisieren?",
        "kannst du bitte die Preise im Footer aktualisieren? danke!",
        ["kannst du bitte die Preise im Footer aktualisieren?"],
        source="telegram",
        chat_id=-100200,
        message_id=31,
    )
    play.create(
        "xcode-7d1f0a52",
        "Build 1204 of Shop iOS failed",
        "Archive failed: signing certificate has expired.",
        ["The archive step succeeds."],
        source="xcode",
    )
    play.do("xcode-7d1f0a52", Reject("The certificate was renewed by hand: nothing to do."), APPROVER, 30)
    play.create(
        "backlog-77",
        "Describe the retry policy in the README",
        "Imported from the backlog.",
        ["The README says how often and how long is retried."],
        source="import",
    )
    play.dispatch("backlog-77")
    play.ack("backlog-77")
    play.do(
        "backlog-77",
        EndAttempt(play.dispatch_id("backlog-77"), "executor_failed", "exit code 137: killed"),
        "dispatcher",
        90,
    )
    play.create(
        "unlock-me",
        "Cache the price list for a minute",
        "The price list is read on every request.",
        ["A second request within a minute reads nothing."],
    )
    for _ in range(2):
        play.work(
            "unlock-me", decision="reject", issues=(issue(1, "AC-1", ("OP-2",), "major", "The cache is never filled."),)
        )
        play.do("unlock-me", Reject("It still reads each time."), "bob", 20)
    play.do("unlock-me", Unlock("The executor had an old checkout; that is mended."), APPROVER, 60)
    _at_the_gate(play)
    play.create(
        "locale-dates",
        "Show dates in the reader's locale",
        "Dates are American for everybody.",
        ["Dates follow the browser's locale."],
    )
    play.work(
        "locale-dates",
        decision="reject",
        issues=(issue(1, "AC-1", ("OP-2", "OP-3"), "major", "The export uses the server's locale, not the reader's."),),
    )
    _at_work(play, end)
    play.create(
        "dark-mode-mail",
        "Mails are unreadable in dark mode",
        "Grey on black in most clients.",
        ["Text has a contrast of at least 4.5 in both modes."],
        scope=("mail/**",),
    )
    return play.store


def _at_the_gate(play: Playing) -> None:
    """A second attempt that waits for a person: the fullest page there is."""
    task_id = "lease-renewal"
    play.create(
        task_id,
        "A lost lease must end its renewal",
        "Renewal threads go on for ever once their lease is lost: the store says LeaseLost, the thread swallows it and "
        "tries again.\n\nSeen in production on the 12th: 214 threads, each renewing a lease that somebody else held.",
        lease_criteria(),
        scope=("src/lease/**", "tests/lease/**"),
        metadata={"import": {"tool": "backlog", "labels": ["reliability"]}},
    )
    play.dispatch(task_id)
    play.ack(task_id)
    play.heartbeat(task_id, "reading src/lease")
    play.result(
        task_id,
        [*LEASE_WORK[:3], ("note", "tests/lease", "Left for later: the fake clock comes first.", None, ("AC-3",))],
        LEASE_DIFF[: LEASE_DIFF.index("diff --git a/tests")],
        "Renewal ends when the lease is lost.",
    )
    play.verdict(
        task_id,
        "reject",
        "The first criterion holds; the third was not touched.",
        (
            issue(1, "AC-3", ("OP-3",), "blocker", "There is no test: the third criterion asks for two."),
            issue(2, "AC-2", ("OP-3",), "minor", "`join` without a time-out waits for a renewal that hangs."),
        ),
    )
    own = Issue(
        issue_id="D-1",
        criterion_ref="AC-1",
        op_refs=("OP-3",),
        severity="major",
        text="Log the loss with the lease's id, please.",
    )
    play.do(task_id, Reject("Tests first, and see my note on logging.", issues=(own,)), APPROVER, 200)
    play.dispatch(task_id)
    play.wrong_ack(task_id)
    play.ack(task_id)
    play.heartbeat(task_id, "writing tests")
    play.heartbeat(task_id, "11 tests pass")
    play.result(
        task_id,
        LEASE_WORK,
        LEASE_DIFF,
        "Renewal ends when the lease is lost, says so in the log, and both cases are tested with the fake clock.",
    )
    play.verdict(
        task_id,
        "approve",
        "All three criteria hold. The forwarded issues are answered in OP-3 and OP-4.",
        (
            issue(
                1,
                "AC-2",
                ("OP-3",),
                "minor",
                "After the time-out the thread may still be alive: say so in the docstring.",
            ),
        ),
    )


def _at_work(play: Playing, end: float) -> None:
    """Three attempts under way: one healthy, one silent, one in review."""
    play.create(
        "paginate-orders",
        "Page the order list",
        "It loads 40,000 rows.",
        ["The list shows 100 orders a page.", "Pages have links that can be shared."],
        scope=("web/**",),
    )
    play.create(
        "retry-after",
        "Honour Retry-After of the payment gateway",
        "We hammer it after a 429.",
        ["A 429 is retried no earlier than Retry-After says."],
    )
    play.create(
        "mypy-strict",
        "mypy --strict for the billing package",
        "",
        ["mypy --strict passes on billing/."],
        scope=("billing/**",),
    )
    play.now = max(play.now, end - 200)
    play.dispatch("retry-after", "openclaw", "claude")
    play.ack("retry-after", "openclaw-7")
    silent_since = rfc3339(play.now)
    play.dispatch("mypy-strict")
    play.ack("mypy-strict")
    play.result(
        "mypy-strict",
        [
            ("edit", "billing/tax.py", "", None, ("AC-1",)),
            ("run", "mypy --strict billing", "Success: no issues found", 0, ("AC-1",)),
        ],
        "",
        "Strict now.",
    )
    play.now = max(play.now, end - 60)
    play.dispatch("paginate-orders")
    play.ack("paginate-orders")
    play.heartbeat("paginate-orders", "reading web/orders.ts")
    play.do("retry-after", WarnOfSilence(play.dispatch_id("retry-after"), silent_since), "watchdog", 10)
    play.heartbeat("paginate-orders", "3 of 5 files done")
    play.store.note(
        Draft(
            "auth_denied",
            "anonymous",
            {
                "address": "127.0.0.1",
                "route": "/api/tasks/{task_id}/approve",
                "count": 3,
                "codes": {"unauthenticated": 3},
            },
        )
    )
