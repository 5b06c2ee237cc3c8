"""Stands in for `codex exec --json … -`: the prompt on stdin, thread, turn and item events on stdout."""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any

sys.path.insert(0, os.path.dirname(__file__))
import acting


def tell(kind: str, **more: Any) -> None:
    print(json.dumps({"type": kind, **more}), flush=True)


def item(kind: str, number: int, state: str = "completed", **more: Any) -> None:
    tell(f"item.{state}", item={"id": f"item_{number}", "type": kind, **more})


def command(number: int, line: str, output: str, code: int) -> None:
    item(
        "command_execution", number, "started", command=line, aggregated_output="", exit_code=None, status="in_progress"
    )
    status = "failed" if code else "completed"
    item("command_execution", number, command=line, aggregated_output=output, exit_code=code, status=status)


IS_SHUT_IN = bool(os.statvfs("/proc").f_flag & os.ST_RDONLY)


def work(sandbox: str) -> None:
    if IS_SHUT_IN and sandbox != "danger-full-access":
        work_in_vain()
        return
    command(2, f"bash -lc '{acting.TEST}'", f"1 failed\n{os.environ.get('CODEX_API_KEY', '')}", 1)
    path = acting.edit()
    item("file_change", 3, changes=[{"path": os.path.abspath(path), "kind": "add"}], status="completed")
    item("todo_list", 4, "updated", items=[{"text": "greet", "completed": True}])
    command(5, f"bash -lc '{acting.TEST}'", "2 passed", 0)
    tell("item.surprise", item={"id": "item_9", "type": "of_a_later_version"})


def work_in_vain() -> None:
    """Its own sandbox makes namespaces, which nobody can who is shut in already: nothing is run or written."""
    command(2, f"bash -lc '{acting.TEST}'", "bwrap: setting up uid map: Read-only file system", 1)
    item("file_change", 3, changes=[{"path": os.path.abspath("src/greet.py"), "kind": "add"}], status="failed")


def main() -> int:
    if sys.argv[1:] == ["--version"]:
        print("codex-cli 0.99.0")
        return 0
    parser = argparse.ArgumentParser(prog="codex exec")
    parser.add_argument("exec", choices=["exec"])
    parser.add_argument("--json", action="store_true", required=True)
    parser.add_argument("--color", choices=["always", "never", "auto"])
    parser.add_argument("--skip-git-repo-check", action="store_true")
    parser.add_argument("--model")
    parser.add_argument("--sandbox", choices=["read-only", "workspace-write", "danger-full-access"])
    parser.add_argument("prompt", choices=["-"])
    given = parser.parse_args()
    prompt = sys.stdin.read()
    part = acting.part_of(prompt)
    own = "workspace-write" if part == "work" else "read-only"
    if given.sandbox not in ((own, "danger-full-access") if IS_SHUT_IN and part != "echo" else (own,)):
        return acting.wrong_use(f"{part} in {given.sandbox}")
    home = os.environ.get("CODEX_HOME")
    if home is not None and not os.access(home, os.W_OK):
        return acting.wrong_use("failed to initialize in-process app-server client: Read-only file system")
    tell("thread.started", thread_id="0199a213-81c0-7800-8aa1-bbab2a035a53")
    tell("turn.started")
    if acting.MODE in ("broken", "reconnect"):
        tell("error", message="Reconnecting... 1/5 (unexpected status 401 Unauthorized)")
    if acting.MODE == "broken":
        tell("error", message="unexpected status 401 Unauthorized")
        tell("turn.failed", error={"message": "unexpected status 401 Unauthorized"})
        return 1
    item("error", 1, message="Model metadata not found. Defaulting to fallback metadata.")
    item("reasoning", 0, text="**Reading the task**")
    if acting.MODE == "early" and part == "echo":
        acting.edit(early=True)
    if part == "work":
        work(given.sandbox)
    item("agent_message", 6, text=acting.answer(prompt))
    tell("turn.completed", usage={"input_tokens": 24763, "cached_input_tokens": 24448, "output_tokens": 122})
    return 0


if __name__ == "__main__":
    sys.exit(main())
