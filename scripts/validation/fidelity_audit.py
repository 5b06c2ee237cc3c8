#!/usr/bin/env python3
"""Checks over a workspace's whole log that re-dispatches carried their issues verbatim and in order.

    fidelity_audit.py [WORKSPACE]     default: KIRCERTA_HOME, else the current directory

Exit code 0 when they did, 1 with the first difference when one did not, 2 on wrong use.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

# the checkout, for a start without an installed project
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from ssot.counted import counted
from ssot.fidelity import audit


def main(arguments: list[str]) -> int:
    """Audit the workspace that the arguments name."""
    if arguments[:1] in (["-h"], ["--help"]):
        print(__doc__)
        return 0
    if len(arguments) > 1 or (arguments[:1] and not Path(arguments[0]).is_dir()):
        print(__doc__, file=sys.stderr)
        return 2
    home = Path(arguments[0] if arguments else os.environ.get("KIRCERTA_HOME", "."))
    found = audit(home)
    print(
        f"{found.tasks} tasks, {found.dispatches} dispatches, {found.redispatches} of them again, "
        f"{found.forwarded} issues forwarded, {found.digests} of them checked by digest"
    )
    if found.problem is not None:
        print(f"the log cannot be followed: {found.problem}")
    for one in found.differences[:1]:
        print(f"seq {one.seq} ({one.event} of {one.task_id}, attempt {one.attempt}) differs at {one.where}")
        print(f"  expected {one.expected}")
        print(f"  found    {one.found}")
    print("every issue went on verbatim" if found.ok else counted(len(found.differences), "difference"))
    return 0 if found.ok else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
