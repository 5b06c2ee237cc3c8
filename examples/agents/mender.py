"""An executor that mends the example repository: a program with nothing but the standard library, in its own tree.

It repeats what it was told, changes one line, has the tests run where that is seen, and says what it did.
"""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

FILE = Path("till/price.py")
WRONG = "return cents * (100 - percent) // 100"
RIGHT = "return (cents * (100 - percent) + 50) // 100"
TESTS = ("python3", "-m", "unittest", "-q")


def say(kind: str, **more: Any) -> None:
    print(json.dumps({"type": kind, **more}), flush=True)


def operation(number: int, action: str, target: str, detail: str, exit_code: int | None = None) -> dict[str, Any]:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    done = {"op_id": f"OP-{number}", "at": now, "action": action, "target": target}
    return {**done, "detail": detail, "exit_code": exit_code, "criterion_refs": ["AC-1", "AC-2"]}


def main() -> int:
    told = json.loads(sys.stdin.readline())["dispatch"]
    known = {"dispatch_id": told["dispatch_id"]}
    echo = [{"criterion_ref": one["id"], "text": one["text"]} for one in told["acceptance_criteria"]]
    say("ack", **known, echo=echo, scope=told["scope"], issues=told["issues"])
    FILE.write_text(FILE.read_text().replace(WRONG, RIGHT))
    tests = subprocess.run(["run-for-me", *TESTS], capture_output=True, text=True, check=False)
    say(
        "result",
        **known,
        outcome="completed" if tests.returncode == 0 else "failed",
        summary="Half a cent is rounded up: fifty hundredths are added before the division.",
        work_log=[
            operation(1, "edit", str(FILE), "Add half a cent before dividing."),
            operation(2, "test", " ".join(TESTS), tests.stdout[-1000:], tests.returncode),
        ],
        diff_snapshot=None,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
