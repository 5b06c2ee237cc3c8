"""The document: one byte form, strict at the door, long texts aside, a digest of exactly what was seen."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import orjson
import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.event import Corrupt
from ssot.rules import title_from
from ssot.task import (
    TASK_ID,
    AckBody,
    Criterion,
    Invalid,
    ResultBody,
    Task,
    VerdictBody,
    document_bytes,
    parse_document,
    parse_part,
    review_digest,
)
from ssot.texts import MAX_INLINE_BYTES, externalise, internalise
from tests import builders
from tests.builders import Walk, a_store, walk_to

GOLDEN = Path(__file__).parent / "golden"


def golden_task() -> Task:
    return parse_document((GOLDEN / "task-schema-1.json").read_bytes())


# ------------------------------------------------------------------------------------------ one byte form


def test_schema_1_stays_as_it_is() -> None:
    raw = (GOLDEN / "task-schema-1.json").read_bytes()
    assert document_bytes(parse_document(raw)) == raw


def test_keys_stand_in_the_order_of_the_schema() -> None:
    document = json.loads((GOLDEN / "task-schema-1.json").read_bytes())
    assert list(document) == [
        *("schema", "task_id", "title", "source", "request_text", "acceptance_criteria", "scope", "status", "locked"),
        *("revision", "seq", "created_at", "updated_at", "correlation_id", "origin", "build", "attempts", "metadata"),
    ]
    assert list(document["attempts"][0])[:8] == [
        *("attempt", "dispatch", "ack", "result", "verdict", "approvals", "decision", "ended")
    ]


def test_two_writers_give_the_same_bytes(tmp_path: Path) -> None:
    documents = []
    for name in ("one", "two"):
        walk = walk_to(a_store(tmp_path / name), "T-1", "rejected", metadata={"z": 1, "a": [1.5, None, "ä\u2028"]})
        documents.append(builders.task_path(tmp_path / name, "T-1").read_bytes())
        assert document_bytes(walk.task) == documents[-1]
    assert documents[0] == documents[1]
    assert documents[0].endswith(b"}\n")


@settings(max_examples=60)
@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**53), 2**53)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(st.characters(exclude_categories=["Cs"])),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), inner, max_size=3)
        ),
        max_leaves=10,
    )
)
def test_whatever_metadata_says_comes_back_byte_for_byte(value: Any) -> None:
    task = golden_task().model_copy(update={"metadata": {"value": value}})
    document = document_bytes(task)
    assert document_bytes(parse_document(document)) == document


# ------------------------------------------------------------------------------------------------ the door


def with_field(name: str, value: Any) -> bytes:
    return orjson.dumps({**orjson.loads((GOLDEN / "task-schema-1.json").read_bytes()), name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("schema", 2), ("task_id", "../x"), ("task_id", "a\n"), ("task_id", ""), ("task_id", "x" * 129),
        ("title", "two\nlines"), ("title", 5), ("source", "email"), ("request_text", None), ("status", "done"),
        ("locked", "no"), ("locked", 0), ("revision", 0), ("revision", "1"), ("revision", 1.5), ("seq", 0),
        ("created_at", "2026-01-31"), ("created_at", "2026-01-31T09:00:00+00:00"),
        ("created_at", "2026-02-30T09:00:00Z"),
        ("updated_at", "2026-01-31T09:00:61Z"), ("correlation_id", ""), ("origin", []), ("build", {}),
        ("attempts", [{}]), ("attempts", {}), ("metadata", None), ("surprise", 1),
        ("acceptance_criteria", [{"id": "A", "text": "x"}, {"id": "A", "text": "y"}]),
        ("acceptance_criteria", [{"id": "A"}]), ("acceptance_criteria", [{"id": "A", "text": None}]),
        ("acceptance_criteria", [{"id": "A", "text": "x", "blob": "sha256:" + "0" * 64}]), ("scope", [1]),
    ],
)  # fmt: skip
def test_what_breaks_the_schema_is_refused_with_its_field(name: str, value: Any) -> None:
    with pytest.raises(Invalid) as caught:
        parse_document(with_field(name, value))
    assert name in str(caught.value)


@pytest.mark.parametrize("good", ["A", "a.b_c-D", "0", "x" * 128, "T-1.json"])
def test_a_task_id_may_be(good: str) -> None:
    assert TASK_ID.fullmatch(good)


@pytest.mark.parametrize("bad", ["", ".a", "-a", "_a", "a/b", "a\\b", "a b", "ä", "a\n", "x" * 129, "..", "a\0", "１"])
def test_a_task_id_may_not_be(bad: str) -> None:
    assert not TASK_ID.fullmatch(bad)


@pytest.mark.parametrize("model", [AckBody, ResultBody, VerdictBody])
def test_a_body_is_strict(model: type[Any]) -> None:
    for raw in (b"", b"[]", b"null", b'{"a":1}', b'{"dispatch_id":NaN}', b"\xff", b'{"dispatch_id":1}'):
        with pytest.raises(Invalid):
            parse_part(model, raw)


def test_a_title_is_made_of_the_first_line_that_says_something() -> None:
    assert title_from("\n\n  Hello \x07there \nmore") == "Hello there"
    assert title_from("\n \t\n") == "untitled"
    assert title_from("x" * 500) == "x" * 199 + "…"


# ------------------------------------------------------------------------------------------------ long texts

LONG = "é" * (MAX_INLINE_BYTES // 2) + "!"
FITS = "é" * (MAX_INLINE_BYTES // 2)


def test_a_text_over_32_kib_goes_into_a_blob_and_comes_back() -> None:
    slim, blobs = externalise({"text": LONG, "inner": [{"detail": LONG}], "note": LONG, "metadata": {"text": LONG}})
    digest = hashlib.sha256(LONG.encode()).hexdigest()
    assert blobs == {digest: LONG.encode()}
    assert slim["text"] is None
    assert slim["blob"] == f"sha256:{digest}"
    assert slim["inner"] == [{"detail": None, "blob": f"sha256:{digest}"}]
    assert slim["metadata"] == {"text": LONG}, "what is free is kept as it is"
    back = internalise(slim, lambda name: blobs[name.removeprefix("sha256:")].decode())
    assert (back["text"], back["inner"][0]["detail"]) == (LONG, LONG)
    assert externalise({"text": FITS}) == ({"text": FITS}, {})


def test_long_texts_anywhere_are_put_aside_and_the_detail_puts_them_back(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    walk = Walk(store)
    diff = builders.diff_text() + "".join(
        f"--- a/src/f{n}.py\n+++ b/src/f{n}.py\n@@ -1 +1 @@\n-a\n+b\n" for n in range(900)
    )
    walk.create(request_text="do " + LONG, acceptance_criteria=(Criterion(id="AC-1", text="must " + LONG),))
    walk.dispatch()
    walk.ack()
    operations = (builders.operation(1, detail="log " + LONG),)
    walk.result(summary="sum " + LONG, work_log=operations, diff_snapshot=builders.snapshot(diff))
    walk.verdict("reject", summary="seen " + LONG, issues=(builders.issue(1, text="issue " + LONG),))
    walk.reject(reason="because " + LONG, issues=(builders.issue(2, text="person " + LONG),))
    walk.dispatch()
    assert len(builders.task_path(tmp_path, "T-1").read_bytes()) < 10_000
    detail = json.loads(store.detail("T-1") or b"")
    first, second = detail["attempts"]
    assert detail["request_text"] == "do " + LONG
    assert detail["acceptance_criteria"][0]["text"] == "must " + LONG
    assert first["dispatch"]["acceptance_criteria"][0]["text"] == first["ack"]["echo"][0]["text"] == "must " + LONG
    assert first["result"]["summary"] == "sum " + LONG
    assert first["result"]["work_log"][0]["detail"] == "log " + LONG
    assert first["result"]["diff_snapshot"]["text"] == diff
    assert first["verdict"]["summary"] == "seen " + LONG
    assert first["verdict"]["issues"][0]["text"] == "issue " + LONG
    assert first["decision"]["reason"] == "because " + LONG
    assert [issue["text"] for issue in second["dispatch"]["issues"]] == ["issue " + LONG, "person " + LONG]
    walk.ack()
    walk.result()
    assert all(len(event.line) < 64 * 1024 for event in builders.events(tmp_path))
    for blob in (tmp_path / "ssot" / "blobs").iterdir():
        assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name
    assert a_store(tmp_path).document("T-1") == store.document("T-1")


def test_a_blob_that_was_changed_or_is_missing_is_corrupt(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    Walk(store).create(request_text=LONG)
    (blob,) = (tmp_path / "ssot" / "blobs").iterdir()
    blob.write_bytes(b"something else")
    with pytest.raises(Corrupt, match="was changed"):
        store.detail("T-1")
    blob.unlink()
    with pytest.raises(Corrupt, match="missing"):
        store.detail("T-1")
    blob.mkdir()
    with pytest.raises(Corrupt):
        store.detail("T-1")
    assert store.blobs.load("../../x") is None
    assert store.blobs.load("0" * 64) is None


# ------------------------------------------------------------------------------------------- review_digest


def test_the_review_digest_is_that_of_the_canonical_json_of_what_was_seen(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    walk = walk_to(store, "T-1", "needs_review", request_text='Größe \u2028 \x01 "quoted" / \\ \x7f €')
    document = json.loads(builders.task_path(tmp_path, "T-1").read_bytes())
    attempt = document["attempts"][-1]
    shown = {
        "task_id": "T-1",
        "request_text": document["request_text"],
        "attempt": 1,
        **{part: attempt[part] for part in ("dispatch", "result", "verdict")},
    }
    assert review_digest(walk.task) == "sha256:" + hashlib.sha256(rfc8785.dumps(shown)).hexdigest()
    assert json.loads(store.detail("T-1") or b"")["review_digest"] == review_digest(walk.task)


def test_the_review_digest_names_long_texts_by_their_digest(tmp_path: Path) -> None:
    walk = walk_to(a_store(tmp_path), "T-1", "needs_review", request_text=LONG)
    document = json.loads(builders.task_path(tmp_path, "T-1").read_bytes())
    attempt = document["attempts"][-1]
    shown = {"task_id": "T-1", "request_text": document["blob"], "attempt": 1}
    shown |= {part: attempt[part] for part in ("dispatch", "result", "verdict")}
    assert review_digest(walk.task) == "sha256:" + hashlib.sha256(rfc8785.dumps(shown)).hexdigest()


def test_the_review_digest_of_a_known_document_is_known() -> None:
    assert review_digest(golden_task()) == (GOLDEN / "task-schema-1.review_digest").read_text().strip()


def test_there_is_no_review_digest_before_a_verdict(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    for stage in ("new", "dispatched", "acknowledged", "delivered", "ended"):
        assert review_digest(walk_to(store, f"T-{stage}", stage).task) is None  # type: ignore[arg-type]


def test_any_change_of_what_was_seen_changes_the_review_digest(tmp_path: Path) -> None:
    walk = walk_to(a_store(tmp_path), "T-1", "needs_review")
    task, attempt = walk.task, walk.task.attempts[-1]
    assert attempt.verdict is not None
    assert attempt.result is not None
    others = [
        task.model_copy(update={"task_id": "T-2"}),
        task.model_copy(update={"request_text": "other"}),
        *(
            task.model_copy(update={"attempts": (attempt.model_copy(update=change),)})
            for change in (
                {"attempt": 2},
                {"verdict": attempt.verdict.model_copy(update={"summary": "other"})},
                {"result": attempt.result.model_copy(update={"summary": "other"})},
            )
        ),
    ]
    digests = {review_digest(each) for each in [task, *others]}
    assert len(digests) == len(others) + 1
    same = task.model_copy(update={"title": "other", "metadata": {"a": 1}, "revision": 99})
    assert review_digest(same) == review_digest(task)
