"""What a run shows of its task in the Prefect UI: Markdown, in which nothing that stands in a task can do anything."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import Final
from urllib.parse import quote

from flows.outcome import Outcome
from ssot import diff
from ssot.counted import counted
from ssot.observed import CheckRun, CommandRun, Observed
from ssot.task import Attempt, Issue, Result, Task

MAX_TEXT: Final = 500
MAX_DIFF_LINES: Final = 300
_MARKDOWN: Final = re.compile(r"([\\`*_{}\[\]()#+\-.!|<>~&:@/\"'$=^])")
_UNSEEN: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]+")


def escaped(text: str | None, limit: int = MAX_TEXT) -> str:
    """Text from outside as one line of Markdown that is only text: no markup, no HTML, no link, no line break."""
    shown = _UNSEEN.sub(" ", text or "").strip()
    if len(shown) > limit:
        shown = shown[: limit - 1] + "…"
    return _MARKDOWN.sub(r"\\\1", shown)


def key_of(task_id: str) -> str:
    """The artifact key of a task: lower-case letters, digits and dashes; the digest keeps similar ids apart."""
    plain = re.sub(r"[^a-z0-9]+", "-", task_id.lower()).strip("-")[:60] or "task"
    return f"task-{plain}-{hashlib.sha256(task_id.encode()).hexdigest()[:8]}"


def link_to(api_url: str, task_id: str) -> str:
    """A link to a task's page in the dashboard: whoever follows it from Prefect came to read, and to decide.

    An id holds nothing that Markdown reads as markup, and Prefect's page shows a link's text with its escapes.
    """
    return f"[{task_id}]({api_url.rstrip('/')}/#/tasks/{quote(task_id, safe='')})"


def attempt_page(task: Task, outcome: Outcome, api_url: str, diff_text: str | None) -> str:
    """One attempt: where it stands, its criteria, what was done, the diff, the verdict and its issues.

    Args:
        diff_text: the diff's whole text, also where the document has only its digest.
    """
    attempt = task.current
    lines = [f"# {escaped(task.title)}", "", f"{link_to(api_url, task.task_id)} · **{escaped(outcome.name)}**"]
    if outcome.detail:
        lines += ["", escaped(outcome.detail, 2000)]
    if attempt is not None and attempt.dispatch is not None:
        dispatch = attempt.dispatch
        who = f"executor {escaped(dispatch.executor)}, reviewer {escaped(dispatch.reviewer)}"
        lines += ["", f"Attempt {attempt.attempt}: {who}, dispatched {dispatch.at}"]
        lines += ["", "## Criteria", "", *_criteria(attempt)]
        if dispatch.issues:
            lines += ["", "## Forwarded issues", "", *_issues(dispatch.issues)]
        if attempt.result is not None:
            lines += ["", "## Result", "", *_result(attempt.result, diff_text)]
        lines += _verdict(attempt)
    return "\n".join(lines) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table of cells that are Markdown already."""
    return [
        "| " + " | ".join(head) + " |",
        "|" + " --- |" * len(head),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]


def _criteria(attempt: Attempt) -> list[str]:
    assert attempt.dispatch is not None
    done = {ref for op in (attempt.result.work_log if attempt.result else ()) for ref in op.criterion_refs}
    open_ = {issue.criterion_ref for issue in (attempt.verdict.issues if attempt.verdict else ())}
    rows = (
        (
            escaped(one.id),
            escaped(_text(one.text)),
            "yes" if one.id in done else "no",
            "open issue" if one.id in open_ else "none",
        )
        for one in attempt.dispatch.acceptance_criteria
    )
    return table(("criterion", "text", "worked on", "issues"), rows)


def _result(result: Result, diff_text: str | None) -> list[str]:
    lines = [f"{result.outcome}, by {escaped(result.by)}: {escaped(_text(result.summary))}", ""]
    rows = (
        (
            escaped(op.op_id),
            op.action,
            escaped(op.target),
            "" if op.exit_code is None else str(op.exit_code),
            escaped(", ".join(op.criterion_refs)),
        )
        for op in result.work_log[:200]
    )
    lines += table(("operation", "action", "target", "exit code", "criteria"), rows)
    if result.observed is not None:
        lines += ["", "## Seen from outside", "", *_observed(result.observed)]
    return lines + (_diff(diff_text) if diff_text else [])


def _observed(seen: Observed) -> list[str]:
    """The evidence: what was in force, what was run for the agent, and what the checks gave."""
    isolation = seen.isolation
    held = ", ".join(isolation.namespaces) or "no namespaces"
    lines = [f"Base {escaped(seen.base)}; shut in by {escaped(held)}; network: {'yes' if isolation.network else 'no'}"]
    lines += _lacking(isolation.missing)
    if seen.commands_by == "agent":
        lines += ["", "The agent ran its commands itself: nobody saw them."]
    runs = (*seen.checks, *seen.commands)
    return [*lines, "", *table(("evidence", "command", "exit code", "ms", "end of its output"), map(_run, runs))]


