"""A workspace's tables in `config/`: read as they are meant, or not at all.

What is wrong is told by its place and its key, never by its value: that might be a secret.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Final, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from audit import files

MAX_FILE_BYTES: Final = 1024 * 1024


class NotStrictTOML(ValueError):
    """A file that cannot be used. The message says where in it, and why."""


class Table(BaseModel):
    """A table: frozen, no coercion, no key that is not known."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", hide_input_in_errors=True)


TableT = TypeVar("TableT", bound=Table)


def read(path: Path) -> bytes | None:
    """The file's bytes, None where there is no file. Raises NotStrictTOML."""
    try:
        return files.read_regular(path, MAX_FILE_BYTES)[0]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, files.NotRegular) as error:
        raise NotStrictTOML(f"it cannot be read: {error}") from None


def parse(raw: bytes, table: type[TableT]) -> TableT:
    """What a file's bytes say. Raises NotStrictTOML."""
    try:
        told = tomllib.loads(raw.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise NotStrictTOML(f"it is no TOML {_place(error)}".rstrip()) from None
    try:
        return table.model_validate(told)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        unknown = first["type"] == "extra_forbidden"
        reason = "there is no such key" if unknown else first["msg"].removeprefix("Value error, ")
        raise NotStrictTOML(f"{where}: {reason}") from None


def _place(error: Exception) -> str:
    """The line and column in the parser's message, without the text that stands there."""
    return str(error).rpartition("(")[2].rstrip(")") if "(at " in str(error) else ""
