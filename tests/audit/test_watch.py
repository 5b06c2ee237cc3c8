"""The doorbell rings for what changes in a folder."""

from __future__ import annotations

import os
from pathlib import Path

from audit.watch import Doorbell


def test_it_rings_with_the_name_of_what_changed(tmp_path: Path) -> None:
    bell = Doorbell([tmp_path])
    try:
        assert bell.wait(0) == {} or bell.is_polling
        (tmp_path / "a.json").write_text("x")
        names = bell.wait(2).get(tmp_path, set())
        assert names & {"a.json", None}
        (tmp_path / "b").write_text("x")
        bell.wait(0)
        os.rename(tmp_path / "b", tmp_path / "c.json")
        assert bell.wait(2).get(tmp_path, set()) & {"c.json", None}
    finally:
        bell.close()


def test_where_a_folder_cannot_be_watched_all_are_polled(tmp_path: Path) -> None:
    bell = Doorbell([tmp_path, tmp_path / "missing"])
    try:
        assert bell.is_polling
        assert bell.wait(0.01) == {tmp_path: {None}, tmp_path / "missing": {None}}
    finally:
        bell.close()
