"""The generated pages, and that they are what the code says."""

from __future__ import annotations

from pathlib import Path

from audit.event import KINDS
from cli import docs
from cli.scenario import play
from ssot.settings import Settings


def test_the_pages_are_what_the_code_says() -> None:
    assert docs.main(["--check"]) == 0


def test_every_type_of_event_occurs_in_the_scenario_and_every_run_is_the_same(tmp_path: Path) -> None:
    runs = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        runs.append([event.line for event in play(tmp_path / name)])
    assert runs[0] == runs[1]
    assert set(docs.sample_events()) >= set(KINDS)


def test_every_setting_and_command_is_documented() -> None:
    pages = docs.pages()
    assert all(
        f"KIRCERTA_{name.upper()}" in pages["settings.md"]
        for name in Settings.model_fields
        if name != "prefect_api_url"
    )
    assert "## kircerta task" in pages["cli.md"]
    assert "### kircerta task import" in pages["cli.md"]
