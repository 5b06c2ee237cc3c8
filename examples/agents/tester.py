"""A reviewer that runs the tests of the example repository in the tree with the change, and judges by them alone."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

TESTS = ("python3", "-m", "unittest", "-q")


def main() -> int:
    job = json.loads(sys.stdin.readline())
    tests = subprocess.run(["run-for-me", *TESTS], capture_output=True, text=True, check=False)
    passed = tests.returncode == 0
    operations = [one["op_id"] for one in job["result"]["work_log"]]
    issue = {
        "issue_id": "IS-1",
        "criterion_ref": job["dispatch"]["acceptance_criteria"][0]["id"],
        "op_refs": operations[:1],
        "severity": "blocker",
        "text": f"The tests do not pass:\n{tests.stdout[-2000:]}",
    }
    verdict: dict[str, Any] = {
        "dispatch_id": job["dispatch"]["dispatch_id"],
        "decision": "approve" if passed else "reject",
        "summary": f"{' '.join(TESTS)} ended with {tests.returncode}.",
        "issues": [] if passed else [issue],
    }
    print(json.dumps({"type": "verdict", **verdict}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
