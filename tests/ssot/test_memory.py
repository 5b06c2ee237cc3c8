"""What stays in memory takes what it says, and not a buffer many times its size."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ssot.states import stage_of
from ssot.store import Store
from ssot.task import document_bytes
from ssot.view import summary_bytes
from tests.builders import a_store, walk_to

_HEADER = 64
"""Bytes: the head of the object, and what rounds it up."""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = a_store(tmp_path)
    walk_to(store, "T-1", "approved", request_text="Say hello.\n" * 200)
    yield store
    store.close()


def held_by(make: Callable[[], bytes]) -> tuple[int, int]:
    """The length of one of some results that are kept, and how much memory each of them holds."""
    make()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        kept = [make() for _ in range(50)]
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return len(kept[0]), (after - before) // len(kept)


def test_documents_rows_and_details_hold_no_more_than_their_bytes(store: Store) -> None:
    task, document = store.task("T-1"), store.document("T-1") or b""
    makers: dict[str, Callable[[], bytes]] = {
        "document": lambda: document_bytes(task),
        "row": lambda: summary_bytes(task, stage_of(task)),
        "detail": lambda: store.detail_of(document, task),
    }
    held = {name: held_by(make) for name, make in makers.items()}
    assert {name: size for name, (length, size) in held.items() if size > length + _HEADER} == {}
