"""Stands in for `openclaw agent --local --json --message-file`: log lines, one document; it may stay."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, os.path.dirname(__file__))
import acting


def main() -> int:
    if sys.argv[1:] == ["--version"]:
        print("2026.6.27")
        return 0
    parser = argparse.ArgumentParser(prog="openclaw agent")
    parser.add_argument("agent", choices=["agent"])
    parser.add_argument("--local", action="store_true", required=True)
    parser.add_argument("--json", action="store_true", required=True)
    parser.add_argument("--session-id", required=True)
    parser.add_argument("--message-file", type=Path, required=True)
    parser.add_argument("--thinking", choices=["off", "minimal", "low", "medium", "high"])
    parser.add_argument("--model")
    given = parser.parse_args()
    prompt = given.message_file.read_text()
    print("[plugins] registered", flush=True)
    if acting.MODE == "broken":
        return acting.wrong_use("No API key found for provider")
    if acting.part_of(prompt) == "work":
        acting.edit()
    meta = {"durationMs": 1200, "agentMeta": {"sessionId": given.session_id, "provider": "p", "model": "m"}}
    payloads = [{"text": "On it.", "mediaUrl": None}, {"text": acting.answer(prompt), "mediaUrl": None}]
    print(json.dumps({"payloads": payloads, "meta": meta}, indent=2), flush=True)
    if acting.MODE == "linger":
        time.sleep(600)
    return 0


if __name__ == "__main__":
    sys.exit(main())
