"""What the page makes of diffs, echoes and open attempts."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import expect

from api import examples
from audit.event import Draft
from cli.docs import sample_events
from ssot import diff
from ssot.facts import Facts
from ssot.intents import Approve, Create, Dispatch, SendAck, SendHeartbeat, SendResult, SendVerdict, WarnOfSilence
from ssot.observed import CheckRun, CommandRun, Isolation, Observed
from ssot.store import Refused, Store
from ssot.task import AckBody, Criterion, Echo, ResultBody, VerdictBody
from tests import builders
from tests.api.scene import EXECUTOR, REVIEWER, TASK_ID, at_stage, bring_to, part
from tests.browser.conftest import Site, Windows, live

PUBLIC = Path(__file__).parents[3] / "shared" / "data" / "07_diffs_and_worklogs"


def test_diffs_read_the_same_here_as_in_the_rules(site: Site, windows: Windows) -> None:
    if not PUBLIC.exists():
        pytest.skip("the public diffs are not here")
    site.start()
    page = windows.open("/", sub=None)
    seen = 0
    for path in sorted(PUBLIC.rglob("*")):
        if path.suffix not in (".diff", ".patch"):
            continue
        text = path.read_bytes().decode("utf-8", "replace")
        try:
            wanted = set(diff.paths(text))
        except diff.DiffError:
            continue
        found = page.evaluate(
            """async (text) => {
              const { parse } = await import("/static/diff.js");
              return parse(text).map(({path, from, added, removed}) => ({path, from, added, removed}));
            }""",
            text,
        )
        shown = {name for file in found for name in (file["path"], file["from"]) if name}
        assert wanted <= shown, path.name
        lines = text.split("\n")
        added = sum(line.startswith("+") and not line.startswith("+++ ") for line in lines)
        assert sum(file["added"] for file in found) == added, path.name
        assert len(found) == len(diff.parse(text)), path.name
        seen += 1
    assert seen > 10


OF_EVERY_KIND = """\
diff --git a/new.py b/new.py
new file mode 100644
index 0000000..b6fc4c6
--- /dev/null
+++ b/new.py
@@ -0,0 +1 @@
+one
diff --git a/gone.py b/gone.py
deleted file mode 100644
index b6fc4c6..0000000
--- a/gone.py
+++ /dev/null
@@ -1 +0,0 @@
-one
diff --git a/old.py b/moved.py
similarity index 50%
rename from old.py
rename to moved.py
index b6fc4c6..1b1b1b1 100644
--- a/old.py
+++ b/moved.py
@@ -1,2 +1,2 @@
 one
