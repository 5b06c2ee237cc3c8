"""The doorbell rings for what changes in a folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

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


def by_removal(folder: Path) -> None:
    folder.rmdir()


def by_another_name(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))


def with_its_parent(folder: Path) -> None:
    folder.parent.rename(folder.parent.with_name("elsewhere"))


@pytest.mark.parametrize("gone", [by_removal, by_another_name, with_its_parent])
def test_it_rings_again_for_a_folder_that_went_and_came_back(tmp_path: Path, gone: Callable[[Path], None]) -> None:
    """As a checkout does it to a folder whose last file it removes, and brings back later."""
    folder = tmp_path / "parent" / "folder"
    folder.mkdir(parents=True)
    bell = Doorbell([folder])
    try:
        gone(folder)
        assert bell.wait(2)[folder] == {None}
        assert bell.wait(0) == {} or bell.is_polling
        folder.mkdir(parents=True)
        assert bell.wait(2)[folder] == {None}
        (folder / "a.json").write_text("x")
        assert bell.wait(2).get(folder, set()) & {"a.json", None}
    finally:
        bell.close()
