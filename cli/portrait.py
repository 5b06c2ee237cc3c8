"""One task as people read it: what is asked, every attempt with its parts, the diff in numbers, the timeline."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from cli.screen import STYLES, one_line, put_table, say
from ssot.counted import counted

if TYPE_CHECKING:
    from audit.event import Event
    from ssot.diff import FilePatch
    from ssot.store import Store
    from ssot.task import Attempt, Dispatch, Issue, Result, Task, Texted

MAX_TEXT_LINES: Final = 40
_FACTS: Final = ("detail", "reason", "why", "code", "note")


def portray(store: Store, task: Task) -> None:
    """Print a task."""
    from ssot.states import STAGES, stage_of

    stage = stage_of(task)
    say(f"{task.task_id}  {task.title}", "bold")
    say(
        f"{task.status}: {STAGES[stage][1]}{', locked' if task.locked else ''}",
        STYLES.get(task.status, ""),
    )
    say(f"from {task.source}, created {_when(task.created_at)}, revision {task.revision}, {task.correlation_id}", "dim")
    _print_request(store, task)
    for attempt in task.attempts:
        _print_attempt(store, attempt)
    _print_timeline(store, task.task_id)
    say()
    say(_next_step(task, stage))


def _when(timestamp: str) -> str:
    return timestamp[:19].replace("T", " ")


def text_of(store: Store, part: Texted) -> str:
    """A part's text, from its blob where it is long."""
    blob = getattr(part, "blob", None)
    if blob is not None:
        return store.blobs.text(blob)
    return getattr(part, part.text_field) or ""


def _print_request(store: Store, task: Task) -> None:
    lines = text_of(store, task).splitlines()
    say()
    for line in lines[:MAX_TEXT_LINES]:
        say(f"  {line}")
    if len(lines) > MAX_TEXT_LINES:
        say(f"  … {counted(len(lines) - MAX_TEXT_LINES, 'more line')} (--json shows all)", "dim")
    say()
    put_table(("CRITERION", "TEXT"), ((one.id, text_of(store, one)) for one in task.acceptance_criteria))
    say(f"scope: {', '.join(task.scope) or 'not limited'}")


def _print_attempt(store: Store, attempt: Attempt) -> None:
    say()
    say(f"Attempt {attempt.attempt}{' (came inside a file)' if attempt.witnessed is False else ''}", "bold")
    put_table(("PART", "AT", "BY", ""), _parts(store, attempt))
    if attempt.dispatch and attempt.dispatch.issues:
        _print_issues(store, "forwarded issues", attempt.dispatch.issues)
    if attempt.verdict and attempt.verdict.issues:
        _print_issues(store, "the verdict's issues", attempt.verdict.issues)
    if attempt.decision and attempt.decision.issues:
        _print_issues(store, "the decision's issues", attempt.decision.issues)
    if attempt.unlanded is not None:
        _print_issues(store, f"why it cannot stand on {attempt.unlanded.branch}", attempt.unlanded.issues)
    if attempt.result is not None:
        _print_diff(store, attempt.result)


def _parts(store: Store, attempt: Attempt) -> Iterator[tuple[str, str, str, str]]:
    if (dispatch := attempt.dispatch) is not None:
        yield "dispatch", _when(dispatch.at), dispatch.by, _told(dispatch)
    if (ack := attempt.ack) is not None:
        yield "ack", _when(ack.at), ack.by, f"{counted(len(ack.echo), 'criterion', 'criteria')} repeated"
    if (result := attempt.result) is not None:
        yield "result", _when(result.at), result.by, _delivered(store, result)
    if (verdict := attempt.verdict) is not None:
        yield "verdict", _when(verdict.at), verdict.by, f"{verdict.decision}: {text_of(store, verdict)}"
    if (decision := attempt.decision) is not None:
        yield "decision", _when(decision.at), decision.by, f"{decision.decision}: {text_of(store, decision) or '-'}"
    if (unlanded := attempt.unlanded) is not None:
        yield "unlanded", _when(unlanded.at), unlanded.by, f"{unlanded.reason} on {unlanded.branch}"
    if (ended := attempt.ended) is not None:
        yield "ended", _when(ended.at), "-", ended.reason
    if (unlocked := attempt.unlocked) is not None:
        yield "unlocked", _when(unlocked.at), unlocked.by, text_of(store, unlocked)


def _told(dispatch: Dispatch) -> str:
    return f"{dispatch.dispatch_id} to {dispatch.executor}, reviewed by {dispatch.reviewer}"


def _delivered(store: Store, result: Result) -> str:
    return f"{result.outcome}, {counted(len(result.work_log), 'operation')}: {text_of(store, result)}"


def _print_issues(store: Store, title: str, issues: tuple[Issue, ...]) -> None:
    say(f"{title}:")
    put_table(
        ("ISSUE", "SEVERITY", "CRITERION", "OPERATIONS", "TEXT"),
        ((i.issue_id, i.severity, i.criterion_ref, ", ".join(i.op_refs) or "-", text_of(store, i)) for i in issues),
    )


def _print_diff(store: Store, result: Result) -> None:
    """What the diff touches, file by file, in lines."""
    from ssot import diff

    if result.diff_snapshot is None:
        return
    try:
        patches = diff.parse(text_of(store, result.diff_snapshot))
    except diff.DiffError as error:
        say(f"diff: cannot be read: {error}")
        return
    say(f"diff against {result.diff_snapshot.base[:12]}:")
    put_table(("  +", "  -", "FILE"), (_numbers(patch) for patch in patches))


def _numbers(patch: FilePatch) -> tuple[str, str, str]:
    path = patch.new_path or patch.old_path or "?"
    return f"{patch.added:>3}", f"{patch.removed:>3}", f"{path} (binary)" if patch.binary else path


def _print_timeline(store: Store, task_id: str) -> None:
    from audit.reader import events_of

    say()
    put_table(
        ("SEQ", "TIME", "EVENT", "ACTOR", ""),
        (
            (event.seq, _when(event.time), event.type, event.actor, fact_of(event))
            for event in events_of(store.audit_folder, task_id)
        ),
    )


def fact_of(event: Event) -> str:
    """The one thing in an event's data that says most."""
    found = next((event.data[name] for name in _FACTS if isinstance(event.data.get(name), str)), "")
    found = one_line(found)
    return found if len(found) <= 100 else found[:99] + "…"


def _next_step(task: Task, stage: str) -> str:
    name = task.task_id
    if task.locked:
        return f"Next: kircerta unlock {name} --reason …"
    match stage:
        case "new" | "ended" | "rejected" | "unlanded":
            return f"Next: kircerta dispatch {name}"
        case "needs_review":
            return f"Next: kircerta approve {name}, or kircerta reject {name} --reason …"
        case "approved":
            return "Nothing is left to do."
        case _:
            return "An agent has it."
