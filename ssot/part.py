"""What every part of a task document is made of: strict frozen models, and the words that stand in their fields."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Final, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from audit.stamp import seconds_of

TASK_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)
PRINCIPAL: Final = re.compile(r"[a-z0-9][a-z0-9._@-]{0,63}", re.ASCII)

_RFC3339: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z", re.ASCII)


class Invalid(Exception):
    """A document or a part of one that breaks the schema. `field` says where, `reason` what is expected."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}" if field else reason)
        self.field = field
        self.reason = reason


def _task_id(value: str) -> str:
    if not TASK_ID.fullmatch(value):
        raise ValueError(
            "a task id is 1 to 128 letters, digits, dots, underscores and hyphens, no hyphen, dot or _ first"
        )
    return value


@lru_cache(4096)
def _timestamp(value: str) -> str:
    if not _RFC3339.fullmatch(value):
        raise ValueError("a time is RFC 3339 in UTC, e.g. 2026-01-31T09:00:00Z")
    seconds_of(value)
    return value


def _digest(value: str) -> str:
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", value):
        raise ValueError("a digest is sha256: and 64 hex digits")
    return value


def _hex_digest(value: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{64}", value):
        raise ValueError("64 hex digits are expected")
    return value


def _no_line_break(value: str) -> str:
    if "\n" in value or "\r" in value or "\x00" in value:
        raise ValueError("one line without line breaks is expected")
    return value


def _no_nul(value: str) -> str:
    if "\x00" in value:
        raise ValueError("a command holds no NUL")
    return value


TaskId = Annotated[str, AfterValidator(_task_id)]
Timestamp = Annotated[str, AfterValidator(_timestamp)]
Digest = Annotated[str, AfterValidator(_digest)]
HexDigest = Annotated[str, AfterValidator(_hex_digest)]
Name = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_no_line_break)]
Line = Annotated[str, Field(max_length=4096), AfterValidator(_no_line_break)]
Word = Annotated[str, Field(max_length=16384), AfterValidator(_no_nul)]
"""A word of a command, or all of it as a line for the shell."""


def optional(default: Any = None, **more: Any) -> Any:
    """A field that is left out of the document while it says nothing."""
    return Field(default=default, exclude_if=lambda value: value == default, **more)


class Part(BaseModel):
    """Anything inside a task document: immutable, no coercion, no unknown field."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", hide_input_in_errors=True)


class Texted(Part):
    """A part with a text that may be long: over 32 KiB the text is null and `blob` beside it is its digest."""

    text_field: ClassVar[str] = "text"

    @model_validator(mode="after")
    def _text_or_blob(self) -> Self:
        if (getattr(self, self.text_field) is None) != (getattr(self, "blob", None) is not None):
            raise ValueError(f"{self.text_field} is a text, or null with a blob beside it that names it by its digest")
        return self