def _lacking(missing: Sequence[str]) -> list[str]:
    """What an agent did without. That root's processes are not counted is no fault: all else holds."""
    processes = [one.removeprefix("processes: ") for one in missing if one.startswith("processes: ")]
    others = [one for one in missing if not one.startswith("processes: ")]
    lines = ["", f"**Missing here:** {escaped('; '.join(others))}"] if others else []
    if processes:
        why = escaped("; ".join(processes))
        lines += ["", f"Run with no limit on the number of processes ({why}); the other limits held."]
    return lines


def _run(one: CommandRun) -> tuple[str, ...]:
    what = f"check of {escaped(one.criterion_ref)}" if isinstance(one, CheckRun) else "run for the agent"
    code = f"stopped: {one.stopped}" if one.exit_code is None else str(one.exit_code)
    return what, escaped(" ".join(one.command)), code, str(one.duration_ms), escaped(one.tail[-MAX_TEXT:])


def _diff(text: str) -> list[str]:
    rows = [(escaped(path), f"\\+{added}", f"\\-{removed}") for path, added, removed in diff_stat(text)]
    shown = [_UNSEEN.sub(" ", line)[:MAX_TEXT] for line in text.split("\n")]
    if len(shown) > MAX_DIFF_LINES:
        shown = [*shown[:MAX_DIFF_LINES], f"… {counted(len(shown) - MAX_DIFF_LINES, 'more line')}"]
    longest = max((len(run) for run in re.findall(r"`+", "\n".join(shown))), default=0)
    fence = "`" * max(3, longest + 1)
    return ["", "## Diff", "", *table(("file", "added", "removed"), rows), "", f"{fence}diff", *shown, fence]


def diff_stat(text: str) -> list[tuple[str, int, int]]:
    """Each file of a unified diff with the numbers of lines that it adds and removes."""
    try:
        patches = diff.parse(text)
    except diff.DiffError:
        return []
    return [(patch.new_path or patch.old_path or "", patch.added, patch.removed) for patch in patches]


def _verdict(attempt: Attempt) -> list[str]:
    verdict = attempt.verdict
    if verdict is None:
        return []
    lines = [
        "",
        "## Verdict",
        "",
        f"**{verdict.decision}**, by {escaped(verdict.by)}: {escaped(_text(verdict.summary))}",
    ]
    return lines + (["", *_issues(verdict.issues)] if verdict.issues else [])


def _issues(issues: Sequence[Issue]) -> list[str]:
    rows = (
        (
            escaped(one.issue_id),
            one.severity,
            escaped(one.criterion_ref),
            escaped(", ".join(one.op_refs)),
            escaped(_text(one.text)),
        )
        for one in issues
    )
    return table(("issue", "severity", "criterion", "operations", "text"), rows)


def _text(text: str | None) -> str:
    return "(a long text: see the task)" if text is None else text


def closing_page(task: Task, api_url: str, digest: str | None) -> str:
    """What an approved task went through."""
    lines = [f"# Closed: {escaped(task.title)}", "", link_to(api_url, task.task_id)]
    decision = task.current.decision if task.current else None
    if decision is not None:
        lines += ["", f"**{decision.decision}** by {escaped(decision.by)} at {decision.at}"]
        lines += ["", f"Reason: {escaped(_text(decision.reason)) or 'none given'}", "", f"What was seen: `{digest}`"]
    rows = (
        (
            str(one.attempt),
            escaped(one.dispatch.executor if one.dispatch else "none"),
            escaped(one.verdict.decision if one.verdict else (one.ended.reason if one.ended else "none")),
            str(len(one.verdict.issues) if one.verdict else 0),
            escaped(f"{one.decision.decision} by {one.decision.by}" if one.decision else "none"),
        )
        for one in task.attempts
    )
    return "\n".join([*lines, "", "## Attempts", "", *table(_ATTEMPTS, rows)]) + "\n"


_ATTEMPTS: Final = ("attempt", "executor", "verdict", "issues", "decision")


def outcomes_page(outcomes: Sequence[Outcome], api_url: str) -> str:
    """Where the tasks of one run stand."""
    counts: dict[str, int] = {}
    for outcome in outcomes:
        counts[outcome.name] = counts.get(outcome.name, 0) + 1
    summary = ", ".join(f"{count} {escaped(name)}" for name, count in sorted(counts.items())) or "nothing was pending"
    rows = ((link_to(api_url, one.task_id), escaped(one.name), escaped(one.detail)) for one in outcomes[:1000])
    return (
        "\n".join([f"# {counted(len(outcomes), 'task')}: {summary}", "", *table(("task", "outcome", "detail"), rows)])
        + "\n"
    )
