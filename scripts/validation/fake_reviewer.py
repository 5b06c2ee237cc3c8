#!/usr/bin/env python3
"""The fake reviewer as a program: one job as JSON on stdin, its messages as lines of JSON on stdout.

Try it by hand: `--help` lists the modes, which go into the job's `options`.
"""

from __future__ import annotations

import os
import sys

# the checkout, for a start without an installed project
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from flows.agents.fake import REVIEWER_MODES, reviewer
from flows.agents.play import main


def modes() -> str:
    """What `--help` prints."""
    return "\n".join([__doc__ or "", *(f"  {mode:24}{what}" for mode, what in REVIEWER_MODES.items())])


if __name__ == "__main__":
    if sys.argv[1:]:
        print(modes())
        sys.exit(0 if sys.argv[1] in ("-h", "--help") else 2)
    sys.exit(main(reviewer))
