"""What a command-line agent prints, read as signs: what it said, ran, edited. Pure, standard library only.

Shapes, as their makers document them (docs/agents.md has the sources): the JSON lines of `codex exec --json`, those of
`claude -p --output-format stream-json`, the one document of `openclaw agent exec --json`, and plain text. What is not
known here is a sign of life and nothing more.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol


class Said(NamedTuple):
    """A text of the agent's."""

    text: str


class Ran(NamedTuple):
    """A command that the agent ran; the exit code is null where the program does not tell it."""

    command: str
    output: str
    exit_code: int | None


class Edited(NamedTuple):
    """A file that the agent changed, and how (`add`, `update`, `delete`, or a tool's name)."""

    path: str
    how: str


class Looked(NamedTuple):
    """A file that the agent read."""

    path: str


class Broke(NamedTuple):
    """The run came to nothing; why, in the program's words."""

    why: str


class Alive(NamedTuple):
    """It does something."""

    what: str


class Ended(NamedTuple):
    """The program's own word that the run is over: it need not be waited for any longer."""


Sign = Said | Ran | Edited | Looked | Broke | Alive | Ended
_MAX_DOCUMENT: Final = 32 * 1024 * 1024
_EXIT: Final = re.compile(r"Exit code (-?\d{1,3})\b")


class Reader(Protocol):
    """Reads one run's output, line by line."""

    def take(self, line: str) -> list[Sign]: ...

    def end(self) -> list[Sign]: ...


# ------------------------------------------------------------------------------------------------------ codex


class CodexReader:
    """The events of `codex exec --json`: thread.*, turn.*, item.*.

    An `error` may be followed by another try ("Reconnecting... 1/5"): it is why a run broke only where nothing ends it.
    """

    def __init__(self) -> None:
        self._error = ""

    def take(self, line: str) -> list[Sign]:
        event = _object(line)
        kind = str(event.get("type", ""))
        if kind == "item.completed":
            return _codex_item(_dict(event.get("item")))
        if kind == "turn.completed":
            self._error = ""
            return [Ended()]
        if kind == "turn.failed":
            self._error = str(_dict(event.get("error")).get("message") or self._error or kind)
            return [Alive(kind)]
        if kind == "error":
            self._error = str(event.get("message") or kind)
            return [Alive(self._error)]
        return [Alive(" ".join(filter(None, (kind, str(_dict(event.get("item")).get("type", ""))))) or "output")]

    def end(self) -> list[Sign]:
        return [Broke(self._error)] if self._error else []


def _codex_item(item: dict[str, Any]) -> list[Sign]:
    kind = str(item.get("type", ""))
    if kind == "agent_message":
        return [Said(str(item.get("text", "")))]
    if kind == "command_execution" and item.get("status") != "declined":
        output = str(item.get("aggregated_output") or "")
        return [Ran(str(item.get("command", "")), output, _number(item.get("exit_code")))]
    if kind == "file_change" and item.get("status") != "failed":
        changes = item.get("changes")
        found = [_dict(one) for one in changes] if isinstance(changes, list) else []
        return [Edited(str(one.get("path", "")), str(one.get("kind", ""))) for one in found]
    return [Alive(kind or "item")]


# ----------------------------------------------------------------------------------------------------- claude


