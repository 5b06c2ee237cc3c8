"""Tables as notebooks and pages show them: every cell is text, whatever stands in the log. Draws, computes nothing."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pandas as pd

from ssot.counted import counted

TABLE: Final = "application/vnd.kircerta.table+json"
VERDICTS: Final = "application/vnd.kircerta.verdicts+json"
_MISSING: Final = "–"
MOST_ROWS: Final = 40


@dataclass(frozen=True, slots=True)
class Table:
    """A table with what it tells. Notebooks show it by itself; machines find its values in the output beside it."""

    caption: str
    frame: pd.DataFrame
    headed: bool = True

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        shown = self.frame.head(MOST_ROWS)
        rows = [[_plain(value) for value in row] for row in shown.itertuples(index=False, name=None)]
        columns = [str(name) for name in shown.columns]
        return {
            "text/html": self._html(columns, rows),
            "text/plain": f"{self.caption}\n{shown.to_string(index=False)}",
            TABLE: {"caption": self.caption, "columns": columns, "rows": rows},
        }

    def _html(self, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
        numeric = [
            bool(rows) and self.headed and all(_is_number(row[at]) for row in rows) for at in range(len(columns))
        ]
        head = "".join(
            _cell("th", html.escape(_words(name)), right) for name, right in zip(columns, numeric, strict=True)
        )
        body = "".join(
            "<tr>" + "".join(_cell("td", _shown(value), at) for value, at in zip(row, numeric, strict=True)) + "</tr>"
            for row in rows
        )
        if not rows:
            body = f'<tr><td class="quiet" colspan="{len(columns)}">nothing</td></tr>'
        left = len(self.frame) - len(rows)
        more = '<p class="quiet">and ' + counted(left, "more row") + "</p>" if left > 0 else ""
        caption = f"<caption>{html.escape(self.caption)}</caption>" if self.caption else ""
        top = f"<thead><tr>{head}</tr></thead>" if self.headed else ""
        whole = f"<table>{caption}{top}<tbody>{body}</tbody></table>"
        return f'<div class="table">{whole}</div>{more}'


def table(caption: str, frame: pd.DataFrame, columns: Sequence[str] = ()) -> Table:
    """A table of all columns, or of some."""
    return Table(caption, frame[list(columns)] if columns else frame)


def facts(caption: str, told: dict[str, Any]) -> Table:
    """Names and what they are."""
    return Table(caption, pd.DataFrame(list(told.items()), columns=["what", "value"], dtype=object), headed=False)


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _plain(value: Any) -> Any:
    """A cell as JSON has it."""
    if isinstance(value, str):
        return value
    if value is None or value is pd.NA or value is pd.NaT:
        return None
    if isinstance(value, pd.Timestamp):
        return value.strftime("%Y-%m-%d %H:%M:%S")
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        return None if math.isnan(value) else value
    return value if isinstance(value, bool | int) else _listed(value)


def _listed(value: Any) -> str:
    """Several values in one cell, as a person would write them."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_listed(one)}" for name, one in value.items())
    if isinstance(value, list | tuple):
        # what is listed may hold commas itself
        separator = "; " if any(isinstance(one, Mapping) for one in value) else ", "
        return separator.join(_listed(one) for one in value)
    return str(value)


def _shown(value: Any) -> str:
    if value is None:
        return f'<span class="quiet">{_MISSING}</span>'
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return number(value)
    return html.escape(value)


def number(value: float) -> str:
    """A number with three figures that count."""
    if value == 0 or math.isinf(value):
        return f"{value:g}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _cell(tag: str, content: str, right: bool) -> str:
    return f'<{tag} class="number">{content}</{tag}>' if right else f"<{tag}>{content}</{tag}>"


# ------------------------------------------------------------------------------------------- verdicts


@dataclass(frozen=True, slots=True)
class Verdict:
    """One thing that was judged: what, the figure, and whether it holds (None: nobody can tell)."""

    what: str
    value: str
    ok: bool | None


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What a report comes down to. A page shows it on top; the command and the flow print the same."""

    title: str
    all: tuple[Verdict, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing fails: what nobody can tell holds nothing, and fails nothing."""
        return all(one.ok is not False for one in self.all)

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        told = [{"what": one.what, "value": one.value, "ok": one.ok} for one in self.all]
        plain = "\n".join(f"{_MARKS[one.ok][1]}: {one.what} {one.value}" for one in self.all)
        return {"text/html": self._html(), "text/plain": plain, VERDICTS: {"title": self.title, "verdicts": told}}

    def _html(self) -> str:
        rows = "".join(
            f'<tr><td><span class="mark {_MARKS[one.ok][0]}">{_MARKS[one.ok][1]}</span></td>'
            f"<td>{html.escape(one.what)}</td><td>{html.escape(one.value)}</td></tr>"
            for one in self.all
        )
        caption = f"<caption>{html.escape(self.title)}</caption>"
        return f'<div class="table verdicts"><table>{caption}<tbody>{rows}</tbody></table></div>'


_MARKS: Final[dict[bool | None, tuple[str, str]]] = {
    True: ("good", "holds"),
    False: ("bad", "fails"),
    None: ("open", "open"),
}
