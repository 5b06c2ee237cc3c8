"""Tables in `config/`: whole or not at all, and what is wrong is told without what stands there."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssot.strict_toml import NotStrictTOML, Table, parse, read


class Inner(Table):
    size: int = 1


class Outer(Table):
    inner: Inner = Inner()


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"[inner]\ncolour = 'secret'", "inner.colour: there is no such key"),
        (b"[inner]\nsize = 'secret'", "inner.size: Input should be a valid integer"),
        (b"[inner\nsize = secret", "it is no TOML at line 1, column 7"),
        (b"[inner]\nsize = '\xff'", "it is no TOML"),
        (b"inner = " + b"[" * 100_000, "it is no TOML"),
    ],
)
def test_what_is_wrong_is_named_by_its_place_and_never_by_its_value(raw: bytes, why: str) -> None:
    with pytest.raises(NotStrictTOML) as refused:
        parse(raw, Outer)
    assert str(refused.value) == why
    assert "secret" not in str(refused.value)


def test_no_file_is_none_and_what_is_no_file_is_refused(tmp_path: Path) -> None:
    assert read(tmp_path / "nothing.toml") is None
    (tmp_path / "folder.toml").mkdir()
    (tmp_path / "link.toml").symlink_to("/dev/zero")
    for name in ("folder.toml", "link.toml"):
        with pytest.raises(NotStrictTOML, match="cannot be read"):
            read(tmp_path / name)
