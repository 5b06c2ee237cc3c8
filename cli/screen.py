"""What a command shows: tables and lines for people, JSON for machines, progress on stderr. Nothing else prints."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Final

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]

Progress = Callable[[int, int | None], None]
"""Called with how much is done, and of how much (None where nobody knows)."""

PATIENCE_S: Final = 1.0
"""What is done within this time shows no progress."""
_TERMINAL_EVERY_S: Final = 0.1
_LINES_EVERY_S: Final = 5.0
_WIDE: Final = 100_000
STYLES: Final = {
    "pending": "cyan",
    "needs_review": "yellow",
    "approved": "green",
    "rejected": "red",
    "ok": "green",
    "warn": "yellow",
    "fail": "red",
}


def clean(text: str) -> str:
    """Text that others wrote, harmless on a terminal: what would steer it or turn its direction is escaped."""
    return "".join(char if char.isprintable() or char in "\n\t\u200d" else _escape(char) for char in text)


def _escape(char: str) -> str:
    return char.encode("unicode_escape", "backslashreplace").decode()


def one_line(text: str) -> str:
    """Text that others wrote, on one line."""
    return " ".join(clean(text).split())


def say(text: str = "", style: str = "") -> None:
    """A line for people."""
    from rich.text import Text

    _console().print(Text(clean(text), style), soft_wrap=True)


def note(text: str) -> None:
    """A remark beside the output, on stderr."""
    print(clean(text), file=sys.stderr, flush=True)


def put_json(value: Any) -> None:
    """One JSON document (ready bytes, or a value) and a newline."""
    import orjson

    put_bytes((value if isinstance(value, bytes) else orjson.dumps(value)) + b"\n")


def put_bytes(data: bytes) -> None:
    """Exact bytes to stdout."""
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def put_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, styled: str | None = None) -> None:
    """A table without borders. Into a pipe every value goes out whole; a terminal wraps its last column.

    `styled` names the column whose words have a colour of their own (`STYLES`).
    """
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, name in enumerate(columns):
        table.add_column(name, no_wrap=number < len(columns) - 1, overflow="fold")
    at = columns.index(styled) if styled is not None else -1
    for row in rows:
        cells = [one_line(str(cell)) for cell in row]
        table.add_row(
            *(Text(cell, STYLES.get(cell.split(" ")[0], "") if i == at else "") for i, cell in enumerate(cells))
        )
    _console().print(table)


def _console() -> Any:
    from rich.console import Console

    width = None if sys.stdout.isatty() else _WIDE
    return Console(markup=False, highlight=False, emoji=False, width=width)


@contextmanager
def progress(what: str) -> Iterator[Progress]:
    """Tells on stderr how far something has come, once it takes longer than a second."""
    teller = _Teller(what)
    try:
        yield teller.tell
    finally:
        teller.end()


@contextmanager
def live() -> Iterator[Callable[[str], None]]:
    """Shows a line on stderr that changes as things go on."""
    teller = _Teller("")
    try:
        yield teller.show
    finally:
        teller.end()


class _Teller:
    """One line that is written over on a terminal; elsewhere a line now and then."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._terminal = sys.stderr.isatty()
        self._next = time.monotonic() + PATIENCE_S
        self._told = False

    def tell(self, done: int, total: int | None) -> None:
        self.show(f"{self._what}: {done:,}" + (f" of {total:,}" if total else ""))

    def show(self, line: str) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + (_TERMINAL_EVERY_S if self._terminal else _LINES_EVERY_S)
        self._told = True
        if self._terminal:
            line = line[: shutil.get_terminal_size().columns - 1]
        sys.stderr.write(f"\r{line}\x1b[K" if self._terminal else f"{line}\n")
        sys.stderr.flush()

    def end(self) -> None:
        if self._told and self._terminal:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
