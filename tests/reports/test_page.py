"""The page of a notebook: nothing in it runs, nothing in it points elsewhere, whatever stood in the outputs."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from reports import figures, tables
from reports.page import inert, page_of
from reports.records import Threshold, with_times
from reports.style import nothing
from tests.reports import data


def notebook(*outputs: dict[str, Any], source: str = "") -> dict[str, Any]:
    shown = [{"output_type": "display_data", "metadata": {}, **output} for output in outputs]
    cells = [{"cell_type": "markdown", "source": source}, {"cell_type": "code", "source": "secret()", "outputs": shown}]
    return {"cells": cells}


def page(*outputs: dict[str, Any], source: str = "") -> str:
    return page_of(notebook(*outputs, source=source), "A title", made_at="now")


@pytest.mark.parametrize(
    "markup",
    [
        "<script>alert(1)</script>",
        "<SCRIPT src='x'>",
        "<scr<script></script>ipt>alert(1)</script>",
        '<img src="https://elsewhere.example/x.png">',
        "<img src=x onerror=alert(1)>",
        '<svg onload="alert(1)"></svg>',
        '<a href="javascript:alert(1)">x</a>',
        '<iframe srcdoc="x"></iframe>',
        '<link rel="stylesheet" href="//elsewhere.example">',
        "<svg><foreignObject><script>alert(1)</script></foreignObject></svg>",
        '<meta http-equiv="refresh" content="0">',
        "<!-- <script> -->",
    ],
)
def test_what_runs_or_points_elsewhere_is_taken_out(markup: str) -> None:
    told = inert(markup).lower()
    for word in ("<script", "alert(1)</", "onerror", "onload", "javascript:", "elsewhere", "<iframe", "<link", "<meta"):
        assert word not in told


def test_inputs_are_hidden_and_prose_cannot_hold_markup() -> None:
    told = page(source="# Title\n\n<b>bold</b> and *so*")
    assert "secret()" not in told
    assert "&lt;b&gt;bold&lt;/b&gt; and <em>so</em>" in told
    assert "<title>A title</title>" in told


def test_text_is_shown_as_text() -> None:
    told = page({"data": {"text/plain": "<script>"}}, {"output_type": "stream", "text": "<i>"})
    assert "<pre>&lt;script&gt;</pre>" in told
    assert "<pre>&lt;i&gt;</pre>" in told


def test_cells_of_a_table_are_text() -> None:
    frame = pd.DataFrame({"who": ["<script>alert(1)</script>", None], "count": [1234567, 3], "p": [0.123456, 12345.6]})
    told = tables.table("<caption>", frame)._repr_mimebundle_()["text/html"]
    assert "<script>" not in told
    assert "&lt;script&gt;" in told
    assert "&lt;caption&gt;" in told
    assert [part in told for part in ("1,234,567", ">0.123<", ">12,346<", "–")] == [True] * 4


def test_figures_of_one_page_do_not_share_ids() -> None:
    chart = {"data": {"image/svg+xml": '<svg><g id="a"/><use href="#a"/><path clip-path="url(#a)"/></svg>'}}
    told = page(chart, chart)
    for number in (1, 2):
        assert f'id="f{number}-a"' in told
        assert f'href="#f{number}-a"' in told
        assert f"url(#f{number}-a)" in told


def test_a_chart_names_itself_for_who_cannot_see_it() -> None:
    chart = nothing("Nothing & more", 'it says "no"')
    assert 'role="img" aria-label="Nothing &amp; more: it says &quot;no&quot;"' in chart.svg
    assert chart.svg == nothing("Nothing & more", 'it says "no"').svg


def test_without_samples_a_chart_says_so() -> None:
    empty = pd.DataFrame({"kind": pd.Series(dtype="str"), "response_ms": [], "intended_us": [], "done_us": []})
    assert "nothing was answered" in figures.percentile_curve(empty).svg
    assert "there are no samples" in figures.over_time(empty).svg
    assert "no read was answered" in figures.heat_map(empty, "read").svg


def test_the_generators_lines_are_the_bounds_that_the_run_was_held_to() -> None:
    found, watched = with_times(data.one_to_a_hundred()), data.watched("generator_cpu", [0.3] * 100)
    gates = tuple(Threshold(expression=one) for one in ("dispatch_lag_p99<=1000", "foreign_cpu<=0.5"))
    free = figures.generator(found, watched).svg
    held = figures.generator(found, watched, gates).svg
    assert "over the red line" not in free
    assert "over the red line" in held
    dotted = "stroke-dasharray: 0.9,1.8"
    assert (free.count(dotted), held.count(dotted)) == (0, 1)


def test_what_is_listed_in_a_cell_reads_as_a_list() -> None:
    told = tables.facts("What ran", {"gates": ["a<=1", "b<=2"], "settings": {"read_auth": False, "most": [1, 2]}})
    shown = told._repr_mimebundle_()["text/html"]
    assert "<td>a&lt;=1, b&lt;=2</td>" in shown
    assert "<td>read_auth: False, most: 1, 2</td>" in shown


def test_verdicts_fail_only_where_something_does() -> None:
    good, bad, open_ = (tables.Verdict("x", "1", ok) for ok in (True, False, None))
    assert tables.Verdicts("t", (good, open_)).ok
    assert not tables.Verdicts("t", (good, bad)).ok
