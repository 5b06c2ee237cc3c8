"""Stands in for `aider --message-file … --yes-always`: plain text on stdout, its own files in the work tree."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, os.path.dirname(__file__))
import acting

FLAGS = (
    "--yes-always",
    "--no-auto-commits",
    "--no-dirty-commits",
    "--no-gitignore",
    "--no-pretty",
    "--no-stream",
    "--no-fancy-input",
    "--no-check-update",
    "--no-show-release-notes",
    "--no-detect-urls",
    "--no-suggest-shell-commands",
    "--analytics-disable",
)


def main() -> int:
    if sys.argv[1:] == ["--version"]:
        print("aider 0.99.0")
        return 0
    parser = argparse.ArgumentParser(prog="aider")
    parser.add_argument("--message-file", "-f", type=Path, required=True)
    parser.add_argument("--model")
    parser.add_argument("--chat-mode", choices=["code", "ask", "architect"], default="code")
    parser.add_argument("--chat-history-file", type=Path, default=Path(".aider.chat.history.md"))
    parser.add_argument("--input-history-file", type=Path, default=Path(".aider.input.history"))
    for flag in FLAGS:
        parser.add_argument(flag, action="store_true")
    given = parser.parse_args()
    prompt = given.message_file.read_text()
    part = acting.part_of(prompt)
    if given.chat_mode != ("code" if part == "work" else "ask"):
        return acting.wrong_use(f"{part} in mode {given.chat_mode}")
    given.chat_history_file.write_text("# aider chat\n")
    if subprocess.run(("git", "config", "--get", "user.name"), capture_output=True, check=False).returncode:
        subprocess.run(("git", "config", "user.name", "Your Name"), check=True)
    with suppress(OSError):  # a tree that is read-only: it goes on without its cache
        Path(".aider.tags.cache.v4").mkdir(exist_ok=True)
        Path(".aider.tags.cache.v4/cache.db").write_text("x")
    print("Aider v0.99.0\nModel: some-model with diff edit format\nGit repo: .git with 2 files\n")
    if part == "work":
        print(f"Applied edit to {acting.edit()}")
    print(acting.answer(prompt))
    print("Tokens: 2.1k sent, 120 received.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
