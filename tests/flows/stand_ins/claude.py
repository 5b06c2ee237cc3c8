"""Stands in for `claude -p --output-format stream-json --verbose`: the prompt on stdin, messages on stdout."""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any

sys.path.insert(0, os.path.dirname(__file__))
import acting

SESSION = {"session_id": "3f1c9a52-0000-4000-8000-000000000000", "parent_tool_use_id": None}


def tell(message: dict[str, Any]) -> None:
    print(json.dumps({**message, **SESSION}), flush=True)


def say(block: dict[str, Any]) -> None:
    tell({"type": "assistant", "message": {"role": "assistant", "type": "message", "content": [block]}})


def use(number: int, name: str, given: dict[str, Any], said: Any, *, is_error: bool = False) -> None:
    tool = f"toolu_{number:02}"
    say({"type": "tool_use", "id": tool, "name": name, "input": given})
    result = {"type": "tool_result", "tool_use_id": tool, "content": said, "is_error": is_error}
    tell({"type": "user", "message": {"role": "user", "content": [result]}})


def work() -> None:
    use(1, "Read", {"file_path": os.path.abspath("README.md")}, [{"type": "text", "text": "     1\t# Greet"}])
    use(2, "Bash", {"command": acting.TEST}, "Exit code 1\n1 failed", is_error=True)
    path = os.path.abspath(acting.edit())
    use(3, "Edit", {"file_path": os.path.abspath("src/gone.py")}, "File does not exist.", is_error=True)
    use(4, "Write", {"file_path": path, "content": "..."}, f"File created successfully at: {path}")
    use(5, "Bash", {"command": acting.TEST}, "2 passed")


def main() -> int:
    if sys.argv[1:] == ["--version"]:
        print("2.9.9 (Claude Code)")
        return 0
    parser = argparse.ArgumentParser(prog="claude")
    parser.add_argument("-p", "--print", action="store_true", required=True)
    parser.add_argument("--output-format", choices=["text", "json", "stream-json"])
    parser.add_argument("--verbose", action="store_true", required=True)
    parser.add_argument("--model")
    parser.add_argument("--permission-mode", choices=["default", "acceptEdits", "plan", "bypassPermissions"])
    parser.add_argument("--allowedTools", "--allowed-tools", default="")
    parser.add_argument("--tools", default="default")
    given = parser.parse_args()
    prompt = sys.stdin.read()
    part = acting.part_of(prompt)
    if part != "work" and given.tools != "Read,Glob,Grep":
        return acting.wrong_use(f"{part} with every tool")
    tell(
        {
            "type": "system",
            "subtype": "init",
            "tools": ["Bash", "Edit"],
            "model": given.model,
            "permissionMode": "default",
        }
    )
    if acting.MODE == "broken":
        tell(
            {
                "type": "system",
                "subtype": "api_retry",
                "attempt": 1,
                "error_status": 401,
                "error": "authentication_failed",
            }
        )
        tell({"type": "result", "subtype": "success", "is_error": True, "result": "Not logged in", "num_turns": 1})
        return 1
    if part == "work":
        work()
    said = acting.answer(prompt)
    say({"type": "text", "text": said})
    over = {"duration_ms": 1200, "num_turns": 3, "total_cost_usd": 0.01, "permission_denials": []}
    tell({"type": "result", "subtype": "success", "is_error": False, "result": said, **over})
    return 0


if __name__ == "__main__":
    sys.exit(main())
