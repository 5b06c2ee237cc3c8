"""Reads the YAML front matter of a Markdown file: plain strings and lists, nothing that YAML could build or
blow up.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

MAX_BYTES = 65_536
MAX_DEPTH = 16
_FENCED = re.compile(r"---[ \t]*\n(.*?)(?<![^\n])(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)
_FIELD = re.compile(r"([A-Za-z_][\w-]*):[ \t]*(.*)")
_NAMED = re.compile(r"\s*(?:-[ \t]+|[A-Za-z_][\w-]*:[ \t]+)")
_RESERVED = "@`%"  # no plain YAML value begins with these, but people write `reporter: @someone`
_QUOTED_OR_NESTED = "\"'[{|>&*!#"
_NOTHING = frozenset({"", "~", "null", "Null", "NULL"})


@dataclass(frozen=True, slots=True)
class FrontMatter:
    """The fields in front of a text, and the text; `problem` says what had to be read without YAML, and on
    which line.
    """

    body: str
    fields: dict[str, Any] = field(default_factory=dict)
    problem: str | None = None
    line: int | None = None
    present: bool = False

    def word(self, name: str) -> str | None:
        """A field as one string, None where it says nothing or is a list."""
        value = self.fields.get(name)
        return value.strip() if isinstance(value, str) and value.strip() not in _NOTHING else None


class _PlainLoader(yaml.BaseLoader):
    """Every scalar is a string (`4.10` stays `4.10`); aliases, the stuff of YAML bombs, and deep nesting are
    refused.
    """

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(None, None, "aliases are not read", _here(self))
        if self.depth >= MAX_DEPTH:
            raise yaml.MarkedYAMLError(None, None, f"nested deeper than {MAX_DEPTH} levels", _here(self))
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


def _here(loader: yaml.BaseLoader) -> Any:
    """Where the loader stands."""
    return loader.get_event().start_mark  # type: ignore[no-untyped-call]


def read(text: str) -> FrontMatter:
    """Split a text into its front matter and the rest. Never raises: what YAML cannot read is read line by
    line.
    """
    match = _FENCED.match(text)
    if match is None:
        return FrontMatter(body=text)
    body, front = text[match.end() :], match[1]
    if len(front.encode()) > MAX_BYTES:
        reason = f"front matter larger than {MAX_BYTES // 1024} KiB"
        return FrontMatter(body, {}, reason, 1, present=True)
    try:
        return FrontMatter(body, _fields(front), present=True)
    except yaml.YAMLError as error:
        try:
            return FrontMatter(body, _fields("\n".join(map(_quoted, front.split("\n")))), present=True)
        except yaml.YAMLError:
            return FrontMatter(body, _by_line(front), *_why(error), present=True)


def _fields(front: str) -> dict[str, Any]:
    loader = _PlainLoader(front)
    try:
        found = loader.get_single_data()
    finally:
        loader.dispose()
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise yaml.YAMLError("it is not a list of fields")
    return {str(name): value for name, value in found.items()}


def _quoted(row: str) -> str:
    """The line with its value in quotes, where YAML would trip over the value as it stands."""
    name = _NAMED.match(row)
    value = row[name.end() :].strip() if name else ""
    if name is None or not value or value[0] in _QUOTED_OR_NESTED:
        return row
    if value[0] not in _RESERVED and ": " not in value and not value.endswith(":"):
        return row
    return name[0] + "'" + value.replace("'", "''") + "'"


def _by_line(front: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for row in front.split("\n"):
        if match := _FIELD.fullmatch(row.rstrip()):
            found.setdefault(match[1], match[2].strip("'\""))
    return found


def _why(error: yaml.YAMLError) -> tuple[str, int | None]:
    mark = getattr(error, "problem_mark", None)
    reason = getattr(error, "problem", None) or " ".join(str(error).split())
    return (
        f"front matter is not plain YAML ({reason}); its simple fields were read line by line",
        mark and mark.line + 2,
    )
