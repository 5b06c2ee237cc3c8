"""Which lines of a Markdown text are checklist items: CommonMark's corners."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssot.importers.markdown import MAX_LINES, TooLong, checklist_items, criteria_of, outline


@pytest.mark.parametrize(
    "line", ["- [ ] a", "- [x] a", "- [X] a", "* [ ] a", "+ [x] a", "1. [ ] a", "27) [x] a", "> - [ ] a"]
)
def test_every_kind_of_marker_makes_an_item(line: str) -> None:
    assert checklist_items(line) == ["a"]


@pytest.mark.parametrize(
    "line", ["[ ] a", "- [] a", "- [y] a", "- [ ]", "- [ ]a", "-[ ] a", "- \\[ ] a", "- [x](url) a", "a - [ ] b"]
)
def test_what_only_looks_like_an_item_is_none(line: str) -> None:
    assert checklist_items(line) == []


def test_nested_items_come_in_document_order() -> None:
    text = "- [ ] a\n  - [x] b\n    1. [ ] c\n* [ ] d\n- plain\n\t- [ ] e\n"
    assert checklist_items(text) == ["a", "b", "c", "d", "e"]


@pytest.mark.parametrize(
    "block",
    [
        "```\n- [ ] no\n```",
        "~~~ md\n- [ ] no\n```\n- [ ] no\n~~~",
        "````\n```\n- [ ] no\n````",
        "    - [ ] no",
        "\t- [ ] no",
        "- plain\n\n      - [ ] no\n",
        "- ```\n  - [ ] no\n  ```",
        "> ~~~\n> - [ ] no\n",
        "<!--\n- [ ] no\n-->",
        "<pre>\n- [ ] no\n</pre>",
        "```\n- [ ] no, the fence is never closed",
    ],
)
def test_code_blocks_and_comments_hold_no_items(block: str) -> None:
    assert checklist_items(block) == []


def test_a_fence_inside_an_item_ends_with_the_item() -> None:
    assert checklist_items("- [ ] a\n  ```\n  - [ ] no\n- [x] b\n") == ["a", "b"]


def test_a_fence_in_a_quote_ends_with_the_quote() -> None:
    assert checklist_items("> ```\n> - [ ] no\n\n- [ ] yes\n") == ["yes"]


def test_indented_lines_continue_an_item_and_unindented_ones_do_not() -> None:
    assert checklist_items("- [ ] one\n  two\n   three\n- [ ] four\nSee below.") == ["one two three", "four"]


def test_a_second_paragraph_explains_and_is_not_the_criterion() -> None:
    assert checklist_items("- [ ] a\n\n  because\n- [ ] b") == ["a", "b"]


def test_inline_markup_is_kept_as_written() -> None:
    assert checklist_items("- [ ] `a`  **b** [c](d) &amp;") == ["`a`  **b** [c](d) &amp;"]


def test_carriage_returns_end_lines() -> None:
    assert checklist_items("- [ ] a\r\n- [x] b\r- [ ] c") == ["a", "b", "c"]


def test_headings_know_their_section_and_their_parent() -> None:
    found = outline("# A\n\n## B\n\ntext\n\nC\n---\n\n```\n# no\n```\n# D\n").headings
    assert [(head.text, head.level, head.section_end) for head in found] == [
        ("A", 1, 12),
        ("B", 2, 6),
        ("C", 2, 12),
        ("D", 1, 14),
    ]
    assert [head.parent.text if head.parent else None for head in found] == [None, "A", "A", None]


@pytest.mark.parametrize(
    ("text", "criteria"),
    [
        ("- a\n- b", ["a", "b"]),
        ("1. a\n2. b\n\n---", ["a", "b"]),
        ("- [ ] a\n- b", ["a"]),
        ("Done when:\n- a", ["a"]),
        ("Given: x\nThen:\n- a", ["Given: x Then:", "a"]),
        ("• a\n• b", ["a", "b"]),
        ("just one text, with a comma", ["just one text, with a comma"]),
        ("one\n\n---\n", ["one"]),
        ("  \n", []),
    ],
)
def test_a_free_text_gives_its_criteria(text: str, criteria: list[str]) -> None:
    assert criteria_of(text) == criteria


def test_a_text_of_too_many_lines_is_refused_and_a_checklist_read_up_to_there() -> None:
    text = "- [ ] a\n" * 3 + "\n" * MAX_LINES + "- [ ] b"
    assert checklist_items(text) == ["a"] * 3
    with pytest.raises(TooLong, match="more than"):
        outline(text)


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        ">" * 50 + "[ ] a\n" + "b\n" * 25_000,
        "- > - > - > - > - [ ] x\n" * 25_000,
        "- " * 1_000_000,
        "[a]: <b\n" * 25_000,
        " " * 4_000_000 + "a",
        "- [ ] " + "[ ] " * 1_000_000,
    ],
    ids=["lazy quotes", "deep lists", "bullets", "links", "spaces", "boxes"],
)
def test_hostile_texts_take_seconds_not_for_ever(text: str) -> None:
    started = time.monotonic()
    checklist_items(text)
    assert time.monotonic() - started < 30


@given(st.text(alphabet="-*+[] x1.)>`~#<!\n\t\\a") | st.text())
def test_any_text_can_be_read(text: str) -> None:
    assert all(item.strip() and "\n" not in item for item in checklist_items(text))
    assert all(criterion.strip() for criterion in criteria_of(text))
