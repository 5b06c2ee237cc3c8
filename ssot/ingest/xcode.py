"""Reads Xcode Cloud's deliveries: each build run is a task, whose `build` shows how far the run has come.

Payloads as in https://developer.apple.com/documentation/xcode/webhook-payload; values that are not known yet are
taken as they come.
"""

from __future__ import annotations

import re
from typing import Any, Final

from ssot.ingest.delivery import BadPayload, Bring, Delivery
from ssot.ingest.payload import inside, moment, needed_text, one_line, text, whole
from ssot.intents import Create, SetBuild
from ssot.projects import MENDS
from ssot.strict_json import MAX_DEPTH
from ssot.task import Build, Criterion, Task

_RUN_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,120}", re.ASCII)
_WORD: Final = 100
FAILED: Final = frozenset({"FAILED", "ERRORED"})
_DEEPEST: Final = MAX_DEPTH - 2
"""The payload stands two levels down in its task's document, which has to be readable as a whole."""


def read(payload: Any) -> Delivery:
    """What a delivery tells. Raises BadPayload."""
    if not isinstance(payload, dict):
        raise BadPayload("the payload is no JSON object")
    run_id = needed_text(payload, "ciBuildRun", "id")
    if not _RUN_ID.fullmatch(run_id):
        raise BadPayload("ciBuildRun.id: 1 to 120 letters, digits, dots, underscores and hyphens are expected")
    if _depth(payload) > _DEEPEST:
        raise BadPayload(f"nested deeper than {_DEEPEST} levels")
    kind = _word(payload, "metadata", "attributes", "eventType") or "-"
    build = Build(
        progress=_word(payload, "ciBuildRun", "attributes", "executionProgress"),
        status=_word(payload, "ciBuildRun", "attributes", "completionStatus"),
        number=whole(payload, "ciBuildRun", "attributes", "number"),
        payload=payload,
    )
    told = f"{kind}:{build.progress or '-'}:{build.status or '-'}"
    return Delivery(
        "xcode",
        f"{run_id}:{told}",
        kind,
        Bring(_create(payload, run_id, build), SetBuild(build)),
        task_id=f"xcode-{run_id.lower()}",
        identity=f"{run_id.lower()}:{told}",
    )


def _create(payload: dict[str, Any], run_id: str, build: Build) -> Create:
    product = text(payload, "ciProduct", "attributes", "name") or "Xcode Cloud"
    workflow = text(payload, "ciWorkflow", "attributes", "name")
    number = f" build {build.number}" if build.number is not None else f" build {run_id}"
    title = one_line(f"{product}{number}" + (f" ({workflow})" if workflow else "")) or f"build {run_id}"
    commit = text(payload, "ciBuildRun", "attributes", "sourceCommit", "commitSha")
    return Create(
        request_text=f"{title}\n\ncommit {commit}" if commit else title,
        source="xcode",
        title=title,
        created_at=moment(inside(payload, "ciBuildRun", "attributes", "createdDate")),
        origin={
            "build_run_id": run_id,
            "product": product,
            "workflow": workflow,
            "commit": commit,
            "reference": text(payload, "scmGitReference", "attributes", "canonicalName"),
        },
        build=build,
    )


def has_failed(task: Task) -> bool:
    """Whether a build's task shows that it came to its end and failed."""
    build = task.build
    return build is not None and build.progress == "COMPLETE" and build.status in FAILED and MENDS not in task.origin


def mending(task: Task) -> tuple[str, Create]:
    """The task that mends a failed build: always the same id for the same build run."""
    run_id = str(task.origin.get("build_run_id") or task.task_id.removeprefix("xcode-"))
    status = task.build.status if task.build else None
    told = {name: task.origin.get(name) for name in ("product", "workflow", "commit", "reference")}
    lines = [f"{task.title} ended as {status}. Find out why, and mend it.", ""]
    lines += [f"{name}: {value}" for name, value in told.items() if value]
    lines += [f"build run: {run_id}", f"its task: {task.task_id}"]
    create = Create(
        request_text="\n".join(lines),
        source="xcode",
        title=one_line(f"Mend {task.title}"),
        acceptance_criteria=(Criterion(id="AC-1", text=f"What made {task.title} end as {status} is mended."),),
        correlation_id=task.correlation_id,
        origin={"build_run_id": run_id, **told, "status": status, MENDS: task.task_id},
    )
    return f"fix-{run_id.lower()}", create


def _depth(value: Any) -> int:
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(_depth, value), default=0) if isinstance(value, list) else 0


def _word(payload: Any, *path: str) -> str | None:
    """A value of an enumeration, known or not. Raises BadPayload for what is no word."""
    found = inside(payload, *path)
    if found is None:
        return None
    if not isinstance(found, str) or not found or len(found) > _WORD or not found.isprintable():
        raise BadPayload(f"{'.'.join(path)}: a word is expected")
    return found
