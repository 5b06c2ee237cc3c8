"""`run-for-me COMMAND…`: asks the one who watches to run a command, and ends as the command did. Standard library.

A script on an agent's PATH. What it runs is seen, and so counts as having happened; a command that an agent runs by
itself does not. One word with blanks in it is a line for the shell.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from typing import Any

SOCKET = "errands"
NOT_RUN = 125


def main(words: list[str]) -> int:
    if not words:
        sys.stderr.write("run-for-me: which command?\n")
        return NOT_RUN
    try:
        answer = ask(words)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"run-for-me: nobody answers: {error}\n")
        return NOT_RUN
    sys.stdout.write(answer.get("output", ""))
    sys.stdout.flush()
    if answer.get("problem"):
        sys.stderr.write(f"run-for-me: {answer['problem']}\n")
    code = answer.get("exit_code")
    return NOT_RUN if code is None else int(code)


def ask(words: list[str]) -> dict[str, Any]:
    """Send the words, and wait for the end of the command."""
    # A socket's name holds 107 bytes at most, and the folder's may be longer: it is named from inside.
    os.chdir(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(SOCKET)
        line.sendall(json.dumps({"command": words}).encode() + b"\n")
        with line.makefile("rb") as answer:
            return dict(json.loads(answer.read()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