-two
+three
diff --git a/run.sh b/run.sh
old mode 100644
new mode 100755
index b6fc4c6..1b1b1b1
--- a/run.sh
+++ b/run.sh
@@ -1 +1 @@
-one
+two
@@ -9 +9 @@
-nine
+ten
"""


def test_a_file_with_a_header_of_its_own_is_one_file_and_keeps_its_number(site: Site, windows: Windows) -> None:
    """The trace leads to a hunk by its file's number: one file more, and it leads to another's."""
    site.start()
    page = windows.open("/", sub=None)
    found = page.evaluate(
        """async (text) => {
          const { parse } = await import("/static/diff.js");
          const hunks = (file) => file.lines.filter(([kind]) => kind === "hunk").length;
          return parse(text).map((file) => [file.path, file.kind, file.added, file.removed, hunks(file)]);
        }""",
        OF_EVERY_KIND,
    )
    assert found == [
        ["new.py", "added", 1, 0, 1],
        ["gone.py", "deleted", 0, 1, 1],
        ["moved.py", "renamed", 1, 1, 1],
        ["run.sh", "changed", 2, 2, 2],
    ]
    patches = diff.parse(OF_EVERY_KIND)
    assert [len(patch.hunks) for patch in patches] == [hunks for *_, hunks in found]


def test_every_event_is_told_in_words(site: Site, windows: Windows) -> None:
    site.start()
    page = windows.open("/", sub=None)
    events = [json.loads(event.line) for event in sample_events().values()]
    said = page.evaluate(
        """async (events) => {
          const { saying } = await import("/static/words.js");
          return events.map((event) => [event.type, saying(event).textContent]);
        }""",
        events,
    )
    wrong = [(kind, text) for kind, text in said if text.startswith("{") or "undefined" in text]
    assert wrong == []


def test_what_could_not_land_shows_why_and_how_it_goes_on(site: Site, store: Store, windows: Windows) -> None:
    at_stage(store, "needs_review")
    walk = builders.Walk(store, TASK_ID)
    walk.approve()
    site.start()
    page = windows.open(f"/#/tasks/{TASK_ID}")
    live(page)
    expect(page.locator(".gate .notice")).to_have_count(0)
    walk.fail_landing()
    gate = page.locator(".gate .notice")
    expect(gate).to_contain_text("kircerta/approved")
    expect(gate.locator("code")).to_have_text(f"kircerta dispatch {TASK_ID}")
    expect(page.locator(".attempt .badge.s-unlanded")).to_have_text("Could not land")
    expect(page.locator(".attempt .issue.sev-blocker")).to_contain_text("it does not apply")
    walk.dispatch()
    expect(page.get_by_text("Forwarded from the attempt that could not land, verbatim (1)")).to_be_visible()


def test_a_refused_echo_shows_what_differs(site: Site, store: Store, windows: Windows) -> None:
    criterion = Criterion(id="AC-1", text="every caller is told")
    store.commit("T-echo", Create("x", acceptance_criteria=(criterion,)), actor="tests")
    store.commit("T-echo", Dispatch("d-1", "remote", "remote"), actor="dispatcher")
    site.start()
    page = windows.open("/#/tasks/T-echo")
    expect(page.locator(".timeline li")).to_have_count(2)
    wrong = AckBody(dispatch_id="d-1", echo=(Echo(criterion_ref="AC-1", text="each caller is told"),))
    with pytest.raises(Refused):
        store.commit("T-echo", SendAck(wrong), actor="codex")
    expect(page.locator(".mismatch del")).to_have_text("every")
    expect(page.locator(".mismatch ins")).to_have_text("each")
    right = AckBody(dispatch_id="d-1", echo=(Echo(criterion_ref="AC-1", text="every caller is told"),))
    store.commit("T-echo", SendAck(right), actor="codex")
    expect(page.locator(".attempt .tag.good")).to_have_text("repeated word for word")


def test_agents_come_go_and_fall_silent_live(site: Site, store: Store, windows: Windows) -> None:
    site.start()
    page = windows.open("/#/agents")
    expect(page.locator(".empty")).to_contain_text("Nobody is at work")
    at_stage(store, "acknowledged", dispatch_id="d-7")
    row = page.locator(f'tr[data-task="{TASK_ID}"]')
    expect(row).to_contain_text("Executing")
    since = store.task(TASK_ID).attempts[-1].ack
    assert since is not None
    store.commit(TASK_ID, WarnOfSilence("d-7", since.at), actor="watchdog")
    expect(row).to_contain_text("silent for")
    expect(page.locator(".bar .count")).to_contain_text("1 silent")
    store.commit(TASK_ID, SendHeartbeat("d-7", "still reading"), actor="remote-executor")
    expect(row).to_contain_text("still reading")
    expect(row).not_to_contain_text("silent for")


def test_activity_is_filtered_and_paused(site: Site, store: Store, windows: Windows) -> None:
    at_stage(store, "needs_review")
    store.commit("other", Create("x"), actor="tests")
    site.start()
    page = windows.open("/#/activity")
    expect(page.locator(".log .row")).to_have_count(store.last_seq())
    page.get_by_label("Task id or text").fill("other")
    expect(page.locator(".log .row")).to_have_count(1)
    page.get_by_label("Task id or text").fill("")
    page.get_by_label("Type").select_option("verdict_received")
    expect(page.locator(".log .row")).to_have_count(1)
    page.get_by_label("Type").select_option("")
    page.get_by_role("button", name="Pause").click()
    before = page.locator(".log .row").count()
    store.commit("third", Create("x"), actor="tests")
    expect(page.get_by_role("button", name="Go on (1 new)")).to_be_visible()
    assert page.locator(".log .row").count() == before
    page.get_by_role("button", name="Go on (1 new)").click()
    expect(page.locator(".log .row")).to_have_count(before + 1)
    page.locator(".log .row button").first.click()
    shown = json.loads(page.locator(".eventdetail pre").inner_text())
    assert shown["subject"] == "third"


def test_signing_out_in_one_tab_signs_out_the_others(site: Site, store: Store, windows: Windows) -> None:
    at_stage(store, "new")
    site.start()
    context = windows.context()
    first = windows.open("/", context)
    second = windows.open("/", context, sub=None)
    expect(second.locator("#who")).to_contain_text("alice")
    first.locator("#who").click()
    first.get_by_role("button", name="Sign out").click()
    expect(second.locator("#who")).to_have_text("Sign in")


def test_a_log_replaced_by_another_is_read_anew(site: Site, store: Store, windows: Windows) -> None:
    at_stage(store, "needs_review")
    site.start()
    page = windows.open("/")
    expect(page.locator(".space > .row")).to_have_count(1)
    site.stop()
    expect(page.locator("#light")).to_have_text("Lost")
    home = site.home
    for path in sorted(home.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    other = Store.open(home, source="kircerta/tests")
    for number in range(3):
        other.commit(f"anew-{number}", Create("x"), actor="tests")
    site.start()
    live(page)
    expect(page.locator(".space > .row")).to_have_count(3)
    other.commit("anew-3", Create("x"), actor="tests")
    expect(page.locator(".space > .row")).to_have_count(4)
    other.close()


def test_a_diff_of_many_lines_is_folded_and_drawn_in_parts(site: Site, store: Store, windows: Windows) -> None:
    at_stage(store, "new")
    bring_to(store, "needs_review", dispatch_id="d-1")
    site.start()
    page = windows.open("/")
    lines = page.evaluate(
        """async () => {
          const { diffView } = await import("/static/diff.js");
          const body = Array.from({length: 20000}, (_, n) => `+line ${n}`).join("\\n");
          const view = diffView(`--- /dev/null\\n+++ b/big.txt\\n@@ -0,0 +1,20000 @@\\n${body}\\n`);
          document.querySelector("main").append(view);
          const found = [view.querySelectorAll(".dl").length];
          view.querySelector("button.more").click();
          found.push(view.querySelectorAll(".dl").length);
          return found;
        }"""
    )
    assert lines == [1500, 3000]


def test_a_long_work_log_is_drawn_on_demand_and_still_led_to(site: Site, store: Store, windows: Windows) -> None:
    at_stage(store, "acknowledged", dispatch_id="d-1")
    one = part(ResultBody, examples.RESULT, dispatch_id="d-1")
    work = tuple(one.work_log[0].model_copy(update={"op_id": f"OP-{number}"}) for number in range(1, 1001))
    store.commit(TASK_ID, SendResult(one.model_copy(update={"work_log": work})), actor=EXECUTOR)
    issue = {**examples.VERDICT["issues"][0], "op_refs": ["OP-999"]}
    verdict = part(VerdictBody, examples.VERDICT, dispatch_id="d-1", issues=[issue])
    store.commit(TASK_ID, SendVerdict(verdict), actor=REVIEWER)
    site.start()
    page = windows.open(f"/#/tasks/{TASK_ID}")
    expect(page.locator(".worklog tbody tr")).to_have_count(300)
    page.locator(".issue .jump", has_text="OP-999").click()
    expect(page.locator("tr:focus th")).to_have_text("OP-999")


def test_a_time_of_creation_in_the_future_hides_nothing(site: Site, store: Store, windows: Windows) -> None:
    store.commit("ahead", Create("x", created_at="2099-01-01T00:00:00Z"), actor="tests")
    site.start()
    page = windows.open("/#/tasks/ahead")
    expect(page.locator(".timeline li")).to_have_count(1)


def test_marks_piled_up_on_a_letter_are_counted(site: Site, store: Store, windows: Windows) -> None:
    store.commit("marks", Create("Z" + "\u0301" * 300 + "algo"), actor="tests")
    site.start()
    page = windows.open("/#/tasks/marks")
    assert page.locator('[data-section="request"] .prose').inner_text() == "Z" + "\u0301" * 6 + "‹+294 marks›algo"


def test_what_was_seen_from_outside_is_evidence_beside_the_agents_word(
    site: Site, store: Store, windows: Windows
) -> None:
    walk = builders.Walk(store, "T-seen")
    walk.create(acceptance_criteria=(Criterion(id="AC-1", text="It greets.", check="make <b>test</b>"),))
    walk.dispatch()
    walk.ack()
    digest = {"duration_ms": 12, "output_bytes": 9, "output_sha256": "0" * 64}
    check = CheckRun(command=("make <b>test</b>",), exit_code=2, tail="1 failed <i>", criterion_ref="AC-1", **digest)
    ran = CommandRun(command=("make", "test"), exit_code=0, tail="ok", **digest)
    isolation = Isolation(
        namespaces=("user", "mount"), network=False, missing=("cgroups: <none>", "processes: as <root>")
    )
    seen = Observed(
        isolation=isolation, base="b" * 40, tree="c" * 40, changed=("src/a.py",), commands=(ran,), checks=(check,)
    )
    log = (builders.operation(1), builders.operation(2, action="test", target="make test", exit_code=0))
    walk.do(
        SendResult(builders.result_body(walk.task, work_log=log), Facts(seen, builders.diff_text())), builders.EXECUTOR
    )
    walk.verdict()
    site.start()
    page = windows.open("/#/tasks/T-seen")
    evidence = page.locator("details", has=page.locator("summary", has_text="Seen from outside")).last
    expect(evidence).to_contain_text("1 check, 1 failed")
    expect(evidence).to_contain_text("make <b>test</b>")
    expect(evidence).to_contain_text("exit 2")
    expect(evidence.locator(".minus", has_text="Missing here")).to_have_text("Missing here: cgroups: <none>")
    calm = evidence.locator(".faint", has_text="limit on the number of processes")
    expect(calm).to_contain_text("no limit on the number of processes (as <root>); the other limits held")
    expect(evidence).to_contain_text("network: no")


def test_the_gate_tells_where_an_approved_change_went(site: Site, store: Store, windows: Windows) -> None:
    at_stage(store, "needs_review")
    store.commit(TASK_ID, Approve(), actor="bob")
    site.start()
    page = windows.open(f"/#/tasks/{TASK_ID}")
    expect(page.locator(".gate .landing")).to_have_count(0)
    about = {"attempt": 1, "branch": "kircerta/approved", "parent": "e" * 40}
    refused = {**about, "reason": "conflict", "detail": "the change does not apply"}
    store.note(Draft("landing_refused", "landing", refused, subject=TASK_ID))
    expect(page.locator(".gate .landing")).to_contain_text("Not landed: conflict · the change does not apply")
    landed = {**about, "commit": "9505cacb7c71" + "0" * 28, "review_digest": None, "checks": []}
    store.note(Draft("task_landed", "landing", landed, subject=TASK_ID))
    expect(page.locator(".gate .landing")).to_contain_text("Landed on kircerta/approved as 9505cacb7c71, now")


def test_the_apis_page_shows_names_as_code_and_no_markdown(site: Site, windows: Windows) -> None:
    site.start()
    page = windows.context().new_page()
    windows.guard(page)
    page.goto(site.url + "/docs")
    expect(page.locator("#routes .card").first).to_be_visible()
    prose = page.locator("main").evaluate(
        "main => { for (const made of main.querySelectorAll('pre, code')) made.remove(); return main.textContent; }"
    )
    assert not re.search(r"[`*#]|\]\(", prose)
    page.reload()
    page.locator("details", has_text="/trace").evaluate("details => details.open = true")
    expect(page.locator("details[open] p code", has_text="coverage")).to_be_visible()