class ClaudeReader:
    """The messages of `claude -p --output-format stream-json`: a tool's use counts once its result is there."""

    def __init__(self) -> None:
        self._open: dict[str, dict[str, Any]] = {}

    def take(self, line: str) -> list[Sign]:
        message = _object(line)
        kind = message.get("type")
        if kind == "result":
            return self._over(message)
        if kind not in ("assistant", "user"):
            told = (message.get(key) for key in ("type", "subtype", "error"))
            return [Alive(" ".join(one for one in told if isinstance(one, str)) or "output")]
        content = _dict(message.get("message")).get("content")
        blocks = [_dict(block) for block in content] if isinstance(content, list) else []
        return [sign for block in blocks for sign in self._block(block)] or [Alive(str(kind))]

    def _block(self, block: dict[str, Any]) -> list[Sign]:
        kind = block.get("type")
        if kind == "text":
            return [Said(str(block.get("text", "")))]
        if kind == "tool_use":
            self._open[str(block.get("id"))] = block
            return [Alive(str(block.get("name", "tool")))]
        if kind == "tool_result":
            return self._done(self._open.pop(str(block.get("tool_use_id")), {}), block)
        return [Alive(str(kind))]

    def _done(self, use: dict[str, Any], result: dict[str, Any]) -> list[Sign]:
        name, given = str(use.get("name", "")), _dict(use.get("input"))
        failed, said = bool(result.get("is_error")), _text_of(result.get("content"))
        if name == "Bash":
            code = _EXIT.match(said)
            return [Ran(str(given.get("command", "")), said, int(code[1]) if code else None if failed else 0)]
        path = str(given.get("file_path") or given.get("notebook_path") or "")
        if name in ("Edit", "MultiEdit", "Write", "NotebookEdit") and path and not failed:
            return [Edited(path, name)]
        if name == "Read" and path and not failed:
            return [Looked(path)]
        return [Alive(name or "tool")]

    def _over(self, message: dict[str, Any]) -> list[Sign]:
        said = str(message.get("result") or "")
        if message.get("is_error") or message.get("subtype", "success") != "success":
            return [Broke(said or str(message.get("subtype", "error"))), Ended()]
        return [Said(said), Ended()]

    def end(self) -> list[Sign]:
        """Tools whose result never came: they were begun, how they ended nobody knows."""
        commands = [_dict(use.get("input")).get("command") for use in self._open.values()]
        return [Ran(str(command), "", None) for command in commands if command]


def _text_of(content: Any) -> str:
    if isinstance(content, list):
        return "\n".join(str(_dict(block).get("text", "")) for block in content)
    return str(content or "")


# ------------------------------------------------------------------------------------------- openclaw, and text


class DocumentReader:
    """One JSON document with `payloads` (or `result.payloads`), as `openclaw agent exec --json` prints it at the end.

    Lines before it are the program's log. The document ends with a line `}`: the program itself may go on running.
    """

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._bytes = 0

    def take(self, line: str) -> list[Sign]:
        if line.startswith("{") and self._lines and not self._lines[0].startswith("{"):
            self._lines, self._bytes = [], 0
        self._bytes += len(line)
        if self._bytes > _MAX_DOCUMENT:
            return [Broke(f"its answer is larger than {_MAX_DOCUMENT} bytes")]
        self._lines.append(line)
        return self._answer() if line.endswith("}") and not line.startswith((" ", "\t")) else [Alive("output")]

    def end(self) -> list[Sign]:
        return []

    def _answer(self) -> list[Sign]:
        document = _object("\n".join(self._lines))
        if document.get("status") in ("error", "timeout"):
            why = _dict(document.get("error")).get("message") or document.get("summary") or document["status"]
            return [Broke(str(why)), Ended()]
        found = document.get("payloads") or _dict(document.get("result")).get("payloads")
        if isinstance(found, list):
            return [*(Said(str(_dict(one).get("text") or "")) for one in found), Ended()]
        return [Alive("output")]


class TextReader:
    """Plain text: all of it is what the agent said."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._bytes = 0

    def take(self, line: str) -> list[Sign]:
        self._lines.append(line)
        self._bytes += len(line)
        while self._bytes > _MAX_DOCUMENT:  # its last word is what counts
            self._bytes -= len(self._lines.pop(0))
        return [Alive("output")]

    def end(self) -> list[Sign]:
        return [Said("\n".join(self._lines))]


READERS: Final[dict[str, Callable[[], Reader]]] = {
    "codex": CodexReader,
    "claude": ClaudeReader,
    "openclaw": DocumentReader,
    "text": TextReader,
}


def _object(line: str) -> dict[str, Any]:
    """A line as a JSON object; an empty one where it is none."""
    try:
        return _dict(json.loads(line))
    except (ValueError, RecursionError):
        return {}


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: Any) -> int | None:
    is_code = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**32
    return value if is_code else None
