"""Stands in for `openclaw agent exec --json --message-file`: log lines, one document; it may stay."""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from pathlib import Path

sys.path.insert(0, os.path.dirname(__file__))
import acting

ADDRESSES = 16 * 1024**3
"""Bytes of address space that its JavaScript engine and worker threads reserve, whatever they use of it."""


def main() -> int:
    if sys.argv[1:] == ["--version"]:
        print("OpenClaw 2026.9.9 (0123456)")
        return 0
    parser = argparse.ArgumentParser(prog="openclaw agent exec")
    parser.add_argument("agent", choices=["agent"])
    parser.add_argument("exec", choices=["exec"])
    parser.add_argument("--json", action="store_true", required=True)
    parser.add_argument("--timeout", type=int, default=600)
    parser.add_argument("--message-file", type=Path, required=True)
    parser.add_argument("--thinking", choices=["off", "minimal", "low", "medium", "high"])
    parser.add_argument("--model")
    given = parser.parse_args()
    prompt = given.message_file.read_text()
    if 0 <= resource.getrlimit(resource.RLIMIT_AS)[0] < ADDRESSES:
        sys.stderr.write("# Fatal process out of memory: Zone\n")
        return 133
    print("[plugins] registered", flush=True)
    if acting.MODE == "broken":
        why = {"message": "No API key found for provider", "kind": "config"}
        print(json.dumps({"ok": False, "status": "error", "final": "", "payloads": [], "error": why}, indent=2))
        return 1
    if acting.part_of(prompt) == "work":
        acting.edit()
    said = acting.answer(prompt)
    meta = {"assistantTurns": 5, "toolSummary": {"calls": 4, "tools": ["exec", "read"]}, "model": "m", "provider": "p"}
    payloads = [{"text": "On it.", "mediaUrl": None}, {"text": said, "mediaUrl": None}]
    print(json.dumps({"ok": True, "status": "ok", "final": said, "payloads": payloads, **meta}, indent=2), flush=True)
    if acting.MODE == "linger":
        time.sleep(600)
    return 0


if __name__ == "__main__":
    sys.exit(main())
