"""What all stand-ins do alike: read a prompt, answer it, change a file. How they print it is each one's own.

`STAND_IN` names what goes wrong: never_echo, wrong_echo, early (works when it should only echo), mute (no last answer),
broken (ends as the program does when its account is refused), reconnect (loses its model and finds it again),
linger (does not end), leak (writes its key into a file).
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

MODE = os.environ.get("STAND_IN", "")
TEST = "python -m pytest -q tests/test_greet.py"


def blocks(prompt: str) -> list[Any]:
    return [json.loads(found) for found in re.findall(r"```json\n(.*?)\n```", prompt, re.DOTALL)]


def told_in(prompt: str) -> dict[str, Any]:
    return next(one for one in blocks(prompt) if "acceptance_criteria" in one)


def part_of(prompt: str) -> str:
    """echo, work or review: the form that the prompt asks for."""
    return {"ack": "echo", "result": "work", "verdict": "review"}[blocks(prompt)[-1]["type"]]


def fenced(answer: Any) -> str:
    return f"Here it is.\n\n```json\n{json.dumps(answer, indent=2)}\n```\n"


def edit(*, early: bool = False) -> str:
    """Change the file that is asked for; gives its path."""
    path = Path("src") / ("early.py" if early else "greet.py")
    path.parent.mkdir(exist_ok=True)
    key = next((value for name, value in os.environ.items() if name.endswith("_API_KEY")), "")
    path.write_text(f"KEY = {key!r}\n" if MODE == "leak" else 'def greet(name):\n    return f"Hello, {name}!"\n')
    return str(path)


def echo(prompt: str) -> str:
    told = told_in(prompt)
    if MODE == "never_echo" or (MODE == "second_echo" and "What you answered before" not in prompt):
        return "Sure, I will get right to it!"
    said = [{"criterion_ref": one["id"], "text": one["text"]} for one in told["acceptance_criteria"]]
    if MODE == "wrong_echo":
        said[0]["text"] += " (roughly)"
    ack = {"type": "ack", "dispatch_id": told["dispatch_id"], "echo": said}
    return fenced({**ack, "scope": told["scope"], "issues": told["issues"]})


def result(prompt: str) -> str:
    if MODE == "mute":
        return "All done."
    told = told_in(prompt)
    claims = [
        {"criterion_ref": one["id"], "files": ["src/greet.py"], "commands": [TEST], "note": f"{one['id']} is met"}
        for one in told["acceptance_criteria"]
    ]
    return fenced({"type": "result", "outcome": "completed", "summary": "Greets, tested.", "criteria": claims})


def verdict(prompt: str) -> str:
    delivered = next(one for one in blocks(prompt) if "work_log" in one)
    tests = [one for one in delivered["work_log"] if one["action"] == "test"]
    if tests and all(one["exit_code"] == 0 for one in tests):
        said = f"AC-1 is shown by {tests[-1]['op_id']}."
        return fenced({"type": "verdict", "decision": "approve", "summary": said, "issues": []})
    issue = {
        "issue_id": "IS-1",
        "criterion_ref": "AC-1",
        "op_refs": ["OP-1"],
        "severity": "blocker",
        "text": "untested",
    }
    return fenced({"type": "verdict", "decision": "reject", "summary": "AC-1 is not shown.", "issues": [issue]})


def answer(prompt: str) -> str:
    return {"echo": echo, "work": result, "review": verdict}[part_of(prompt)](prompt)


def wrong_use(why: str) -> int:
    sys.stderr.write(f"error: {why}\n")
    return 2
