"""From what a command-line agent said and did to kircerta's messages. Pure, standard library only.

What the agent claims and what its events show are kept apart: operations come from the events and from the work tree,
its claims only say which criteria they were for, and stand as notes.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Final

from flows.agents.play import Line, now
from flows.agents.signs import Edited, Looked, Ran, Sign
from ssot.counted import counted

MAX_OPERATIONS: Final = 2_000
MAX_OUTPUT: Final = 16 * 1024
MAX_SUMMARY: Final = 16 * 1024


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


_TEST: Final = re.compile(
    r"\b(pytest|unittest|nosetests|tox|nox|ctest|rspec|jest|vitest|mocha|phpunit|"
    r"(cargo|go|swift|dotnet|mvn|gradle|bazel|mix|deno|bun|npm|pnpm|yarn|make|xcodebuild|flutter)( run)?"
    r" (test|check))\b"
)
_DECODER: Final = json.JSONDecoder(parse_constant=_refuse)
_BEGINS: Final = re.compile(r"^[ \t]*(?:```(?:json)?[ \t]*)?(?=\{)", re.MULTILINE)


def find(said: Sequence[str], kind: str) -> Line | None:
    """The last JSON object of a type in what was said, in a fenced block or bare; None where there is none."""
    for text in reversed(said):
        found = [one for one in _objects(text) if one.get("type") == kind]
        if found:
            return found[-1]
    return None


def _objects(text: str) -> Iterable[Line]:
    at = 0
    while (begin := _BEGINS.search(text, at)) is not None:
        try:
            value, at = _DECODER.raw_decode(text, begin.end())
        except (ValueError, RecursionError):
            at = begin.end() + 1
        else:
            yield value


def echo_of(job: Mapping[str, Any]) -> Line:
    """The only right ACK of a dispatch."""
    dispatch = job["dispatch"]
    echo = [{"criterion_ref": one["id"], "text": one["text"]} for one in dispatch["acceptance_criteria"]]
    return {
        "type": "ack",
        "dispatch_id": dispatch["dispatch_id"],
        "echo": echo,
        "scope": list(dispatch["scope"]),
        "issues": list(dispatch["issues"]),
    }


def difference(said: Line, right: Line) -> str:
    """Where an echo is not the dispatch, in a word; empty where it is. Whether it counts is judged by the rules."""
    wrong = [key for key in right if said.get(key) != right[key]]
    more = [key for key in said if key not in right]
    return f"{', '.join(wrong + more)} differ from what you were told" if wrong or more else ""


@dataclass(slots=True)
class WorkLog:
    """The operations of one run, as they happen. Beyond a number only their count is kept.

    Args:
        folder: what the diff's paths begin from.
        cwd: what the agent's own paths begin from.
    """

    folder: str
    cwd: str
    operations: list[Line] = field(default_factory=list)
    left_out: int = 0

    def take(self, sign: Sign) -> None:
        if isinstance(sign, Ran):
            action = "test" if _TEST.search(sign.command) else "run"
            self._add(action, " ".join(sign.command.split()), _tail(sign.output), sign.exit_code)
        elif isinstance(sign, Edited):
            self._add("edit", self._inside(sign.path), sign.how)
        elif isinstance(sign, Looked):
            self._add("read", self._inside(sign.path), "")

    def add_found(self, paths: Iterable[str]) -> None:
        """Files that differ in the work tree and that no event named."""
        named = {one["target"] for one in self.operations if one["action"] == "edit"}
        for path in paths:
            if path not in named:
                self._add("edit", path, "found changed in the work tree; the agent's events do not name it")

    def add_claims(self, claims: Sequence[Mapping[str, Any]], known: Sequence[str]) -> None:
        """Say which criteria the operations were for, and keep what was said of each criterion as a note."""
        for claim in claims:
            ref = str(claim.get("criterion_ref", ""))
            if ref not in known:
                self._add("note", "claim", f"about {ref!r}, which is no criterion: {claim.get('note', '')}")
                continue
            files = _strings(claim.get("files"))
            self._refer(ref, {*files, *(self._inside(path) for path in files)})
            self._refer_commands(ref, _strings(claim.get("commands")))
            self._add("note", ref, str(claim.get("note", ""))[:MAX_SUMMARY], refs=[ref])
        if len(known) == 1:  # whatever was changed was for it
            self._refer(known[0], {one["target"] for one in self.operations if one["action"] == "edit"})

    def add_note(self, about: str, text: str) -> None:
        """A remark of the adapter's own."""
        self._add("note", about, text)

    def _refer(self, ref: str, targets: set[str]) -> None:
        for one in self.operations:
            if one["action"] in ("edit", "read") and one["target"] in targets and ref not in one["criterion_refs"]:
                one["criterion_refs"].append(ref)

    def _refer_commands(self, ref: str, commands: Sequence[str]) -> None:
        told = [" ".join(command.split()) for command in commands if command.strip()]
        for one in self.operations:
            ran = one["action"] in ("run", "test") and any(command in one["target"] for command in told)
            if ran and ref not in one["criterion_refs"]:
                one["criterion_refs"].append(ref)

    def _inside(self, path: str) -> str:
        """A path as the diff would name it; one outside of the folder stays what it is: the scope will tell."""
        whole = posixpath.normpath(posixpath.join(self.cwd, path))
        try:
            return str(PurePosixPath(whole).relative_to(self.folder))
        except ValueError:
            return whole

    def _add(
        self, action: str, target: str, detail: str, exit_code: int | None = None, refs: Sequence[str] = ()
    ) -> None:
        if len(self.operations) >= MAX_OPERATIONS and action != "note":
            self.left_out += 1
            return
        operation = {"op_id": f"OP-{len(self.operations) + 1}", "at": now(), "action": action}
        said = {"target": _plain(target), "detail": detail, "exit_code": exit_code, "criterion_refs": list(refs)}
        self.operations.append(operation | said)


