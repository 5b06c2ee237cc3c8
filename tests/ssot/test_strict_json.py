"""Strict JSON: what two parsers could read differently is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ssot.strict_json import MAX_DEPTH, NotStrictJSON, loads

SUITE = Path(__file__).parents[3] / "shared" / "data" / "09_adversarial" / "json_test_suite" / "parsing"


@pytest.mark.parametrize(
    "raw",
    [
        b"NaN", b"[NaN]", b"[Infinity]", b"[-Infinity]", b"[1e999]", b"[-1e999]", b"[9007199254740993]",
        b"[-9007199254740993]", b"[" + b"9" * 5000 + b"]", b'{"a":1,"a":1}', b'{"a":1,"\\u0061":2}',
        b'["\\ud800"]', b'["\\udc00\\ud800"]', b'{"\\ud800":1}', b'["\xff"]', b'["\xed\xa0\x80"]', b"",
        b" ", b"\xef\xbb\xbf{}",
        b"[1,]", b"{'a':1}", b'["a\nb"]', b"[" * 65 + b"]" * 65, b'{"a":' * 65 + b"1" + b"}" * 65, b"[" * 100_000,
        b"{}x", b"\xff\xfe{\x00}\x00", b"[01]", b"[+1]", b"[.5]", b"// x\n{}",
    ],
)  # fmt: skip
def test_refused(raw: bytes) -> None:
    with pytest.raises(NotStrictJSON):
        loads(raw)


def test_taken() -> None:
    assert loads(b"[9007199254740992,-9007199254740992]") == [2**53, -(2**53)]
    assert loads(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
    assert loads(b'["\\ud83d\\ude00", "[[[[", "\\"{"]') == ["😀", "[[[[", '"{']
    assert loads(b'{"a":{"b":1},"c":{"b":1}}') == {"a": {"b": 1}, "c": {"b": 1}}
    assert loads(b"[1.5e300,-0.0,1E2]") == [1.5e300, -0.0, 100.0]
    wide = b"[" + b",".join([b'{"a":[]}'] * 500) + b"]"
    assert len(loads(wide)) == 500


@pytest.mark.skipif(not SUITE.is_dir(), reason="the JSON test suite is not here")
def test_the_json_test_suite_is_read_as_it_should_be() -> None:
    for path in sorted(SUITE.glob("*.json")):
        raw = path.read_bytes()
        try:
            value = loads(raw)
        except NotStrictJSON:
            if path.name.startswith("y_"):
                assert "duplicat" in path.name, path.name  # the one thing that RFC 8259 leaves open and we refuse
        else:
            assert not path.name.startswith("n_"), path.name
            assert value == json.loads(raw), path.name
