"""Stands in for any command: the prompt on stdin, text on stdout."""

from __future__ import annotations

import os
import sys

sys.path.insert(0, os.path.dirname(__file__))
import acting

if __name__ == "__main__":
    prompt = sys.stdin.read()
    if acting.part_of(prompt) == "work":
        acting.edit()
    print(acting.answer(prompt))