def result_of(job: Mapping[str, Any], answer: Line | None, log: WorkLog, diff: Line | None, last: str) -> Line:
    """The result. Without an answer of the agent's, or with one that cannot be, it is `failed` and says so."""
    claims = (answer or {}).get("criteria")
    known = [one["id"] for one in job["dispatch"]["acceptance_criteria"]]
    log.add_claims([one for one in claims if isinstance(one, dict)] if isinstance(claims, list) else [], known)
    if log.left_out:
        left = counted(log.left_out, "more operation was made and is", "more operations were made and are")
        log.add_note("work log", f"{left} not listed")
    if not log.operations:
        log.add_note("work log", "the agent did nothing that could be seen")
    if answer is None:
        outcome, summary = "failed", f"The agent ended without a result. Its last words: {last[-2000:]}"
    else:
        outcome, summary = str(answer.get("outcome", "")), str(answer.get("summary", ""))[:MAX_SUMMARY]
    if outcome not in ("completed", "failed"):
        outcome, summary = "failed", f"The agent called its outcome {outcome[:100]!r}. {summary}"
    return {
        "type": "result",
        "dispatch_id": job["dispatch"]["dispatch_id"],
        "outcome": outcome,
        "summary": summary,
        "work_log": log.operations,
        "diff_snapshot": diff,
    }


def verdict_of(job: Mapping[str, Any], answer: Line) -> Line:
    """The verdict as the agent gave it: the rules judge what stands in it."""
    return {**answer, "dispatch_id": job["dispatch"]["dispatch_id"]}


def snapshot(text: str, base: str) -> Line:
    """A diff as a result carries it."""
    return {"format": "unified", "base": base, "sha256": hashlib.sha256(text.encode()).hexdigest(), "text": text}


def _tail(output: str) -> str:
    if len(output) <= MAX_OUTPUT:
        return output
    return f"[{len(output) - MAX_OUTPUT} characters before this are left out]\n{output[-MAX_OUTPUT:]}"


def _plain(target: str) -> str:
    return target.replace("\n", " ").replace("\r", " ").replace("\x00", " ")[:4096]


def _strings(value: Any) -> list[str]:
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []
