"""An executed notebook as one HTML file that works offline: prose, tables, charts; no input, no script, no address."""

from __future__ import annotations

import html
import itertools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from markdown_it import MarkdownIt

_STYLE: Final = Path(__file__).with_name("page.css")
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
_NAMES: Final = "script|iframe|object|embed|link|meta|base|form|foreignObject"
_ACTIVE: Final = re.compile(
    rf"<({_NAMES})\b[^>]*(?<!/)>.*?</\1\s*>|</?(?:{_NAMES})\b[^>]*>?|<!--.*?(?:-->|\Z)", re.IGNORECASE | re.DOTALL
)
_HANDLER: Final = re.compile(r"""\s(?:on[a-z]+|srcdoc|formaction)\s*=\s*("[^"]*"|'[^']*'|[^\s>]+)""", re.IGNORECASE)
_ELSEWHERE: Final = re.compile(
    r"""\s(?:xlink:href|href|src|action|xmlns(?::[a-z]+)?)\s*=\s*("(?!#|data:image/)[^"]*"|'(?!#|data:image/)[^']*')""",
    re.IGNORECASE,
)
_ID: Final = re.compile(r"""(\sid="|url\(#|href="#)([^")]+)""")
_MARKDOWN: Final = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")


def page_of(notebook: Mapping[str, Any], title: str, *, made_at: str) -> str:
    """The page of a notebook that was executed. Text in outputs of other types than we make is shown as text."""
    ids = itertools.count(1)
    body = "\n".join(part for cell in notebook["cells"] for part in _cell(cell, ids))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{html.escape(title)}</title>\n<style>\n{_STYLE.read_text()}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n<footer>Made at {html.escape(made_at)} by kircerta. "
        "The notebook beside this page holds how each figure was made.</footer>\n</body>\n</html>\n"
    )


def _cell(cell: Mapping[str, Any], ids: Iterator[int]) -> Iterator[str]:
    if cell["cell_type"] == "markdown":
        yield inert(_MARKDOWN.render("".join(cell["source"])))
    elif cell["cell_type"] == "code":
        for output in cell["outputs"]:
            yield _output(output, ids)


def _output(output: Mapping[str, Any], ids: Iterator[int]) -> str:
    kind = output["output_type"]
    if kind == "stream":
        return f"<pre>{html.escape(_text(output['text']))}</pre>"
    if kind == "error":
        said = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(output["traceback"]))
        return f'<pre class="bad">{html.escape(said)}</pre>'
    data = output["data"]
    if "image/svg+xml" in data:
        return f"<figure>{_own_ids(inert(_text(data['image/svg+xml'])), next(ids))}</figure>"
    if "text/html" in data:
        return inert(_text(data["text/html"]))
    return f"<pre>{html.escape(_text(data.get('text/plain', '')))}</pre>"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "".join(value)


def inert(markup: str) -> str:
    """Markup without what runs, and without what points out of the page."""
    before = None
    while before != markup:  # what is left after a removal may be markup again
        before = markup
        markup = _ACTIVE.sub("", markup)
    return _ELSEWHERE.sub("", _HANDLER.sub("", markup))


def _own_ids(svg: str, number: int) -> str:
    """Ids that no other figure of the page has."""
    return _ID.sub(rf"\g<1>f{number}-\g<2>", svg)
